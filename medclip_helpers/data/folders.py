"""The folder a data set was unpacked to: its tables, files, and errors that show its layout."""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from tqdm.auto import tqdm
from tqdm.contrib.concurrent import thread_map

from ..radiographs import read_radiograph
from .catalogue import DATASETS
from .labels import LABELS
from .tables import key_problems, label_problems, shortened

logger = logging.getLogger(__name__)

IMAGE_CHECKS = ("check", "read", "drop", "trust")
_READERS = 8  # threads: a network drive serves several requests at once


class DataFolder:
    """A data set's folder. Its errors name what is wrong, where, and show the expected layout.

    root: the folder that DATASETS[name].layout begins with, or one that holds it.
    marker: glob pattern of something that it must contain.

    Raises ValueError for no root, FileNotFoundError for a wrong one.
    """

    def __init__(self, name: str, root: str | Path | None, marker: str, progress: bool = True):
        self.name, self.known, self.progress = name, DATASETS[name], progress
        if root is None:
            raise ValueError(self.message([f"data set {name!r} needs root, the folder it is in"]))
        if not isinstance(root, (str, Path)):
            raise ValueError(self.message([f"root is {root!r:.99}, expected a folder's path"]))
        root = Path(root).expanduser()
        if not root.is_dir():
            raise FileNotFoundError(self.message([f"no folder {root}"]))
        inner = sorted(path for path in root.iterdir() if path.is_dir())
        found = next((path for path in (root, *inner) if any(path.glob(marker))), None)
        if found is None:
            raise FileNotFoundError(self.message([f"no {marker} in {root}"]))
        self.root = found

    def message(self, problems: list[str]) -> str:
        """Problems, one per line, and the expected layout."""
        expected = [f"expected, from {self.known.source}:", self.known.layout]
        return "\n".join([shortened(problems), *expected])

    def raise_if(self, problems: Iterable[str]) -> None:
        """ValueError with the problems, if there are any."""
        if problems := list(problems):
            raise ValueError(self.message(problems))

    def read_csv(
        self, name: str, columns: list[str], key: str | None = None
    ) -> tuple[pd.DataFrame, Path]:
        """The table `name`, compressed (.gz, .zip) or not, and its path.

        columns: what it must have; the 14 labels, where they are among them, are checked and
            become float32.
        key: the column in which every row must have a unique value.

        Raises FileNotFoundError, or ValueError naming the file, its missing columns, and the rows
        and columns of wrong labels and keys.
        """
        paths = [self.root / f"{name}{packed}" for packed in ("", ".gz", ".zip")]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise FileNotFoundError(self.message([f"no file {paths[0]}"]))
        try:
            excel = name.endswith(".xlsx")
            table = pd.read_excel(path) if excel else pd.read_csv(path, low_memory=False)
        except (ValueError, OSError, EOFError, zlib.error, BadZipFile) as error:
            raise ValueError(self.message([f"cannot read {path} as a table: {error}"])) from error
        missing = [column for column in columns if column not in table]
        self.raise_if(f"{path}: no column {column!r}" for column in missing)
        self.raise_if(key_problems(table, path, key) if key else [])
        if set(LABELS) <= set(columns):
            self.raise_if(label_problems(table, path))
            table = table.astype(dict.fromkeys(LABELS, np.float32))
        return table, path

    @cached_property
    def files(self) -> list[str]:
        """Every file below the root, as `list_files` gives them."""
        return list_files(self.root, self.progress)

    def check_images(self, table: pd.DataFrame, how: str) -> pd.DataFrame:
        """The rows of `table` whose images (`file`, relative to the root) pass.

        how: "check", each must exist; "read", each must be readable too; "drop", rows of missing
            ones are left out; "trust", nothing is looked for.

        Raises ValueError naming the images that do not pass, or saying that none is there.
        """
        if how == "trust":
            return table
        there = table["file"].isin(self.files)
        absent = [f"{self.root / file}" for file in table["file"][~there]]
        if not there.any():
            first = next(iter(absent), self.root)
            self.raise_if([f"none of {len(table)} images is there, the first is {first}"])
        if how == "drop":
            if absent:
                logger.info("%s: %d images are missing, left out", self.name, len(absent))
            return table[there]
        self.raise_if(f"no image file {path}" for path in absent)
        if how == "read":
            self.raise_if(filter(None, self.map(self._unreadable, table["file"], "reading images")))
        return table

    def _unreadable(self, file: str) -> str | None:
        """Why an image cannot be read."""
        try:
            read_radiograph(self.root / file)
        except (ValueError, OSError) as error:
            return str(error)
        return None

    def map(self, function: Callable, files: Iterable[str], desc: str) -> list:
        """`function` of each file, several at a time, in order."""
        hidden = not self.progress
        return thread_map(function, list(files), desc=desc, max_workers=_READERS, disable=hidden)


def list_files(root: Path, progress: bool = True) -> list[str]:
    """Every file below `root`, relative to it, with forward slashes, sorted.

    Links to folders are followed, except to a folder that contains the link.
    """
    files = []
    walk = os.walk(root, followlinks=True)
    for folder, inner, names in tqdm(
        walk, desc=f"listing {root.name}", unit="folder", disable=not progress
    ):
        if _leads_back(folder, root):
            inner.clear()
            continue
        below = Path(folder).relative_to(root)
        files += [(below / name).as_posix() for name in names]
    return sorted(files)


def _leads_back(folder: str, root: Path) -> bool:
    """Whether a folder is a link to one that contains it."""
    if not os.path.islink(folder):
        return False
    above = [p for p in Path(folder).parents if p.is_relative_to(root)]
    return os.path.realpath(folder) in map(os.path.realpath, above)
