"""The 14 labels of a study or sentence, their four states, and what can be made of them.

Labels are CheXpert's, in the order of `CHEXPERT_LABELS`: 1 present, 0 absent, -1 uncertain, NaN
(blank in a file) not mentioned.
"""

from __future__ import annotations

from numbers import Real

import numpy as np

from ..constants import CHEXPERT_LABELS

LABELS = list(CHEXPERT_LABELS)
PRESENT, ABSENT, UNCERTAIN = 1.0, 0.0, -1.0


def _states(labels: np.ndarray) -> np.ndarray:
    """Labels as float32; ValueError naming what is not one of the four states."""
    try:
        numbers = np.asarray(labels, np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"labels are {labels!r:.99}, expected numbers") from error
    odd = numbers[~(np.isnan(numbers) | np.isin(numbers, [PRESENT, ABSENT, UNCERTAIN]))]
    if odd.size:
        raise ValueError(f"label {odd[0]}, expected 1, 0, -1 or NaN")
    return numbers


def combine_labels(labels: np.ndarray) -> np.ndarray:
    """The labels of a study from those of its sentences: (sentences, 14) -> (14,).

    Present outweighs uncertain, which outweighs absent, which outweighs not mentioned. No Finding
    follows CheXpert's rule: present if nothing else but Support Devices is present or uncertain.

    Raises ValueError for another shape, no sentence, or a label outside the four states.
    """
    labels = np.atleast_2d(_states(labels))
    if labels.shape[0] == 0 or labels.shape[1:] != (len(LABELS),):
        raise ValueError(f"labels have shape {labels.shape}, expected (sentences, {len(LABELS)})")
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
    unchanged (`uncertain=-1`), which makes an uncertain finding the opposite of a present one.

    Raises ValueError for a label outside the four states.
    """
    labels = _states(labels)
    for name, value in (("absent", absent), ("uncertain", uncertain)):
        if not isinstance(value, Real) or not np.isfinite(value):
            raise ValueError(f"{name} is {value!r}, expected a finite number")
    encoded = np.array(np.nan_to_num(labels, nan=0.0))
    encoded[labels == ABSENT] = absent
    encoded[labels == UNCERTAIN] = uncertain
    return encoded
