"""Weight files: fetch them, check them, read them, translate their names, fill a module.

Knows no class of this package. Files are written atomically.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
