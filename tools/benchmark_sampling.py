r"""Samples per second: this package's dataset beside the published one, on the same table.

Needs published MedCLIP, in an environment of its own (its transformers is too old for this
package's model, which is not used here):

    python3.11 -m venv published
    published/bin/pip install "transformers==4.24.0" "numpy<2" "pandas<2" torch torchvision \
        scikit-learn nltk wget textaugment pydicom tqdm
    published/bin/pip install --no-deps medclip
    PYTHONPATH=. published/bin/python tools/benchmark_sampling.py

Both draw a sentence for each of the same labelled images, from 50,000 labelled sentences (the demo
world's, made distinct), in one process; the images are 8 x 8 pixels, so that reading them costs
little. "sentence" is the draw alone, "sample" a whole item.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from medclip_helpers.data import UnpairedDataset
from medclip_helpers.demo.reports import NORMAL, sentence_table
from medclip_helpers.manifests import LABELS


def write_world(folder: Path, sentences: int, images: int) -> None:
    """The files that the published dataset reads from ./local_data, and nothing else."""
    table = sentence_table(sentences, seed=1)
    # Every eighth says that nothing is wrong: the published dataset fails without such sentences.
    normal = [NORMAL[k % len(NORMAL)] for k in range(len(table.loc[::8]))]
    table.loc[::8, ["Reports", *LABELS]] = [[text, 1, *[np.nan] * 13] for text in normal]
    # Distinct, since the published dataset drops repeats: a case number makes them so.
    table["Reports"] += [f" in case {number}" for number in range(sentences)]
    (folder / "local_data").mkdir()
    table.to_csv(folder / "local_data" / "sentence-label.csv")
    Image.new("L", (8, 8)).save(folder / "image.png")
    rng = np.random.default_rng(0)
    labels = (rng.random((images, len(LABELS))) < 0.15).astype(int)
    labels[:, 0] = labels[:, 1:].sum(1) == 0
    manifest = pd.DataFrame(labels, columns=LABELS)
    manifest.insert(0, "imgpath", str(folder / "image.png"))
    manifest.insert(1, "subject_id", range(images))
    manifest.insert(2, "report", np.nan)  # image-only: sentences come from the table
    manifest.to_csv(folder / "local_data" / "speed-meta.csv")


def rate(call: Callable[[int], object], count: int, seconds: float) -> float:
    """Calls a second, over as many calls as fit in `seconds` (ten at least)."""
    done, start = 0, time.perf_counter()
    while done < 10 or time.perf_counter() - start < seconds:
        call(done % count)
        done += 1
    return done / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sentences", type=int, default=50_000)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each measurement")
    arguments = parser.parse_args()
    with contextlib.redirect_stdout(io.StringIO()):
        from medclip.dataset import ImageTextContrastiveDataset

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        write_world(Path(folder), arguments.sentences, arguments.images)
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            published = ImageTextContrastiveDataset(["speed"])
        built = {"published": time.perf_counter() - start}
        start = time.perf_counter()
        ours = UnpairedDataset(
            pd.read_csv("local_data/speed-meta.csv"), pd.read_csv("local_data/sentence-label.csv")
        )
        built["ours"] = time.perf_counter() - start
        rng = np.random.default_rng(0)
        calls = {
            "sentence": (
                lambda i: published.sample_sent_prompts(published.df.iloc[i]),
                lambda i: ours.sample_text(i, rng),
            ),
            "sample": (published.__getitem__, ours.__getitem__),
        }
        print(f"{arguments.sentences} sentences, {len(ours)} images, {os.cpu_count()} cores")
        print(f"built in {built['published']:.1f} s (published), {built['ours']:.1f} s (ours)")
        for name, (theirs, mine) in calls.items():
            rates = [rate(call, arguments.images, arguments.seconds) for call in (theirs, mine)]
            print(
                f"{name:10s} published {rates[0]:10,.0f} /s   ours {rates[1]:10,.0f} /s   "
                f"{rates[1] / rates[0]:,.0f} times"
            )


if __name__ == "__main__":
    main()
