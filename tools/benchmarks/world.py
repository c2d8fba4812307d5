"""What both sides read: weights, images, prompts and manifests, the same for all.

    python world.py FOLDER PARITY [ENCODER ...]

What is complete is left as it is. PARITY is the folder with `weights.py`, `vocab.txt` and for each
ENCODER ("vit", "resnet") its spec: stand-ins for the published weights, in the published format.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from medclip_helpers.data import LABELS
from medclip_helpers.demo import draw_phantoms, sentence_table
from medclip_helpers.demo.reports import NORMAL
from medclip_helpers.prompts import generate_chexpert_class_prompts

FILES, SIDE = 32, 1024  # drawn images and their width in pixels, as in the NIH set
SENTENCES, STUDIES = 50_000, 500


def write_weights(folder: Path, parity: Path, encoder: str) -> None:
    sys.path.insert(0, str(parity))
    from weights import state_dict_from_spec

    spec = json.loads((parity / f"spec-{encoder}.json").read_text())
    torch.save(state_dict_from_spec(spec), folder / "pytorch_model.bin")
    shutil.copy(parity / "vocab.txt", folder)


def write_images(folder: Path) -> None:
    (folder / "images").mkdir()
    for i, phantom in enumerate(draw_phantoms(FILES, size=SIDE)):
        Image.fromarray(phantom.image).save(folder / "images" / f"{i:02}.png")
    Image.new("L", (8, 8)).save(folder / "dot.png")


def write_texts(folder: Path) -> None:
    prompts = generate_chexpert_class_prompts(10)
    (folder / "prompts.json").write_text(json.dumps(prompts))
    texts = sentence_table(1000, seed=2)["Reports"].tolist()
    (folder / "texts.json").write_text(json.dumps(texts))


def write_manifests(folder: Path) -> None:
    """The files that the published dataset reads from ./local_data, and nothing else."""
    table = sentence_table(SENTENCES, seed=1)
    # Every eighth says that nothing is wrong: the published dataset fails without such sentences.
    normal = [NORMAL[k % len(NORMAL)] for k in range(len(table.loc[::8]))]
    table.loc[::8, ["Reports", *LABELS]] = [[text, 1, *[np.nan] * 13] for text in normal]
    # Distinct, since the published dataset drops repeats: a case number makes them so.
    table["Reports"] += [f" in case {number}" for number in range(SENTENCES)]
    local = folder / "local_data"
    local.mkdir()
    table.to_csv(local / "sentence-label.csv")
    labels = (np.random.default_rng(0).random((STUDIES, len(LABELS))) < 0.15).astype(int)
    labels[:, 0] = labels[:, 1:].sum(1) == 0
    manifest = pd.DataFrame(labels, columns=LABELS)
    manifest.insert(0, "imgpath", str(folder / "dot.png"))
    manifest.insert(1, "subject_id", range(STUDIES))
    manifest.insert(2, "report", np.nan)  # image-only: sentences come from the table
    manifest.to_csv(local / "dots-meta.csv")
    files = sorted(str(path) for path in (folder / "images").iterdir())
    manifest["imgpath"] = [files[i % len(files)] for i in range(STUDIES)]
    manifest.to_csv(local / "images-meta.csv")


def write_data(folder: Path) -> None:
    write_images(folder)
    write_texts(folder)
    write_manifests(folder)


@contextmanager
def once(folder: Path) -> Iterator[bool]:
    """Whether `folder` is to be filled; it is marked as complete afterwards."""
    missing = not (folder / "complete").is_file()
    if missing:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    yield missing
    (folder / "complete").touch()


def main() -> None:
    folder, parity, *encoders = map(Path, sys.argv[1:])
    with once(folder) as missing:
        if missing:
            write_data(folder)
    for encoder in map(str, encoders):
        with once(folder / f"weights-{encoder}") as missing:
            if missing:
                write_weights(folder / f"weights-{encoder}", parity, encoder)


if __name__ == "__main__":
    main()
