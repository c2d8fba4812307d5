"""The timm backbone alone on preloaded tensors, in float32 whatever precision is asked for."""

from __future__ import annotations

from pathlib import Path

import timm
import torch

from medclip_helpers.processor import CPU_BATCH_SIZE


def _forward(batch: int):
    backbone = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0).eval()
    pixel_values = torch.rand(batch, 3, 224, 224)
    return torch.inference_mode()(lambda: backbone(pixel_values))


def one_image(world: Path, precision: str):
    return _forward(1)


def files(world: Path, count: int, prompts: int, precision: str):
    forward = _forward(CPU_BATCH_SIZE)
    return lambda: [forward() for _ in range(0, count, CPU_BATCH_SIZE)]
