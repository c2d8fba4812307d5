"""The authors' own lists of images, reproduced to the last row, and what they pretrained on.

The steps are those of github.com/RyanWangZf/MedCLIP: examples/process_*.py at f8599d2, and for the
balanced and the 2x200 sets playground.ipynb at c7ed9b4 and 104601a. They seed NumPy's global
generator with 42; another generator with that seed gives the same stream.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..constants import CHEXPERT_COMPETITION
from ..hub import read_settings
from .catalogue import DATASETS
from .labels import LABELS, PRESENT
from .splits import exclusive_finding
from .tables import FIRST_COLUMNS, check_table

SEED = 42
# the shortest beginning that leaves either of the two, an ending, two (of a small copy) or none
_ID = re.compile(r"^(?:.*?/)??(patient\d+/study\d+/[^/]+?|[^/]+?)(?:\.(?:dcm|png|jpe?g))*$", re.I)
OVERLAP = ["pretrained", "patient_pretrained"]  # columns of a manifest
AUTHORS: dict[str, dict[str, Any]] = read_settings(Path(__file__).with_name("authors.yaml"))
LOST: dict[str, str] = AUTHORS.pop("lost")  # what cannot be reproduced, and why
SAID: dict[str, str] = AUTHORS.pop("said")  # the sentence of `describe_test`


def image_ids(paths: Iterable[str]) -> pd.Series:
    """What identifies an image in any folder: for CheXpert the path from the patient on, else the
    file's name, both without the extension.
    """
    plain = (path.replace("\\", "/").strip() for path in paths)
    return pd.Series([_ID.sub(r"\1", path) for path in plain], dtype=object)


def list_hash(ids: Iterable[str]) -> str:
    """SHA-256 of ids, one per line, in the order given."""
    return hashlib.sha256("".join(f"{name}\n" for name in ids).encode()).hexdigest()


def draw_lists(name: str, table: pd.DataFrame) -> dict[str, pd.Index]:
    """{"test", "train": rows of the table, in the order drawn}; name: a key of AUTHORS.

    Raises ValueError for a table that is not the one that the authors drew from.
    """
    known, ids = AUTHORS[name], image_ids(table["file"])
    expected = f"expected the {known['rows']:,} of {known['table']} in their original order"
    first, order = ids.iat[0] if len(ids) else "", list_hash(ids)
    if len(ids) != known["rows"]:
        problem = f"{len(ids):,} rows, {expected}"
    elif (first, order) != (known.get("first", first), known.get("order", order)):
        problem = f"other images or another row order, {first!r} first, {expected}"
    else:
        try:
            lists = _steps(name, table, np.random.RandomState(SEED))
        except ValueError:  # pandas' own: fewer rows than are drawn from them
            lists = {}
        hashes = {s: list_hash(sorted(image_ids(table["file"][rows]))) for s, rows in lists.items()}
        if lists and all(known.get(split, found) == found for split, found in hashes.items()):
            return lists
        problem = f"labels other than those of {known['table']}"
    raise ValueError(
        f"the authors' list of {name} cannot be drawn from this table, which has {problem}"
    )


def _steps(name: str, table: pd.DataFrame, rng: np.random.RandomState) -> dict[str, pd.Index]:
    if name.startswith(("chexpert", "mimic")):
        finding = exclusive_finding(table, uncertain=True)
        of_each = [finding[finding == known] for known in CHEXPERT_COMPETITION]
        drawn = pd.concat([rows.sample(400, random_state=rng) for rows in of_each]).index
        test = drawn.to_series().sample(frac=0.5, random_state=rng).index
        rest = drawn if name.endswith("5x200") else table.index  # to fine-tune on, to pretrain on
        return {"test": test, "train": rest[~rest.isin(test)]}
    normal, ill = (table[table[label] == PRESENT] for label in DATASETS[name].classes)
    if name.startswith("rsna"):
        train = table.sample(frac=0.7, random_state=rng)
        test = table.drop(train.index)
    else:
        test = pd.concat([ill, normal.sample(len(ill), random_state=rng)])
        test = test.sample(3000, random_state=rng)
        train = table.drop(test.index)
    lists = {"test": test, "train": train}
    if name == "rsna" or name.endswith("2x200"):
        count = None if name == "rsna" else 200
        lists = {split: _of_each(name, part, count) for split, part in lists.items()}
    return {split: part.index for split, part in lists.items()}


def _of_each(name: str, part: pd.DataFrame, count: int | None) -> pd.DataFrame:
    """`count` rows of each class, or all of the second and as many of the first."""
    normal, ill = (part[part[label] == PRESENT] for label in DATASETS[name].classes)
    if count is not None:
        ill = ill.sample(count, random_state=SEED)
    return pd.concat([ill, normal.sample(len(ill), random_state=SEED)])


def split_as_authors(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the authors' lists with `split`, in the order drawn; labels are only 1 and 0."""
    lists = draw_lists(name, table).items()
    table = pd.concat([table.loc[rows].assign(split=split) for split, rows in lists])
    labels = table.columns.intersection(LABELS)
    return table.assign(**(table[labels] == PRESENT).astype(np.float32))


def find_rows(name: str, table: pd.DataFrame, file: str | Path) -> pd.Index:
    """The rows of the images that a file names, in its order.

    file: text or CSV with one column, of paths or ids; a first line without a digit is a header.

    Raises ValueError for more columns, for none, and for ids that match nothing or repeat.
    """
    try:
        given = pd.read_csv(file, header=None, dtype=str, keep_default_na=False)
    except ValueError as error:
        raise ValueError(f"cannot read {file} as one column: {error}") from error
    if given.shape[1] != 1:
        raise ValueError(f"{file} has {given.shape[1]} columns, expected one of paths or ids")
    if not any(letter.isdigit() for letter in str(given.iat[0, 0])):
        given = given[1:]
    ids = image_ids(given[0])
    rows = pd.Series(table.index, image_ids(table["file"])).reindex(ids)
    for wrong, what in ((rows.isna(), f"not an image of {name}"), (ids.duplicated(), "repeated")):
        if wrong.any():
            first = given[0].iat[int(np.argmax(wrong))]
            raise ValueError(
                f"{file}: {first!r} is {what}, the first of {wrong.sum()} among {len(ids)} ids"
            )
    if ids.empty:
        raise ValueError(f"{file} has no ids")
    return pd.Index(rows.astype(int))


def mark_overlap(table: pd.DataFrame, seen: pd.DataFrame | None) -> pd.DataFrame:
    """The table with OVERLAP: whether the authors pretrained on the image, and on others of its
    patient. seen: rows that they pretrained on; None where that is not known; then all is missing.
    """
    if seen is None:
        return table.assign(**dict.fromkeys(OVERLAP, pd.array([pd.NA] * len(table), "boolean")))
    own = table["file"].isin(seen["file"])
    others = table["subject_id"].map(seen["subject_id"].value_counts()).fillna(0) > own
    return table.assign(**{OVERLAP[0]: own.astype("boolean"), OVERLAP[1]: others.astype("boolean")})


def never_seen(table: pd.DataFrame) -> np.ndarray:
    """(rows,) whether the authors are known to have pretrained on no image of the row's patient.

    table: a manifest; without the columns OVERLAP, nothing is known.
    """
    if not set(OVERLAP) <= set(table):
        return np.zeros(len(table), bool)
    own, others = (table[column].astype("boolean") for column in OVERLAP)
    return (~(own | others)).fillna(False).to_numpy(bool)


def describe_test(table: pd.DataFrame) -> dict[str, Any]:
    """Which images a manifest tests on, and which of them the published weights have seen.

    table: from `build_manifest`, or its CSV file read back.

    Returns `sha256` of the test images' ids (sorted, one per line), whatever their order; `list`,
    the authors' list that this is, or None; `images`, `patients`; `pretrained`, images that the
    authors pretrained on; `known_images` and `known_patients`, of whom they pretrained on other
    images; `unseen_images` and `unseen_patients`, of whom on none (these five are None where that
    is not known); and `sentence`, which sums it up.
    """
    check_table(table, [*FIRST_COLUMNS, "split", *OVERLAP], "table")
    test = table[table["split"] == "test"]
    named = test["imgpath"].map(lambda path: isinstance(path, str))  # a drawing has no file
    sha256 = list_hash(sorted(image_ids(test["imgpath"].where(named, test["subject_id"]))))
    own, others = (test[column].astype("boolean") for column in OVERLAP)
    patients, unseen = test["subject_id"], ~(own | others)
    found: dict[str, Any] = {
        "sha256": sha256,
        "list": next((name for name in AUTHORS if AUTHORS[name].get("test") == sha256), None),
        "images": len(test),
        "patients": patients.nunique(),
    }
    numbers = {
        "pretrained": own.sum(),
        "known_images": others.sum(),
        "known_patients": patients[others].nunique(),
        "unseen_images": unseen.sum(),
        "unseen_patients": patients[unseen].nunique(),
    }
    known = not unseen.isna().any()
    found |= {name: int(number) if known else None for name, number in numbers.items()}
    said = SAID["unknown" if not known else "unseen" if unseen.all() else "some"]
    return found | {"sentence": f"{SAID['test']} {said}".format(**found)}
