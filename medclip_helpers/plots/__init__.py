"""Figures of images, texts and the scores between them; each function returns a `Figure`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
