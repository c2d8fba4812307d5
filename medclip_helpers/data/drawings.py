"""Drawn chests and written reports as the tables that real studies come in."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from ..constants import CHEXPERT_COMPETITION, CHEXPERT_LABELS
from ..demo import DERIVED_LABELS, draw_phantoms, sample_findings, write_report
from ..processor import MedCLIPProcessor
from .labels import LABELS
from .splits import SPLITS
from .tables import FIRST_COLUMNS

DEMO_SIZES = {"train": 500, "valid": 100, "test": 500}  # drawings
DEMO_STREAM = 10**8  # seeds of drawings, far from those that the demo model was trained on


def draw_demo(sizes: Mapping[str, int], seed: int, progress: bool) -> pd.DataFrame:
    """Drawn chests with one of the five findings each, of people whom the demo model never saw."""
    from PIL import Image

    from ..demo import DERIVED_LABELS, IMAGE_SIZE, draw_phantom, sample_findings, write_report
    from ..processor import MedCLIPImageProcessor

    square = MedCLIPImageProcessor(IMAGE_SIZE).square
    stream = DEMO_STREAM * (seed + 1)
    people = [
        (split, i, stream + DEMO_STREAM // 10 * place + i)
        for place, split in enumerate(SPLITS)
        for i in range(sizes[split])
    ]
    rows = []
    for split, i, person in tqdm(people, desc="drawing", disable=not progress):
        findings = sample_findings(person, CHEXPERT_COMPETITION[i % len(CHEXPERT_COMPETITION)])
        drawn = draw_phantom(person, findings)
        report = ". ".join(sentence.text for sentence in write_report(findings, person))
        image = square(Image.fromarray(drawn.image))
        rows.append([image, f"drawing-{person}", f"{report}.", split, *drawn.labels])
    table = pd.DataFrame(rows, columns=[*FIRST_COLUMNS, *LABELS])
    table[DERIVED_LABELS] = np.nan  # as in the demo model's training
    return table.astype(dict.fromkeys(LABELS, np.float32))


CHUNK = 100  # drawings in memory with their masks


def draw_images(
    count: int, seed: int, processor: MedCLIPProcessor, exclusive: bool = False, progress=True
) -> pd.DataFrame:
    """Drawn chests as a manifest: `imgpath` (PIL, already in the processor's size), 14 labels.

    exclusive: exactly one of the five competition findings each.
    """
    images, labels = [], []
    starts = tqdm(range(0, count, CHUNK), desc="drawing", unit=f"x{CHUNK}", disable=not progress)
    for start in starts:
        chunk = draw_phantoms(min(CHUNK, count - start), seed + start, exclusive=exclusive)
        images += [processor.image_processor.square(Image.fromarray(p.image)) for p in chunk]
        labels += [p.labels for p in chunk]
    table = pd.DataFrame(np.stack(labels), columns=list(CHEXPERT_LABELS))
    table[DERIVED_LABELS] = np.nan
    table.insert(0, "imgpath", images)
    return table


def write_sentences(count: int, seed: int) -> pd.DataFrame:
    """The sentences of `count` reports as a table: `Reports` and the 14 labels."""
    reports = (write_report(sample_findings(seed + i), seed + i) for i in range(count))
    sentences = [(s.text, *s.labels) for report in reports for s in report]
    return pd.DataFrame(sentences, columns=["Reports", *CHEXPERT_LABELS])


def true_classes(images: pd.DataFrame) -> list[str]:
    """The one competition finding of each exclusively drawn image."""
    return images[list(CHEXPERT_COMPETITION)].idxmax(axis=1).tolist()
