"""MedCLIP for today's Colab: model, loss, plots and a demo world. For research use only.

>>> from medclip_helpers import load_medclip
>>> model, processor = load_medclip("demo")
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
