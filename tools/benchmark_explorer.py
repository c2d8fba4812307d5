"""Time from a change in the explorer to its new picture, without the browser.

    python tools/benchmark_explorer.py demo
    python tools/benchmark_explorer.py full --threads 2

"full" is the published shape, Swin-T and BERT-base, with random weights and the demo tokenizer:
times do not depend on the values. Typing adds the explorer's pause (`TYPING_PAUSE`) to every text
edit; a browser adds its own drawing. Prints the fastest, the median and the slowest in seconds;
asserts nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from io import BytesIO

import numpy as np
import torch
from PIL import Image

from medclip_helpers import MedCLIPModel, MedCLIPProcessor, SimilarityExplorer, load_medclip
from medclip_helpers.explorer import BARS, MAP, MATRIX, TYPING_PAUSE

PRESETS = {
    "five": [f"There is {finding}." for finding in ("edema", "atelectasis", "a mass", "effusion")]
    + ["The heart is enlarged and there is a small pleural effusion on the left."]
}


def film(seed: int, size: int = 1024) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (size // 16, size // 16), np.uint8)
    return Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)


def upload(explorer: SimilarityExplorer, seed: int) -> float:
    file = BytesIO()
    film(seed).save(file, format="PNG", compress_level=1)
    content = {f"{seed}.png": {"metadata": {}, "content": file.getvalue()}}
    start = time.perf_counter()
    explorer._uploaded({"new": content})
    return time.perf_counter() - start


def change(explorer: SimilarityExplorer, control: str, value) -> float:
    start = time.perf_counter()
    getattr(explorer, control).value = value
    return time.perf_counter() - start


def measure(explorer: SimilarityExplorer, repeats: int) -> dict[str, list[float]]:
    lines = explorer.texts.value
    times = {
        "one text edited": [change(explorer, "texts", f"{lines} {i}") for i in range(repeats)],
        "five new texts": [
            change(explorer, "texts", "\n".join(f"{line} {i}" for line in lines.splitlines()))
            for i in range(100, 100 + repeats)
        ],
        "known text removed or back": [
            change(explorer, "texts", lines if i % 2 else lines.rsplit("\n", 1)[0])
            for i in range(repeats)
        ],
        "1024 x 1024 PNG uploaded": [upload(explorer, i) for i in range(repeats)],
    }
    explorer.view.value = MAP
    times["map of another text"] = [
        change(explorer, "map_text", text) for text in explorer.map_text.options[1:]
    ]
    explorer.view.value = MATRIX
    explorer.view.value = BARS
    times[f"matrix of {len(explorer.image.options)} images, all known"] = [
        change(explorer, "view", MATRIX if i % 2 == 0 else BARS) for i in range(2 * repeats)
    ][::2]
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=["demo", "full"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, processor = load_medclip("demo", device="cpu")
    if options.model == "full":
        model = MedCLIPModel().eval()
        processor = MedCLIPProcessor(tokenizer=processor.tokenizer)
    explorer = SimilarityExplorer(
        model, processor, images=[film(1000 + i) for i in range(4)], presets=PRESETS
    )
    print(f"{options.model} model, {options.threads} CPU threads")
    print("fastest, median and slowest in seconds")
    print(f"typing adds a pause of {TYPING_PAUSE} s")
    for name, seconds in measure(explorer, options.repeats).items():
        print(f"{name:45} {min(seconds):.3f} {statistics.median(seconds):.3f} {max(seconds):.3f}")


if __name__ == "__main__":
    main()
