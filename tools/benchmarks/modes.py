"""What precisions and engines give, beside torch in float32: all in one process, taking turns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from ours import read_paths, read_prompts
from timing import medians

from medclip_helpers import PromptClassifier, classify_images, load_medclip
from medclip_helpers.engines import choose_precision
from medclip_helpers.prompts import process_class_prompts


def load_modes(world: Path, encoder: str) -> dict[str, tuple]:
    """{name: model and processor}, "float32" first, of what this machine has."""
    weights = world / f"weights-{encoder}"
    modes: dict[str, dict] = {"float32": {}}
    auto = choose_precision("auto", "cpu")
    for precision in dict.fromkeys(("float32", auto)):
        if precision != "float32":
            modes[precision] = {"precision": precision}
        modes[f"OpenVINO {precision}"] = {"precision": precision, "engine": "openvino"}
    loaded = {name: load_medclip(weights, "cpu", **how) for name, how in modes.items()}
    return {
        name: (model, processor)
        for name, (model, processor) in loaded.items()
        if name == "float32" or model.engine == modes[name].get("engine", "torch")
    }


def one_image(world: Path, encoder: str, batch: int, rounds: int):
    """Classification of ready pixels with ready prompts; "bare" is timm's own forward."""
    modes = load_modes(world, encoder)
    reference, processor = modes["float32"]
    pixel_values = processor(images=read_paths(world, batch))["pixel_values"]
    prompts = process_class_prompts(read_prompts(world), processor)
    colour = pixel_values.expand(-1, 3, -1, -1).contiguous()
    calls: dict[str, Callable] = {"bare": lambda: reference.vision_model.backbone(colour)}
    for name, (model, _) in modes.items():
        classifier = PromptClassifier(model, ensemble=True)
        with torch.inference_mode():
            embeds = classifier.encode_prompts(prompts)
        calls[name] = lambda classifier=classifier, embeds=embeds: classifier(
            pixel_values, prompt_embeds=embeds
        )

    def call() -> dict[str, float]:
        with torch.inference_mode():
            return medians(calls, rounds)

    return call


def many_files(world: Path, count: int, rounds: int):
    """Files to scores, one prompt per class; "bare" is timm in float32 on preloaded pixels."""
    modes = load_modes(world, "vit")
    reference, processor = modes["float32"]
    paths, prompts = read_paths(world, count), read_prompts(world, 1)
    ready = processor(images=paths[:8])["pixel_values"].expand(-1, 3, -1, -1).contiguous()

    def bare() -> None:
        with torch.inference_mode():
            for _ in range(0, count, len(ready)):
                reference.vision_model.backbone(ready)

    calls: dict[str, Callable] = {"bare": bare}
    for name, (model, _) in modes.items():
        calls[name] = lambda model=model: classify_images(
            model, processor, paths, prompts, strict=True, progress=False
        )
    calls["reading alone"] = lambda: processor(images=paths)
    return lambda: medians(calls, rounds)
