"""A new model to train, and its processor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizer

from ..constants import IMAGE_SIZE
from ..model import MedCLIPModel, MedCLIPTextModel, MedCLIPVisionEncoder
from ..processor import MedCLIPImageProcessor, MedCLIPProcessor


def build_model(
    vision: Mapping, text: Mapping | str, tokenizer, image_size: int = IMAGE_SIZE, seed: int = 0
) -> tuple[MedCLIPModel, MedCLIPProcessor]:
    """A new model to train, and its processor.

    vision: arguments of `MedCLIPVisionEncoder`; with `pretrained: True` timm fetches its weights.
    text: fields of a `BertConfig`, or a name or folder whose BERT weights transformers loads, e.g.
        "emilyalsentzer/Bio_ClinicalBERT", the paper's.
    tokenizer: the tokenizer, or a folder with it; None is the published one.
    image_size: side, in pixels, of the images that the model is given.
    seed: of the random weights.

    Errors from timm and transformers, e.g. for an unknown backbone, are passed through.
    """
    if isinstance(tokenizer, (str, Path)):
        tokenizer = BertTokenizer.from_pretrained(tokenizer)
    processor = MedCLIPProcessor(MedCLIPImageProcessor(image_size), tokenizer)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = MedCLIPVisionEncoder(**vision)
        encoder.config.pop("pretrained", None)  # whoever loads this model has its weights
        dim = encoder.config["projection_dim"]
        if isinstance(text, str):
            bert = BertModel.from_pretrained(text)
            text_model = MedCLIPTextModel(bert.config, dim)
            text_model.model = bert
        else:
            fields = {"vocab_size": len(processor.tokenizer), **text}
            text_model = MedCLIPTextModel(BertConfig(**fields), dim)
        return MedCLIPModel(encoder, text_model), processor
