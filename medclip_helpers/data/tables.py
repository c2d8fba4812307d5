"""Manifests and sentence tables, read from CSV files and checked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .labels import ABSENT, LABELS, PRESENT, UNCERTAIN

# What a manifest has before its labels; one that `build_manifest` made has `split` as well.
FIRST_COLUMNS = ["imgpath", "subject_id", "report"]
PATHS = (str, Path)
_PROBLEMS_SHOWN = 20  # in one error message; `check_manifest` returns all


def listed(given: Any, what: str, kinds: type | tuple[type, ...] = str) -> list:
    """`given` as a list; one of `kinds` becomes a list of one. ValueError for anything else."""
    items = [given] if isinstance(given, kinds) else given
    expected = "text" if kinds is str else "paths" if kinds == PATHS else "whole numbers"
    if not isinstance(items, Iterable) or isinstance(items, (str, pd.DataFrame)):
        shown = "" if isinstance(given, pd.DataFrame) else f" {given!r:.99}"
        raise ValueError(f"{what}: {type(given).__name__}{shown}, expected a list of {expected}")
    items = list(items)
    for place, item in enumerate(items):
        if not isinstance(item, kinds) or isinstance(item, bool):
            raise ValueError(f"{what}[{place}] is {item!r:.99}, expected {expected}")
    return items


def check_numbers(least: int = 0, **given: Any) -> None:
    """ValueError unless each is a whole number, at least `least`."""
    for name, number in given.items():
        if not isinstance(number, Integral) or isinstance(number, bool) or number < least:
            raise ValueError(f"{name} is {number!r:.99}, expected a whole number, {least} or more")


def check_table(table: Any, columns: Sequence[str], what: str) -> None:
    """ValueError unless it is a table with `columns`, those of LABELS in the four states."""
    if not isinstance(table, pd.DataFrame):
        raise ValueError(f"{what}: {type(table).__name__}, expected a pandas DataFrame")
    missing = [f"{what}: no column {name!r}" for name in columns if name not in table.columns]
    if problems := missing or label_problems(table, what, [n for n in columns if n in LABELS]):
        raise ValueError(shortened(problems))


def shortened(problems: Sequence[str]) -> str:
    """Problems, one per line, as many as one error message should have."""
    more = len(problems) - _PROBLEMS_SHOWN
    return "\n".join([*problems[:_PROBLEMS_SHOWN], *([f"and {more} more"] if more > 0 else [])])


def cell_problems(
    table: pd.DataFrame, path: str | Path, column: str, wrong: pd.Series, message: str
) -> list[str]:
    """A line for each row that is `wrong`, with file, row (counted from 1) and column.

    message: what is wrong; "{!r}" in it stands for the cell's value.
    """
    values = table[column].tolist()  # Python's numbers: their repr is what the file says
    return [
        f"{path}, row {row + 1}, column {column!r}: {message.format(values[row])}"
        for row in np.flatnonzero(wrong)
    ]


def key_problems(table: pd.DataFrame, path: Path, column: str) -> list[str]:
    """A line for each value of `column` that is missing or repeated."""
    blank = table[column].isna()
    again = table[column].duplicated() & ~blank
    return [
        *cell_problems(table, path, column, blank, "blank"),
        *cell_problems(table, path, column, again, "{!r} is repeated"),
    ]


def label_problems(
    table: pd.DataFrame, path: str | Path, labels: Sequence[str] = LABELS
) -> list[str]:
    """A line for each label of `table` that is not one of the four states; `path` is its file."""
    problems = []
    for label in labels:
        numbers = pd.to_numeric(table[label], errors="coerce")
        wrong = table[label].notna() & ~numbers.isin([PRESENT, ABSENT, UNCERTAIN])
        problems += cell_problems(table, path, label, wrong, "{!r}, expected 1, 0, -1 or blank")
    return problems


def _read_tables(
    paths: str | Path | Iterable[str | Path], columns: list[str]
) -> Iterable[tuple[Path, pd.DataFrame, list[str]]]:
    """Each file, its table and its problems; with a column missing, only that is reported."""
    paths = listed(paths, "paths", PATHS)
    if not paths:
        raise ValueError("no file given: expected at least one CSV file")
    for path in map(Path, paths):
        path = path.expanduser()
        try:
            # a number that names a patient is a name: 007 is not 7
            table = pd.read_csv(path, dtype=dict.fromkeys([*FIRST_COLUMNS, "Reports"], str))
        except ValueError as error:  # pandas' parser errors are such, and none names the file
            raise ValueError(f"cannot read {path} as a table: {error}") from error
        missing = [column for column in [*columns, *LABELS] if column not in table.columns]
        problems = [f"{path}: no column {column!r}" for column in missing]
        # pandas renames a repeated column to "Edema.1", and reads on
        again = [name for name in (*columns, *LABELS) if f"{name}.1" in table.columns]
        problems += [f"{path}: column {name!r} is repeated" for name in again]
        yield path, table, problems or label_problems(table, path)


def _joined(tables: list[pd.DataFrame], problems: list[str], columns: list[str]) -> pd.DataFrame:
    """The tables' columns and labels as one table; ValueError where there are problems."""
    if problems:
        raise ValueError(shortened(problems))
    joined = pd.concat([table[[*columns, *LABELS]] for table in tables], ignore_index=True)
    return joined.astype(dict.fromkeys(LABELS, np.float32))


def _read_manifests(
    paths: str | Path | Iterable[str | Path], root: str | Path | None, check_images: bool
) -> tuple[list[pd.DataFrame], list[str]]:
    tables, problems = [], []
    for path, table, found in _read_tables(paths, FIRST_COLUMNS):
        problems += found
        if "imgpath" in table and "report" in table:
            folder = path.parent if root is None else Path(root).expanduser()
            blank = table["imgpath"].isna()
            known = [name for name in (*FIRST_COLUMNS, *LABELS) if name in table.columns]
            again = table.duplicated(known) & ~blank
            problems += cell_problems(table, path, "imgpath", again, "{!r}: row is repeated")
            table["imgpath"] = [
                image if none else os.path.join(folder, str(image))
                for image, none in zip(table["imgpath"], blank, strict=True)
            ]
            if check_images:
                there = np.array([os.path.isfile(str(image)) for image in table["imgpath"]], bool)
                problems += cell_problems(
                    table, path, "imgpath", ~(blank | there), "no image file {}"
                )
                neither = blank & table["report"].isna()
                message = "neither an image nor a report"
                problems += cell_problems(table, path, "imgpath", neither, message)
        tables.append(table)
    return tables, problems


def check_manifest(
    paths: str | Path | Iterable[str | Path], root: str | Path | None = None
) -> list[str]:
    """Everything that is wrong with manifests, one line each with file, row and column; [] if fine.

    Rows count from 1, the header not counted. Arguments as in `read_manifest`.
    """
    return _read_manifests(paths, root, check_images=True)[1]


def read_manifest(
    paths: str | Path | Iterable[str | Path],
    root: str | Path | None = None,
    check_images: bool = True,
) -> pd.DataFrame:
    """Manifests in the published format, joined into one table.

    paths: CSV files with `imgpath`, `subject_id`, `report` and the 14 CheXpert columns. A row may
        lack its report (an image-only source, such as CheXpert) or its image (a text-only one).
    root: folder that `imgpath` is relative to; by default the manifest's own.
    check_images: False skips looking for each image file, which is slow on a network drive.

    Returns those columns, `imgpath` joined to the root. Raises ValueError that names file, row and
    column of each missing column, label outside the four states, missing image and repeated row.
    A blank `subject_id` stays missing.
    """
    return _joined(*_read_manifests(paths, root, check_images), FIRST_COLUMNS)


def read_sentences(paths: str | Path | Iterable[str | Path]) -> pd.DataFrame:
    """Labelled sentences: CSV files with `Reports` and the 14 columns. Repeats are dropped.

    Raises ValueError that names file, row and column of whatever is wrong.
    """
    tables, problems = [], []
    for path, table, found in _read_tables(paths, ["Reports"]):
        problems += found
        if "Reports" in table:
            blank = table["Reports"].isna() | (table["Reports"].astype(str).str.strip() == "")
            problems += cell_problems(table, path, "Reports", blank, "blank")
        tables.append(table)
    return _joined(tables, problems, ["Reports"]).drop_duplicates("Reports", ignore_index=True)


def is_exclusive(table: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
    """(rows,) whether exactly one of `classes` is present, so that one can ask which.

    table: a manifest. Raises ValueError where no row is, or a class is not a column.
    """
    classes = listed(classes, "classes")
    check_table(table, classes, "table")
    # copied: pandas 3 gives arrays that cannot be written to, of which torch warns as an index
    single = ((table[classes] == PRESENT).sum(axis=1) == 1).to_numpy(copy=True)
    if not single.any():
        raise ValueError(f"none of {len(table)} images has exactly one of {classes}")
    return single


def class_numbers(table: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
    """(images,) the place in `classes` of the one class that is present.

    Raises ValueError naming the first row that has none or several (see `is_exclusive`).
    """
    classes = listed(classes, "classes")
    check_table(table, classes, "table")
    present = (table[classes] == PRESENT).to_numpy()
    wrong = np.flatnonzero(present.sum(axis=1) != 1)
    if len(wrong):
        found = [name for name, here in zip(classes, present[wrong[0]], strict=True) if here]
        raise ValueError(f"row {wrong[0]} has {found}, expected exactly one of {classes}")
    return present.argmax(axis=1)
