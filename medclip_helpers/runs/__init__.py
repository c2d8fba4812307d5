"""A notebook's parameters and results, sweeps over many notebooks, and their report."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
