"""Manifests and sentence tables, read from CSV files and checked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from .labels import ABSENT, LABELS, PRESENT, UNCERTAIN

_PROBLEMS_SHOWN = 20  # in one error message; `check_manifest` returns all


def _as_paths(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not paths:
        raise ValueError("no file given: expected at least one CSV file")
    return [Path(path).expanduser() for path in paths]


def label_problems(table: pd.DataFrame, path: Path) -> list[str]:
    """A message for each label of `table` that is none of the four states; `path` is its file."""
    problems = []
    for label in LABELS:
        numbers = pd.to_numeric(table[label], errors="coerce")
        wrong = table[label].notna() & ~numbers.isin([PRESENT, ABSENT, UNCERTAIN])
        given = table[label].tolist()  # Python's numbers: their repr is what the file says
        problems += [
            f"{path}, row {row + 1}, column {label!r}: {given[row]!r}, expected 1, 0, -1 or blank"
            for row in np.flatnonzero(wrong)
        ]
    return problems


def _read_checked(path: Path, columns: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """The table and its problems; with a column missing, no other problem is looked for."""
    try:
        table = pd.read_csv(path)
    except ValueError as error:  # pandas' parser errors are such, and none names the file
        raise ValueError(f"cannot read {path} as a table: {error}") from error
    missing = [column for column in [*columns, *LABELS] if column not in table.columns]
    problems = [f"{path}: no column {column!r}" for column in missing]
    return table, problems or label_problems(table, path)


def _check_images(table: pd.DataFrame, path: Path, root: Path) -> list[str]:
    problems = []
    for row, (image, report) in enumerate(zip(table["imgpath"], table["report"], strict=True)):
        place = f"{path}, row {row + 1}, column 'imgpath'"
        if pd.isna(image):
            if pd.isna(report):
                problems.append(f"{place}: neither an image nor a report")
        elif not (root / str(image)).is_file():
            problems.append(f"{place}: no image file {root / str(image)}")
    return problems


def _read_manifest(
    paths, root: str | Path | None, check_images: bool
) -> tuple[list[pd.DataFrame], list[str]]:
    tables, problems = [], []
    for path in _as_paths(paths):
        table, found = _read_checked(path, ["imgpath", "subject_id", "report"])
        folder = Path(root).expanduser() if root is not None else path.parent
        if "imgpath" in table and "report" in table:
            found += _check_images(table, path, folder) if check_images else []
            table["imgpath"] = [
                image if pd.isna(image) else os.path.join(folder, str(image))
                for image in table["imgpath"]
            ]
        tables.append(table)
        problems += found
    return tables, problems


def shortened(problems: list[str]) -> str:
    """Problems, a line each, as many as one error message should have."""
    more = len(problems) - _PROBLEMS_SHOWN
    return "\n".join([*problems[:_PROBLEMS_SHOWN], *([f"and {more} more"] if more > 0 else [])])


def _raise_if(problems: list[str]) -> None:
    if problems:
        raise ValueError(shortened(problems))


def check_manifest(
    paths: str | Path | Sequence[str | Path], root: str | Path | None = None
) -> list[str]:
    """Everything that is wrong with manifests, a line each with file, row and column; [] if fine.

    Rows count from 1, the header not counted. Arguments as in `read_manifest`.
    """
    return _read_manifest(paths, root, check_images=True)[1]


def read_manifest(
    paths: str | Path | Sequence[str | Path],
    root: str | Path | None = None,
    check_images: bool = True,
) -> pd.DataFrame:
    """The published manifests, several joined, as one table.

    paths: CSV files with `imgpath`, `subject_id`, `report` and the 14 CheXpert columns. A row may
        lack its report (an image-only source, as CheXpert is) or its image (a text-only one).
    root: folder that `imgpath` is relative to; by default the manifest's own.
    check_images: False skips looking for each image file, which takes long on a network drive.

    Returns those columns, `imgpath` joined to the root. Raises ValueError that names file, row and
    column of each missing column, label outside the four states, and missing image.
    """
    tables, problems = _read_manifest(paths, root, check_images)
    _raise_if(problems)
    return _joined(tables, ["imgpath", "subject_id", "report"])


def read_sentences(paths: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """Labelled sentences: CSV files with `Reports` and the 14 columns. Of repeats the first stays.

    Raises ValueError that names file, row and column of whatever is wrong.
    """
    tables, problems = [], []
    for path in _as_paths(paths):
        table, found = _read_checked(path, ["Reports"])
        if "Reports" in table:
            blank = table["Reports"].isna() | (table["Reports"].astype(str).str.strip() == "")
            found += [
                f"{path}, row {row + 1}, column 'Reports': blank" for row in np.flatnonzero(blank)
            ]
        tables.append(table)
        problems += found
    _raise_if(problems)
    return _joined(tables, ["Reports"]).drop_duplicates("Reports", ignore_index=True)


def _joined(tables: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    joined = pd.concat([table[[*columns, *LABELS]] for table in tables], ignore_index=True)
    return joined.astype(dict.fromkeys(LABELS, np.float32))


FIRST_COLUMNS = ["imgpath", "subject_id", "report", "split"]
