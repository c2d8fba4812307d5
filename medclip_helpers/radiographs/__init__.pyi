from .finding import find_radiographs
from .pixels import to_square
from .reading import read_radiograph

__all__ = [
    "find_radiographs",
    "read_radiograph",
    "to_square",
]
