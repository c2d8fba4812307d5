from .finding import find_radiographs
from .pixels import to_square
from .reading import open_radiograph, read_radiograph
from .telling import users_line, warn_user

__all__ = [
    "find_radiographs",
    "open_radiograph",
    "read_radiograph",
    "to_square",
    "users_line",
    "warn_user",
]
