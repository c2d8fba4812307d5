"""Time from a change in the explorer to its new picture, in the kernel and in a browser."""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from medclip_helpers import MedCLIPModel, MedCLIPProcessor, SimilarityExplorer, load_medclip
from medclip_helpers.explorer.page import BARS, MAP, MATRIX, TYPING_PAUSE

TOOLS = Path(__file__).resolve().parents[1]

TEXTS = [f"There is {finding}." for finding in ("edema", "atelectasis", "a mass", "effusion")]


def _film(seed: int, size: int = 1024) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (size // 16, size // 16), np.uint8)
    return Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)


def build(model: str) -> SimilarityExplorer:
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
    explorer, numbers = build(model), itertools.count()

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
    fresh, used, numbers = build("demo"), build("demo"), itertools.count()
    lines = [f"The heart is enlarged by {next(numbers)} mm." for _ in range(seen)]
    # An edit each would draw a thousand pictures first.
    used._embed("text", lines)
    return lambda: {"fresh": _edit(fresh, next(numbers)), "used": _edit(used, next(numbers))}


# Of every edit: milliseconds from its input event until the page with its scores has been painted,
# and the seconds that the kernel says it took. The status is what the kernel sends last.
WATCH = """root => {
    let typed = null, busy = false;
    window.edits = [];
    root.querySelector('textarea').addEventListener('input', () => typed = performance.now(), true);
    new MutationObserver(() => {
        busy ||= root.innerText.includes('encoding');
        const scored = root.innerText.match(/scored in ([0-9.]+) s/);
        if (!busy || !scored || typed === null) return;
        const start = typed;
        [typed, busy] = [null, false];
        requestAnimationFrame(() => setTimeout(
            () => window.edits.push([performance.now() - start, Number(scored[1])])));
    }).observe(root, {subtree: true, childList: true, characterData: true});
}"""


def in_chromium(world: Path, model: str, edits: int):
    """Median seconds for a text that was never seen, without the pause for further typing."""
    sys.path.append(str(TOOLS.parent / "tests"))
    from live_notebook import Notebook, chromium, jupyter, missing

    reasons = {name: missing(name) for name in ("jupyterlab", "notebook")}
    front_end = next((name for name, reason in reasons.items() if reason is None), None)
    if front_end is None:
        raise RuntimeError("; ".join(reasons.values()))
    cells = [
        f"import sys\nsys.path.append({str(TOOLS)!r})\n"
        f"import torch\ntorch.set_num_threads({torch.get_num_threads()})\n"
        f"from benchmarks.explorer import build\nbuild({model!r})"
    ]

    def call():
        with (
            tempfile.TemporaryDirectory() as folder,
            jupyter(Path(folder), cells, front_end) as url,
            chromium(viewport={"width": 1360, "height": 1000}) as page,
        ):
            Notebook(page, url).run_all()
            page.locator(".medclip-pictures img").wait_for()
            root, area = page.locator(".medclip"), page.locator(".medclip textarea")
            root.evaluate(WATCH)
            for number in range(edits + 1):
                area.fill("\n".join([*TEXTS, f"The heart is enlarged by {number} mm."]))
                page.wait_for_function(f"window.edits.length > {number}")
                page.wait_for_timeout(100)
            times = page.evaluate("window.edits")[1:]  # the first warms up
        whole, kernel = (statistics.median(seconds) for seconds in zip(*times, strict=True))
        return {"whole": whole / 1000 - TYPING_PAUSE, "kernel": kernel}

    return call
