"""On a GPU: throughput beside the bare backbone, what could make it faster, and peak memory.

Could not be run where it was written. `torch.compile` and `channels_last` are tried here, to see
whether they pay; the package does not use them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
import training
from ours import load_full, read_paths, read_prompts

from medclip_helpers import PromptClassifier, classify_images
from medclip_helpers.prompts import process_class_prompts

GIB = 1 << 30
BATCH = 256
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def _seconds(call: Callable, repeats: int = 10) -> float:
    """Of one call, when it runs many times; the first ones warm up (and compile)."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def _autocast(precision: str):
    dtype = PRECISIONS[precision]
    return torch.autocast("cuda", dtype=dtype, enabled=dtype is not None)


def _peak(call: Callable) -> float:
    """GiB allocated on the GPU at most while `call` runs, weights included."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    call()
    return torch.cuda.max_memory_allocated() / GIB


@torch.no_grad()
def _inference(model, prompt_inputs) -> dict[str, float]:
    classifier, backbone = PromptClassifier(model, batch_size=BATCH), model.vision_model.backbone
    embeds = classifier.encode_prompts(prompt_inputs)
    pixel_values = torch.rand(BATCH, 3, 224, 224, device="cuda")
    found = {}
    for precision in PRECISIONS:
        with _autocast(precision):
            for count, unit in ((1, "ms"), (BATCH, "images/s")):
                some = pixel_values[:count]
                sides = {
                    "ours": lambda some=some: classifier(some, prompt_embeds=embeds),
                    "bare": lambda some=some: backbone(some),
                }
                for side, call in sides.items():
                    seconds = _seconds(call)
                    value = 1000 * seconds if unit == "ms" else count / seconds
                    found[f"batch {count}, {precision}|{unit}|{side}"] = value
                peak = _peak(sides["ours"])
                found[f"batch {count}, {precision}, peak memory|GiB|ours"] = peak
    return found


@torch.no_grad()
def _options(model) -> dict[str, float]:
    """Images/s of the image encoder with what might make it faster, beside the same without."""
    encoder = model.vision_model
    pixel_values = torch.rand(BATCH, 3, 224, 224, device="cuda")
    rates = {}

    def rate(name: str, call: Callable, values=pixel_values, precision: str = "bfloat16") -> None:
        with _autocast(precision):
            rates[f"encoder, {name}|images/s|ours"] = BATCH / _seconds(lambda: call(values))

    rate("bfloat16 AMP", encoder)
    rate("bfloat16 AMP, compiled", torch.compile(encoder))
    last = torch.channels_last
    rate(
        "bfloat16 AMP, channels_last",
        encoder.to(memory_format=last),
        pixel_values.contiguous(memory_format=last),
    )
    encoder.to(memory_format=torch.contiguous_format)
    for name in ("bfloat16", "float16"):
        half = encoder.to(PRECISIONS[name])
        rate(f"{name} weights", half, pixel_values.to(PRECISIONS[name]), precision="float32")
    encoder.float()
    return rates


def _pretraining(world: Path) -> dict[str, float]:
    """The paper's step, 100 images of 224 x 224 and as many sentences."""
    found = {}
    for precision in PRECISIONS:
        settings = {"device": "auto", "precision": precision, "num_workers": os.cpu_count()}
        call = training.step(world, steps=8, batch_size=100, **settings)
        shares = {}
        name = f"pretraining, batch 100, {precision}"
        peak = _peak(lambda call=call, shares=shares: shares.update(call()))
        found[f"{name}, peak memory|GiB|ours"] = peak
        found[f"{name}, step|s|ours"] = shares["seconds"]
        found[f"{name}, outside forward, backward, optimizer|%|ours"] = 100 * shares["outside"]
    return found


def everything(world: Path):
    def call() -> dict[str, float]:
        """{"measure|unit|side": value}; empty without CUDA."""
        if not torch.cuda.is_available():
            return {}
        model, processor = load_full(world)
        model.to("cuda")
        prompts = read_prompts(world)
        prompt_inputs = process_class_prompts(prompts, processor)
        found = _inference(model, prompt_inputs) | _options(model)
        paths = read_paths(world, 512)
        arguments = (model, processor, paths, prompts)
        classify_images(*arguments, progress=False)
        start = time.perf_counter()
        classify_images(*arguments, progress=False)
        found["512 PNG files, float32|images/s|ours"] = 512 / (time.perf_counter() - start)
        del model
        return found | _pretraining(world)

    return call
