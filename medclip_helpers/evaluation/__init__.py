"""Metrics with intervals, the zero-shot protocol, the pointing game, what the paper reports."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
