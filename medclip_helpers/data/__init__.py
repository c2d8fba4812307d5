"""Studies and sentences as tables, the data sets that people download, and what training reads."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
