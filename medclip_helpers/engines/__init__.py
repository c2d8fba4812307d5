"""How an encoder computes: in which precision, and with which library. Works on any module."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
