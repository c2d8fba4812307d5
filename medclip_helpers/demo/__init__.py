"""A small world to run everything in: drawn radiographs, written reports, a model's checkpoint.

Nothing here comes from a patient, and nothing that the demo model says is about one.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
