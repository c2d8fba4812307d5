"""The data sets that `build_manifest` knows, as listed in catalogue.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..hub import read_settings


class DataSet(NamedTuple):
    """What is known of a data set before it is read.

    layout: the folder to name as root, a short text tree. classes: label columns that a zero-shot
    evaluation tells apart. mode: as in `evaluate_classification`; "multiclass" has exactly one
    of classes present in every row, "binary" has two one-hot columns, the negative class first.
    prompts: preset of `load_class_prompts`. source: where to get it, and under which terms.
    """

    layout: str
    classes: tuple[str, ...]
    mode: str
    prompts: str
    source: str


# The face is lazy, so that the file is read when a data set is first asked for.
DATASETS: dict[str, DataSet] = {
    name: DataSet(**{**known, "classes": tuple(known["classes"])})
    for name, known in read_settings(Path(__file__).with_name("catalogue.yaml")).items()
}
