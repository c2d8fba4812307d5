"""Pretraining with `transformers.Trainer`, run files, checkpoints on disk, heads to fine-tune."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
