"""Which images are test, validation and training in our own splits; see `build_manifest`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd

from ..constants import CHEXPERT_COMPETITION
from .catalogue import DATASETS
from .labels import LABELS, PRESENT, UNCERTAIN

SPLITS = ("train", "valid", "test")
# Images of each class in a sampled test, as published.
TEST_PER_CLASS = {"chexpert-5x200": 200, "mimic-5x200": 200, "rsna": 1769, "covid": 1500}
VALID_SHARE = 0.1  # of the patients that are not in the test
OPENI_TEST_SHARE = 0.2  # of the patients
_FIVE = list(CHEXPERT_COMPETITION)
_FINDINGS = [label for label in LABELS if label != "No Finding"]


def _drawn_patients(subjects: pd.Series, share: float, rng: np.random.Generator) -> pd.Series:
    """True in the rows of a random share of the patients."""
    patients = np.unique(subjects.astype(str))
    return subjects.isin(rng.choice(patients, round(share * len(patients)), replace=False))


def _drawn_rows(
    classes: pd.Series, names: Sequence[str], count: int, rng: np.random.Generator
) -> pd.Index:
    """The index of `count` rows of each class in `names`; `classes` has no other."""
    for name, found in classes.value_counts().reindex(list(names), fill_value=0).items():
        if found < count:
            raise ValueError(
                f"{found} images to draw {name!r} from, expected at least {count}: check that the "
                "folder is complete, or set test_per_class"
            )
    return classes.groupby(classes).sample(count, random_state=rng).index


def _held_out(table: pd.DataFrame, test: pd.Index, rng: np.random.Generator) -> pd.DataFrame:
    """Rows `test` are the test and all that is kept of their patients; the rest train and valid."""
    table = table.assign(split="train")
    table.loc[test, "split"] = "test"
    known = table["subject_id"].isin(table.loc[test, "subject_id"])
    table = table[~known | (table["split"] == "test")]
    return _with_valid(table, rng)


def _with_valid(table: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """A tenth of the patients in train becomes valid."""
    train = table.loc[table["split"] == "train", "subject_id"]
    drawn = _drawn_patients(train, VALID_SHARE, rng)
    table = table.copy()
    table.loc[drawn.index[drawn], "split"] = "valid"
    return table


def _split_chexpert(table: pd.DataFrame, _, rng: np.random.Generator) -> pd.DataFrame:
    return _with_valid(table.replace({"split": {"valid": "test"}}), rng)


def _split_openi(table: pd.DataFrame, _, rng: np.random.Generator) -> pd.DataFrame:
    test = _drawn_patients(table["subject_id"], OPENI_TEST_SHARE, rng)
    return _held_out(table, table.index[test], rng)


def exclusive_finding(table: pd.DataFrame, uncertain: bool) -> pd.Series:
    """The one of the five that is the only finding present, for the rows that have one.

    uncertain: whether other findings may be uncertain.
    """
    present = table[_FINDINGS] == PRESENT
    alone = (present.sum(axis=1) == 1) & present[_FIVE].any(axis=1)
    if not uncertain:
        alone &= ~(table[_FINDINGS] == UNCERTAIN).any(axis=1)
    return present.loc[alone, _FIVE].idxmax(axis=1)


def _stratified_5x200(table: pd.DataFrame, count: int, rng: np.random.Generator) -> pd.DataFrame:
    finding = exclusive_finding(table, uncertain=False)
    table = table.loc[finding.index]
    table = table[table["frontal"]].drop_duplicates("study")
    one_each = table.sample(frac=1, random_state=rng).drop_duplicates("subject_id").index
    return _held_out(table, _drawn_rows(finding[one_each], _FIVE, count, rng), rng)


def _stratified_pair(
    name: str, table: pd.DataFrame, count: int, rng: np.random.Generator
) -> pd.DataFrame:
    names = list(DATASETS[name].classes)
    drawn = _drawn_rows(table[names].idxmax(axis=1), names, count, rng)
    return _held_out(table, drawn, rng)


def split_by_list(
    name: str, table: pd.DataFrame, test: pd.Index, rng: np.random.Generator
) -> pd.DataFrame:
    """Rows `test`, in this order, are the test. Train and valid: what "stratified" may choose from,
    minus the patients of the test.
    """
    if name.endswith("5x200"):
        alone = exclusive_finding(table, uncertain=False).index
        table = table[table.index.isin(alone.union(test))]
    table = _held_out(table, test, rng)
    return table.loc[[*test, *table.index[table["split"] != "test"]]]


# Data set -> (table, images per class in the test, generator) -> table with `split`, "stratified".
SPLITTERS: dict[str, Callable] = {
    "chexpert": _split_chexpert,
    "chexpert-5x200": _stratified_5x200,
    "mimic-cxr": lambda table, count, rng: table,  # read with its own split
    "mimic-5x200": _stratified_5x200,
    "openi": _split_openi,
    "rsna": partial(_stratified_pair, "rsna"),
    "covid": partial(_stratified_pair, "covid"),
}
