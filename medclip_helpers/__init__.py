"""MedCLIP for today's Colab: model, loss, plots and a demo world. For research use only.

>>> from medclip_helpers import load_medclip
>>> model, processor = load_medclip("demo")
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

# Public name -> the module it lives in. Loaded when first used, so that `import medclip_helpers`
# costs nothing and a reader of images never pays for matplotlib or a training loop.
_HOMES = {
    "MedCLIPModel": "model",
    "MedCLIPOutput": "model",
    "MedCLIPTextModel": "model",
    "MedCLIPVisionEncoder": "model",
    "MedCLIPVisionModel": "model",
    "MedCLIPVisionModelViT": "model",
    "MedCLIPProcessor": "processor",
    "load_medclip": "checkpoints",
    "PromptClassifier": "classifier",
    "classify_images": "classifier",
    "SuperviseClassifier": "finetuning",
    "PromptTuningClassifier": "finetuning",
    "find_radiographs": "radiograph",
    "read_radiograph": "radiograph",
    "ImageSuperviseLoss": "losses",
    "ImageTextContrastiveLoss": "losses",
    "info_nce_loss": "losses",
    "label_similarity": "losses",
    "semantic_contrastive_loss": "losses",
    "semantic_matching_loss": "losses",
    "similarity_map": "similarity",
    "SimilarityExplorer": "explorer",
    "visualize_image_text_similarity": "plotting",
}

__all__ = sorted(_HOMES)  # noqa: PLE0604 (names are served by __getattr__)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
