"""What a precision or an engine costs, compared with torch in float32 on the same machine.

    python tools/measure_precision.py RADIOGRAPHS [--drawings 1000]

RADIOGRAPHS is a file, a folder or a pattern. Stand-in weights of the published shapes score them
against 50 prompts: the largest change of a logit is what the arithmetic does to real pictures in
models of full size. The demo model classifies drawings: there a change of the answer and of AUROC
means something. What is not on this machine is left out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from benchmarks.world import write_weights

from medclip_helpers import find_radiographs, load_medclip
from medclip_helpers.data import draw_images, true_classes
from medclip_helpers.evaluation import accuracy_and_auroc, class_scores, prompt_scores
from medclip_helpers.experiments import TEST_STREAM
from medclip_helpers.prompts import generate_chexpert_class_prompts
from medclip_helpers.similarity import encode_images

PARITY = Path(__file__).parents[1] / "tests" / "parity"
MODES = [
    {"precision": "bfloat16"},
    {"precision": "float16"},
    {"precision": "float32", "engine": "openvino"},
    {"precision": "bfloat16", "engine": "openvino"},
]
AGREEMENT, AUROC = 0.995, 0.002  # what "auto" may cost at most


def scores_of(source, images, device: str, **mode) -> dict[str, np.ndarray] | None:
    """{class: (images, prompts)}; None where the machine does not have the mode in hardware."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # emulated, or not installed
        try:
            model, processor = load_medclip(source, device, **mode)
        except (UserWarning, ValueError) as error:
            print(f"left out: {mode}: {error}", file=sys.stderr)
            return None
    embeds = encode_images(model, processor, images, progress=False)
    return prompt_scores(model, processor, embeds, generate_chexpert_class_prompts(10))


def compare(name: str, source, images, device: str, truth: list[int] | None) -> list[dict]:
    """A row for each mode. truth: the classes of the images, where the model knows them."""
    reference, rows = scores_of(source, images, device), []
    assert reference is not None
    for mode in MODES:
        if (found := scores_of(source, images, device, **mode)) is None:
            continue
        change = max(np.abs(found[c] - reference[c]).max() for c in reference)
        row = {"model": name, "engine": mode.get("engine", "torch"), "images": len(images)}
        row |= {"precision": mode["precision"], "largest change of a logit": change}
        if truth is not None:
            before, after = (class_scores(scores)[0] for scores in (reference, found))
            row["same answer"] = (before.argmax(1) == after.argmax(1)).mean()
            auroc = [accuracy_and_auroc(truth, scores)["auroc"] for scores in (before, after)]
            row["change of AUROC"] = auroc[1] - auroc[0]
            cheap = row["same answer"] >= AGREEMENT and abs(row["change of AUROC"]) <= AUROC
            row["within"] = "yes" if cheap else "NO"
        rows.append(row)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("radiographs")
    parser.add_argument("--drawings", type=int, default=1000, help="default: 1000")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    try:
        radiographs = find_radiographs(options.radiographs)
        _, processor = load_medclip("demo", options.device)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    drawn = draw_images(options.drawings, TEST_STREAM, processor, exclusive=True)
    classes = [*generate_chexpert_class_prompts(10)]
    truth = [classes.index(name) for name in true_classes(drawn)]
    rows = compare("demo, drawings", "demo", [*drawn["imgpath"]], options.device, truth)
    for encoder in ("vit", "resnet"):
        with tempfile.TemporaryDirectory() as folder:
            write_weights(Path(folder), PARITY, encoder)
            name = f"{encoder}, stand-in weights"
            rows += compare(name, folder, radiographs, options.device, None)
    print(pd.DataFrame(rows).to_string(index=False, na_rep="", float_format="{:.5f}".format))
    return int("NO" in {row.get("within") for row in rows})


if __name__ == "__main__":
    sys.exit(main())
