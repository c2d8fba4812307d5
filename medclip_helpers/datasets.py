"""Data sets as people download them, in the manifest form of `manifests`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from .constants import CHEXPERT_COMPETITION
from .manifests import LABELS

SPLITS = ("train", "valid", "test")
DEMO_SIZES = {"train": 500, "valid": 100, "test": 500}  # drawings


class DataSet(NamedTuple):
    """What is known of a data set before it is read.

    layout: the expected folders, a short text tree. classes: label columns that a zero-shot
    evaluation tells apart. mode: as `evaluate_classification` has it; "multiclass" has exactly one
    of classes present in each row, "binary" names the negative class first. prompts: preset of
    `load_class_prompts`. source: where to get it, and its licence.
    """

    layout: str
    classes: tuple[str, ...]
    mode: str
    prompts: str
    source: str


_FIVE = (tuple(CHEXPERT_COMPETITION), "chexpert")
DATASETS: dict[str, DataSet] = {
    "chexpert": DataSet("", _FIVE[0], "multilabel", "chexpert", ""),
    "chexpert-5x200": DataSet("", _FIVE[0], "multiclass", "chexpert", ""),
    "mimic-cxr": DataSet("", _FIVE[0], "multilabel", "chexpert", ""),
    "mimic-5x200": DataSet("", _FIVE[0], "multiclass", "chexpert", ""),
    "rsna": DataSet("", ("Normal", "Pneumonia"), "binary", "rsna", ""),
    "covid": DataSet("", ("Normal", "COVID-19"), "binary", "covid", ""),
    "openi": DataSet("", _FIVE[0], "multilabel", "chexpert", ""),
    "demo": DataSet("", _FIVE[0], "multiclass", "chexpert", ""),
}


def build_manifest(
    name: str,
    root: str | Path | None = None,
    *,
    recipe: str = "stratified",
    seed: int = 0,
    test_per_class: int | None = None,
    sizes: dict[str, int] = DEMO_SIZES,
    images: str = "check",
    refresh: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """A data set as a manifest: `imgpath`, `subject_id`, `report`, `split`, then its labels."""
    if name != "demo":
        raise ValueError(f"data set {name!r} is not built yet, expected 'demo'")
    return _draw_demo(sizes, seed, progress)


def _draw_demo(sizes: dict[str, int], seed: int, progress: bool) -> pd.DataFrame:
    """Drawn chests with one of the five findings each, other people than the demo model's."""
    from .demo.phantoms import sample_findings
    from .demo.reports import write_report
    from .demo.train import IMAGE_SIZE, draw_images
    from .processor import MedCLIPImageProcessor, MedCLIPProcessor

    processor = MedCLIPProcessor(MedCLIPImageProcessor(IMAGE_SIZE))
    parts = []
    for place, split in enumerate(SPLITS):
        count, first = sizes.get(split, 0), 10**8 * (seed + 1) + 10**7 * place
        if not count:
            continue
        drawn = draw_images(count, first, processor, exclusive=True, progress=progress)
        findings = drawn[list(CHEXPERT_COMPETITION)].idxmax(axis=1)
        reports = [
            ". ".join(s.text for s in write_report(sample_findings(first + i, name), first + i))
            for i, name in enumerate(findings)
        ]
        people = [f"drawing-{first + i}" for i in range(count)]
        parts.append(drawn.assign(subject_id=people, report=reports, split=split))
    return pd.concat(parts, ignore_index=True)[["imgpath", "subject_id", "report", "split", *LABELS]]
