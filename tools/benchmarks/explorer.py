"""Time from a change in the explorer to its new picture, without the browser.

Typing adds the explorer's pause (`TYPING_PAUSE`) to every text edit; a browser its own drawing.
"""

from __future__ import annotations

import itertools
import statistics
import time
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from medclip_helpers import MedCLIPModel, MedCLIPProcessor, SimilarityExplorer, load_medclip
from medclip_helpers.explorer.page import BARS, MAP, MATRIX

TEXTS = [f"There is {finding}." for finding in ("edema", "atelectasis", "a mass", "effusion")]


def _film(seed: int, size: int = 1024) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (size // 16, size // 16), np.uint8)
    return Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)


def _build(model: str) -> SimilarityExplorer:
    medclip, processor = load_medclip("demo", device="cpu")
    if model == "full":  # random weights: times do not depend on the values
        medclip, processor = MedCLIPModel().eval(), MedCLIPProcessor(tokenizer=processor.tokenizer)
    films = [_film(1000 + i) for i in range(4)]
    return SimilarityExplorer(medclip, processor, images=films, presets={"four": TEXTS})


def _change(explorer: SimilarityExplorer, control: str, value) -> float:
    start = time.perf_counter()
    getattr(explorer, control).value = value
    return time.perf_counter() - start


def _edit(explorer: SimilarityExplorer, number: int) -> float:
    """Seconds until a text that was never seen is drawn, beside four that were."""
    text = f"The heart is enlarged by {number} mm."
    return _change(explorer, "texts", "\n".join([*TEXTS, text]))


def _upload(explorer: SimilarityExplorer, seed: int) -> float:
    file = BytesIO()
    _film(seed).save(file, format="PNG", compress_level=1)
    content = {f"{seed}.png": {"metadata": {}, "content": file.getvalue()}}
    start = time.perf_counter()
    explorer._uploaded({"new": content})
    return time.perf_counter() - start


def changes(world: Path, model: str, repeats: int):
    """Medians in seconds, by kind of change."""
    explorer, numbers = _build(model), itertools.count()

    def call():
        explorer.view.value = BARS
        times = {
            "one text edited": [_edit(explorer, next(numbers)) for _ in range(repeats)],
            "1024 x 1024 PNG uploaded": [_upload(explorer, i) for i in range(repeats)],
        }
        explorer.view.value = MAP
        names = explorer.map_text.options[1:]
        times["map of another text"] = [_change(explorer, "map_text", name) for name in names]
        explorer.view.value = MATRIX  # its first picture encodes what is new
        times["matrix of all images"] = []
        for _ in range(repeats):
            explorer.view.value = BARS
            times["matrix of all images"].append(_change(explorer, "view", MATRIX))
        return {name: statistics.median(seconds) for name, seconds in times.items()}

    return call


def growth(world: Path, seen: int):
    """Seconds for a new text, in an explorer that saw `seen` texts before, and in one that did not.

    The demo model: the explorer is the same.
    """
    fresh, used, numbers = _build("demo"), _build("demo"), itertools.count()
    lines = [f"The heart is enlarged by {next(numbers)} mm." for _ in range(seen)]
    # An edit each would draw a thousand pictures first.
    used._embed(used._text_cache, used._encode_texts, lines, "text")
    return lambda: {"fresh": _edit(fresh, next(numbers)), "used": _edit(used, next(numbers))}
