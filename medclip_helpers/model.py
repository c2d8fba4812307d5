"""The MedCLIP model: a timm vision encoder and a BERT text encoder meet in one embedding space.

Source: Wang, Wu, Agarwal, Sun, "MedCLIP: Contrastive Learning from Unpaired Medical Images and
Text", EMNLP 2022. Vision comes from timm and text from transformers; this file is what is
MedCLIP's own: two projections, one pooling and one temperature.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel
from transformers.utils import ModelOutput

from .constants import UNTRAINED_NOTE, VOCABULARY_SIZE
from .engines import PRECISIONS, reduced_precision
from .hub import (
    FORMAT,
    PUBLISHED,
    check_format,
    fetch_weights,
    fill_weights,
    write_safetensors,
    write_text,
)
from .losses import info_nce_loss

# The published model keeps exp(logit_scale) in [1, 100], as CLIP does (Radford et al. 2021,
# section 2.5).
MAX_LOGIT_SCALE = math.log(100.0)
# Output names of the published package -> the field's names, which this package uses.
PUBLISHED_OUTPUT_NAMES = {
    "img_embeds": "image_embeds",
    "logits": "logits_per_image",
    "loss_value": "loss",
}


@dataclass
class MedCLIPOutput(ModelOutput):
    """What `MedCLIPModel` returns; `out.name` and `out["name"]` read the same tensor.

    loss: scalar, symmetric InfoNCE; None unless `return_loss=True`.
    logits_per_image: (images, texts), cosine similarity times `exp(logit_scale)`.
    logits_per_text: (texts, images), its transpose.
    image_embeds: (images, dim), unit length.
    text_embeds: (texts, dim), unit length.

    The published package's names `loss_value`, `logits` and `img_embeds` stay readable.
    """

    loss: Tensor | None = None
    logits_per_image: Tensor | None = None
    logits_per_text: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None

    def __getitem__(self, key):
        # a number or a slice is a place, as in every ModelOutput
        name = PUBLISHED_OUTPUT_NAMES.get(key, key) if isinstance(key, str) else key
        return super().__getitem__(name)

    def __contains__(self, key):
        return super().__contains__(PUBLISHED_OUTPUT_NAMES.get(key, key))

    def __getattr__(self, name):
        if name in PUBLISHED_OUTPUT_NAMES:
            return getattr(self, PUBLISHED_OUTPUT_NAMES[name])
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def get(self, key, default=None):
        return super().get(PUBLISHED_OUTPUT_NAMES.get(key, key), default)


class MedCLIPVisionEncoder(nn.Module):
    """Any timm backbone and a projection without bias.

    backbone: a timm model name, e.g. "swin_tiny_patch4_window7_224".
    projection_dim: size of the joint space.
    backbone_kwargs: passed on to `timm.create_model`.

    Weights are random; `MedCLIPModel.from_pretrained` or `load_medclip` fill them.
    """

    backbone: Any  # of timm
    config: dict[str, Any]

    def __init__(
        self,
        backbone: str = "swin_tiny_patch4_window7_224",
        projection_dim: int = 512,
        **backbone_kwargs,
    ):
        super().__init__()
        self.config = {"backbone": backbone, "projection_dim": projection_dim, **backbone_kwargs}
        self.backbone = timm.create_model(backbone, num_classes=0, **backbone_kwargs)
        # Some backbones pool to a width other than their feature map's.
        width = getattr(self.backbone, "head_hidden_size", None) or self.backbone.num_features
        pool: Any = getattr(self.backbone, "global_pool", None)
        if width == self.backbone.num_features and hasattr(pool, "feat_mult"):
            width *= pool.feat_mult()  # 2 where mean and maximum are joined
        self.projection_head = nn.Linear(width, projection_dim, bias=False)

    @property
    def channels_last(self) -> bool:
        """Whether the backbone's own feature map is (images, h, w, features), as timm's Swin's."""
        return getattr(self.backbone, "output_fmt", "NCHW") == "NHWC"

    def _to_input_channels(self, pixel_values: Tensor) -> Tensor:
        if pixel_values.dim() != 4 or pixel_values.shape[1] not in (1, 3):
            raise ValueError(
                "pixel_values must have shape (images, 1 or 3, height, width), "
                f"got {tuple(pixel_values.shape)}"
            )
        channels = self.config.get("in_chans", 3)
        if pixel_values.shape[1] == channels:
            return pixel_values
        if channels == 1:
            return pixel_values.mean(1, keepdim=True)
        return pixel_values.expand(-1, channels, -1, -1)

    def forward_features(self, pixel_values: Tensor) -> Tensor:
        """The last feature map, (images, features, h, w), whose mean over positions is projected.

        pixel_values: (images, 1 or 3, height, width).
        """
        features = self.backbone.forward_features(self._to_input_channels(pixel_values))
        if features.dim() != 4:
            raise ValueError(
                f"backbone {self.config['backbone']!r} ends in shape {tuple(features.shape)}, "
                "not in a map (images, features, h, w): it has no positions to show"
            )
        return features.permute(0, 3, 1, 2) if self.channels_last else features

    def forward(self, pixel_values: Tensor, project: bool = True) -> Tensor:
        """(images, 1 or 3, height, width) -> (images, projection_dim), not normalised.

        project: False gives the backbone's pooled features (images, features) instead.
        """
        features = self.backbone(self._to_input_channels(pixel_values))
        return self.projection_head(features) if project else features


class MedCLIPVisionModelViT(MedCLIPVisionEncoder):
    """The published Swin-T encoder (the paper's "MedCLIP-ViT")."""

    def __init__(self, projection_dim: int = 512):
        super().__init__("swin_tiny_patch4_window7_224", projection_dim)


class MedCLIPVisionModel(MedCLIPVisionEncoder):
    """The published ResNet-50 encoder (the paper's "MedCLIP-ResNet").

    Keep it in `eval()` for inference: in train mode batch normalisation makes an image's embedding
    depend on its neighbours in the batch.
    """

    def __init__(self, projection_dim: int = 512):
        super().__init__("resnet50", projection_dim)


class MedCLIPTextModel(nn.Module):
    """BERT, MedCLIP's pooling and a projection without bias.

    config: a `BertConfig`; by default BERT-base with the 28,996 word pieces of Bio_ClinicalBERT,
        the published shape.

    The pooling is the published one: the mean of hidden states 1, 2 and the last over *all*
    positions, padding included. A text's embedding therefore depends on how far its batch is
    padded; the published weights were trained that way.
    """

    config: BertConfig

    def __init__(self, config: BertConfig | None = None, projection_dim: int = 512):
        super().__init__()
        self.config = config or BertConfig(vocab_size=VOCABULARY_SIZE)
        self.model = BertModel(self.config)
        self.projection_head = nn.Linear(self.config.hidden_size, projection_dim, bias=False)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """(texts, tokens) integers and mask -> (texts, projection_dim), not normalised.

        inputs_embeds: (texts, tokens, hidden) word embeddings, instead of `input_ids`.
        """
        hidden = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            output_hidden_states=True,
        ).hidden_states
        pooled = torch.stack([hidden[1], hidden[2], hidden[-1]]).mean(dim=(0, 2))
        return self.projection_head(pooled)


def _without_network(vision: Mapping) -> dict:
    """The settings of an encoder that is filled from a file: timm must not fetch anything."""
    if ":" in vision["backbone"]:
        raise ValueError(f"backbone is {vision['backbone']!r}, expected a timm model name")
    return {**vision, "pretrained": False}


class MedCLIPModel(nn.Module):
    """Image and text encoders with a learned temperature.

    vision_cls: class of the vision encoder, built without arguments (`MedCLIPVisionModelViT` or
        `MedCLIPVisionModel`), or an encoder instance.
    text_model: a text encoder instance; by default `MedCLIPTextModel()`.
    logit_scale_init_value: initial temperature; `logit_scale` holds the logarithm of its inverse.

    `note` says what the weights are; it is saved with them and shown where their output is shown.
    `precision` is what the encoders compute in while the model is in eval mode, one of
    `engines.PRECISIONS`; the weights stay in float32. `engine` is what computes them, of
    `engines.ENGINES`, and `compiled_from` says of which weights, where that is not torch.

    >>> model = MedCLIPModel(vision_cls=MedCLIPVisionModelViT).from_pretrained().eval()
    """

    def __init__(
        self,
        vision_cls: type[MedCLIPVisionEncoder] | MedCLIPVisionEncoder = MedCLIPVisionModelViT,
        text_model: MedCLIPTextModel | None = None,
        logit_scale_init_value: float = 0.07,
    ):
        super().__init__()
        self.vision_model = vision_cls() if isinstance(vision_cls, type) else vision_cls
        self.text_model = text_model or MedCLIPTextModel()
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / logit_scale_init_value)))
        self.note = UNTRAINED_NOTE
        self.engine = "torch"
        self.precision = "float32"
        self.compiled_from: dict[str, Any] | None = None

    @property
    def precision(self) -> str:
        return self._precision

    @precision.setter
    def precision(self, precision: str) -> None:
        if self.engine != "torch":
            raise ValueError(
                f"{self.engine} computes this model in {self.precision}: for another precision "
                "load it again"
            )
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}, expected one of {[*PRECISIONS]}")
        self._precision = precision

    @property
    def device(self) -> torch.device:
        return self.logit_scale.device

    def autocast(self) -> AbstractContextManager:
        """Inside, the encoders compute in `precision`; in train mode, as the caller has set."""
        return nullcontext() if self.training else reduced_precision(self.precision, self.device)

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """(images, 1 or 3, height, width), on any device -> (images, dim), unit length, float32."""
        pixel_values = pixel_values.to(self.logit_scale)  # the model may be in half precision
        with self.autocast():
            embeds = self.vision_model(pixel_values)
        return F.normalize(embeds.float(), dim=-1)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(texts, tokens), on any device -> (texts, dim), unit length, float32.

        Raises ValueError for word pieces beyond the model's vocabulary.
        """
        known = self.text_model.config.vocab_size
        # checked before it moves: on a GPU an unknown number would end the process
        on_cpu = input_ids.device.type == "cpu" and input_ids.numel()
        if on_cpu and (highest := input_ids.max().item()) >= known:
            raise ValueError(
                f"input_ids reach {highest}, but this model knows {known} word pieces: were the "
                "texts prepared by another model's processor or tokenizer?"
            )
        if attention_mask is not None:
            attention_mask = attention_mask.to(self.device)
        with self.autocast():
            embeds = self.text_model(input_ids.to(self.device), attention_mask)
        return F.normalize(embeds.float(), dim=-1)

    def compute_logits(self, image_embeds: Tensor, text_embeds: Tensor) -> Tensor:
        """Scaled cosine similarity: (images, dim), (texts, dim), unit length -> (images, texts).

        In float32, under autocast too: the temperature makes a small error a hundred times larger.
        """
        with torch.autocast(image_embeds.device.type, enabled=False):
            scale = self.logit_scale.float().clamp(0, MAX_LOGIT_SCALE).exp()
            return scale * image_embeds.float() @ text_embeds.float().T

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        return_loss: bool | None = None,
        **unused,
    ) -> MedCLIPOutput:
        """Embed images and texts and compare all with all.

        input_ids, attention_mask: (texts, tokens). pixel_values: (images, 1 or 3, height, width).
        return_loss: also compute InfoNCE, which takes image i and text i as a pair; `ValueError`
            from the loss if their numbers differ.
        unused: further keys of a processor's output (token_type_ids) are accepted and ignored.
        """
        image_embeds = self.encode_image(pixel_values)
        text_embeds = self.encode_text(input_ids, attention_mask)
        logits_per_image = self.compute_logits(image_embeds, text_embeds)
        return MedCLIPOutput(
            loss=info_nce_loss(logits_per_image) if return_loss else None,
            logits_per_image=logits_per_image,
            logits_per_text=logits_per_image.T,
            image_embeds=image_embeds,
            text_embeds=text_embeds,
        )

    def from_pretrained(self, input_dir: str | Path | None = None) -> MedCLIPModel:
        """Fill this model's weights in place, put it in eval mode and return it.

        input_dir: a folder, `.bin`, `.safetensors` or `.zip` file; None downloads (once) the
            published weights for this model's vision encoder.

        Raises ValueError if the checkpoint does not fit, listing every name that is missing, left
        over or of another shape.
        """
        if input_dir is None:
            backbone = self.vision_model.config["backbone"]
            kind = next((k for k, known in PUBLISHED.items() if known.backbone == backbone), None)
            if kind is None:
                raise ValueError(
                    f"no published weights for backbone {backbone!r}: give a folder, or use "
                    "vision_cls=MedCLIPVisionModelViT or MedCLIPVisionModel"
                )
            input_dir = fetch_weights(kind)
        fill_weights(self, input_dir)
        return self

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write `model.safetensors` and `config.json`, which `load_medclip(folder)` reads.

        The processor is saved next to them by its own `save_pretrained(folder)`; without it the
        folder is refused. (`torch.save(model)` fails once a text has been encoded: transformers
        leaves hooks in its modules that cannot be pickled; `model.state_dict()` can be saved.)

        dtype: store floating-point weights in this type (they are loaded as float32).
        """
        tensors = {
            name: tensor.to(dtype if dtype and tensor.is_floating_point() else tensor.dtype)
            for name, tensor in self.state_dict().items()
        }
        write_safetensors(tensors, Path(folder) / "model.safetensors")
        config = {
            "format": FORMAT,
            "note": self.note,
            "vision": self.vision_model.config,
            "text": self.text_model.config.to_diff_dict(),
        }
        write_text(Path(folder) / "config.json", json.dumps(config, indent=2))

    @classmethod
    def from_config(cls, config: dict, where: object = "config.json") -> MedCLIPModel:
        """A model with random weights, of the shape that `save_pretrained` wrote down.

        where: what an error calls the config.

        Raises ValueError for a config of a newer format, or one that does not describe a model.
        """
        check_format(config, where)
        try:
            vision = MedCLIPVisionEncoder(**_without_network(config["vision"]))
            bert = BertConfig(**config["text"])
            model = cls(vision, MedCLIPTextModel(bert, config["vision"]["projection_dim"]))
        except Exception as error:  # timm and transformers raise many kinds for an unknown setting
            raise ValueError(f"{where} does not describe a model: {error!r}") from error
        model.note = config.get("note", model.note)
        return model
