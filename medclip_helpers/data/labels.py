"""The 14 labels of a study or sentence, their four states, and what can be made of them.

Labels are CheXpert's, in the order of `CHEXPERT_LABELS`: 1 present, 0 absent, -1 uncertain, NaN
(blank in a file) not mentioned.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..constants import CHEXPERT_LABELS

LABELS = list(CHEXPERT_LABELS)
PRESENT, ABSENT, UNCERTAIN = 1.0, 0.0, -1.0


def combine_labels(labels: np.ndarray) -> np.ndarray:
    """The labels of a study from those of its sentences: (sentences, 14) -> (14,).

    Present in one sentence outweighs uncertain, that absent, that not mentioned. No Finding follows
    CheXpert's rule: present if nothing else but Support Devices is present or uncertain.
    """
    labels = np.atleast_2d(labels)
    combined = np.full(len(LABELS), np.nan, np.float32)
    for state in (ABSENT, UNCERTAIN, PRESENT):
        combined[(labels == state).any(axis=0)] = state
    findings = [label not in ("No Finding", "Support Devices") for label in LABELS]
    found = np.isin(combined[findings], [PRESENT, UNCERTAIN]).any()
    combined[LABELS.index("No Finding")] = np.nan if found else PRESENT
    return combined


def encode_labels(labels: np.ndarray, absent: float = 0.0, uncertain: float = 0.0) -> np.ndarray:
    """Labels as numbers for `label_similarity`: present 1, not mentioned 0, the others as given.

    The defaults are the paper's multi-hot vectors. The published code feeds its files' values
    unchanged (`uncertain=-1`), by which an uncertain finding is the opposite of a present one.
    """
    encoded = np.nan_to_num(labels, nan=0.0).astype(np.float32)
    encoded[labels == ABSENT] = absent
    encoded[labels == UNCERTAIN] = uncertain
    return encoded


def is_exclusive(table: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
    """(rows,) whether exactly one of `classes` is present, so that one can ask which.

    table: a manifest. Raises ValueError where no row is so.
    """
    # copied: pandas 3 gives arrays that cannot be written to, of which torch warns as an index
    single = ((table[list(classes)] == PRESENT).sum(axis=1) == 1).to_numpy(copy=True)
    if not single.any():
        raise ValueError(f"none of {len(table)} images has exactly one of {list(classes)}")
    return single


def class_numbers(table: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
    """(images,) the place in `classes` of the one class that is present.

    Raises ValueError naming the first row that has none or several (see `is_exclusive`).
    """
    present = (table[list(classes)] == PRESENT).to_numpy()
    wrong = np.flatnonzero(present.sum(axis=1) != 1)
    if len(wrong):
        found = [name for name, here in zip(classes, present[wrong[0]], strict=True) if here]
        raise ValueError(f"row {wrong[0]} has {found}, expected exactly one of {list(classes)}")
    return present.argmax(axis=1)
