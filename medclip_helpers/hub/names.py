"""Published parameter names into this package's, in one place.

The published checkpoints name their tensors after transformers 4's Swin and torchvision's ResNet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# Buffers that follow from the architecture; some versions of transformers save them.
DROPPED = re.compile(r"\.(position_ids|relative_position_index)$")
# Published Swin names (transformers 4) -> timm names, applied in this order.
SWIN_RENAMES = [
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.layers\.(\d)\.", r"layers.\1."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.self\.relative_position_bias_table$", ".attn.relative_position_bias_table"),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
]


def _translate_swin(published: dict[str, Tensor]) -> dict[str, Tensor]:
    translated = {}
    for name, tensor in published.items():
        if match := re.match(r"(encoder\..*\.attention\.self\.)(query|key|value)\.(\w+)$", name):
            prefix, part, kind = match.groups()
            if part != "query":
                continue  # joined below, where query is met
            parts = [f"{prefix}{p}.{kind}" for p in ("query", "key", "value")]
            if any(p not in published for p in parts):
                continue  # reported as missing by the strict load
            name = f"{prefix}qkv.{kind}".replace("attention.self", "attn")
            tensor = torch.cat([published[p] for p in parts])
        for pattern, replacement in SWIN_RENAMES:
            name = re.sub(pattern, replacement, name)
        # A stage's downsampling closes the stage in transformers and opens the next one in timm.
        name = re.sub(
            r"^layers\.(\d)\.downsample\.",
            lambda m: f"layers.{int(m[1]) + 1}.downsample.",
            name,
        )
        translated[f"backbone.{name}"] = tensor
    return translated


def published_encoder(names) -> str | None:
    """Which encoder ("vit" or "resnet") a published checkpoint's names belong to, else None."""
    if any(name.startswith("vision_model.model.encoder.layers.") for name in names):
        return "vit"
    if any(name.startswith("vision_model.model.layer1.") for name in names):
        return "resnet"
    return None


def translate(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published parameter names -> this package's. Anything else passes through unchanged."""
    state_dict = {name: tensor for name, tensor in state_dict.items() if not DROPPED.search(name)}
    kind = published_encoder(state_dict)
    if kind is None:
        return state_dict
    prefix = "vision_model.model."
    vision = {n[len(prefix) :]: t for n, t in state_dict.items() if n.startswith(prefix)}
    rest = {n: t for n, t in state_dict.items() if not n.startswith(prefix)}
    if kind == "vit":
        vision = _translate_swin(vision)
    else:
        vision = {
            "projection_head.weight" if name == "fc.weight" else f"backbone.{name}": tensor
            for name, tensor in vision.items()
        }
    return rest | {f"vision_model.{name}": tensor for name, tensor in vision.items()}
