"""What is known of each data set before it is read, and the folder that it was unpacked to.

A listing of the folder is made once and kept in the cache: on a network drive it takes minutes.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import os
import zlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import pandas as pd
from tqdm.auto import tqdm

from ..constants import CHEXPERT_COMPETITION
from .tables import shortened

logger = logging.getLogger(__name__)

IMAGE_CHECKS = ("check", "read", "drop", "trust")
_SPOT_CHECKS = 200  # files
_READERS = 8  # threads: a network drive answers several questions at once


class DataSet(NamedTuple):
    """What is known of a data set before it is read.

    layout: the folder to name as root, a short text tree. classes: label columns that a zero-shot
    evaluation tells apart. mode: as `evaluate_classification` has it; "multiclass" has exactly one
    of classes present in every row, "binary" has two one-hot columns, the negative class first.
    prompts: preset of `load_class_prompts`. source: where to get it, and on which terms.
    """

    layout: str
    classes: tuple[str, ...]
    mode: str
    prompts: str
    source: str


_CHEXPERT_LAYOUT = """\
CheXpert-v1.0-small/
    train.csv   (Path, Frontal/Lateral and the 14 labels)
    valid.csv   (the same; not needed for chexpert-5x200)
    train/patient00001/study1/view1_frontal.jpg
    valid/patient64541/study1/view1_frontal.jpg"""
_CHEXPERT_SOURCE = (
    "https://stanfordmlgroup.github.io/competitions/chexpert (research use, register)"
)
_MIMIC_LAYOUT = """\
mimic-cxr-jpg/2.0.0/
    mimic-cxr-2.0.0-metadata.csv(.gz)   (dicom_id, subject_id, study_id, ViewPosition)
    mimic-cxr-2.0.0-split.csv(.gz)      (dicom_id, split)
    mimic-cxr-2.0.0-chexpert.csv(.gz)   (study_id and the 14 labels)
    files/p10/p10000032/s50414267/02aa804e-bde0afdd-112c0b34-7bc16630-4e384014.jpg
    mimic-cxr-reports/files/p10/p10000032/s50414267.txt   (from MIMIC-CXR; may be missing)"""
_MIMIC_SOURCE = "https://physionet.org/content/mimic-cxr-jpg/ (credentialed access)"
DATASETS: dict[str, DataSet] = {
    "chexpert": DataSet(
        _CHEXPERT_LAYOUT, CHEXPERT_COMPETITION, "multilabel", "chexpert", _CHEXPERT_SOURCE
    ),
    "chexpert-5x200": DataSet(
        _CHEXPERT_LAYOUT, CHEXPERT_COMPETITION, "multiclass", "chexpert", _CHEXPERT_SOURCE
    ),
    "mimic-cxr": DataSet(
        _MIMIC_LAYOUT, CHEXPERT_COMPETITION, "multilabel", "chexpert", _MIMIC_SOURCE
    ),
    "mimic-5x200": DataSet(
        _MIMIC_LAYOUT, CHEXPERT_COMPETITION, "multiclass", "chexpert", _MIMIC_SOURCE
    ),
    "rsna": DataSet(
        """\
rsna-pneumonia-detection-challenge/
    stage_2_train_labels.csv   (patientId, Target)
    stage_2_train_images/0004cfab-14fd-4e49-80ba-63a80b6bddd6.dcm""",
        ("Normal", "Pneumonia"),
        "binary",
        "rsna",
        "https://www.kaggle.com/c/rsna-pneumonia-detection-challenge (non-commercial)",
    ),
    "covid": DataSet(
        """\
COVID-19_Radiography_Dataset/
    COVID/images/COVID-1.png
    Normal/images/Normal-1.png""",
        ("Normal", "COVID-19"),
        "binary",
        "covid",
        "https://www.kaggle.com/datasets/tawsifurrahman/covid19-radiography-database (terms there)",
    ),
    "openi": DataSet(
        """\
openi/   (NLMCXR_reports.tgz and NLMCXR_png.tgz unpacked, in any subfolders)
    ecgen-radiology/1.xml
    CXR1_1_IM-0001-3001.png""",
        CHEXPERT_COMPETITION,
        "multilabel",
        "chexpert",
        "https://openi.nlm.nih.gov/faq (CC BY-NC-ND 4.0)",
    ),
    "demo": DataSet(
        "no folder: drawn on the fly",
        CHEXPERT_COMPETITION,
        "multiclass",
        "chexpert",
        "medclip_helpers.demo (drawings, of no patient)",
    ),
}


class DataFolder:
    """A data set's folder. Its errors name what is wrong, where, and show the expected layout.

    root: the folder that DATASETS[name].layout begins with, or one that holds it.
    marker: glob pattern of something that must stand in it.
    refresh: list the folder anew even where a listing is in the cache.

    Raises ValueError for no root, FileNotFoundError for a wrong one.
    """

    def __init__(
        self,
        name: str,
        root: str | Path | None,
        marker: str,
        refresh: bool = False,
        progress: bool = True,
    ):
        self.name, self.refresh, self.progress = name, refresh, progress
        if root is None:
            raise ValueError(self.message(f"data set {name!r} needs root, the folder it is in"))
        root = Path(root).expanduser()
        if not root.is_dir():
            raise FileNotFoundError(self.message(f"no folder {root}"))
        inner = sorted(path for path in root.iterdir() if path.is_dir())
        found = next((path for path in (root, *inner) if any(path.glob(marker))), None)
        if found is None:
            raise FileNotFoundError(self.message(f"no {marker} in {root}"))
        self.root = found

    def message(self, problems: str | Iterable[str]) -> str:
        """Problems, a line each, and the expected layout."""
        problems = [problems] if isinstance(problems, str) else list(problems)
        known = DATASETS[self.name]
        return "\n".join([shortened(problems), f"expected, from {known.source}:", known.layout])

    def read_csv(self, name: str, columns: Iterable[str]) -> tuple[pd.DataFrame, Path]:
        """The table `name`, packed (.gz, .zip) or not, and where it is; subject to `columns`.

        Raises FileNotFoundError, or ValueError naming the file and each missing column.
        """
        paths = [self.root / f"{name}{packed}" for packed in ("", ".gz", ".zip")]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise FileNotFoundError(self.message(f"no file {paths[0]}"))
        try:
            table = pd.read_csv(path, low_memory=False)
        except (ValueError, OSError, EOFError, zlib.error, BadZipFile) as error:
            raise ValueError(self.message(f"cannot read {path} as a table: {error}")) from error
        missing = [column for column in columns if column not in table.columns]
        self.raise_if(f"{path}: no column {column!r}" for column in missing)
        return table, path

    def raise_if(self, problems: Iterable[str]) -> None:
        """ValueError with the problems, if there are any."""
        if problems := list(problems):
            raise ValueError(self.message(problems))

    @cached_property
    def files(self) -> list[str]:
        """Every file below the root, relative to it, with forward slashes, sorted."""
        return list_files(self.root, self.refresh, self.progress)

    def check_images(self, table: pd.DataFrame, how: str) -> pd.DataFrame:
        """The rows of `table` whose images (`file`, relative to the root) pass.

        how: "check", each must exist; "read", each must be readable too; "drop", rows of missing
            ones are left out; "trust", nothing is looked for.

        Raises ValueError naming the images that do not pass, or that none is there.
        """
        if how == "trust":
            return table
        there = table["file"].isin(set(self.files))
        absent = [self.root / file for file in table["file"][~there]]
        if absent and (how != "drop" or any(path.is_file() for path in _spread(absent))):
            # The listing may be older than the images.
            self.files = list_files(self.root, True, self.progress)
            there = table["file"].isin(set(self.files))
        if not there.any():
            raise ValueError(
                self.message(f"none of {len(table)} images is there, from {absent[0]} on")
            )
        if how == "drop":
            if not there.all():
                logger.info("%s: %d images are missing, left out", self.name, (~there).sum())
            return table[there]
        self.raise_if(f"no image file {self.root / file}" for file in table["file"][~there])
        if how == "read":
            self.raise_if(self._unreadable(table["file"]))
        return table

    def _unreadable(self, files: Iterable[str]) -> list[str]:
        from ..radiographs import read_radiograph

        def problem(file: str) -> str | None:
            try:
                read_radiograph(self.root / file)
            except (ValueError, OSError) as error:
                return str(error)

        return [p for p in self.map(problem, files, "reading images") if p]

    def map(self, function, files: Iterable[str], desc: str) -> list:
        """`function` of each file, several at a time, in order."""
        from tqdm.contrib.concurrent import thread_map

        files = list(files)
        return thread_map(
            function, files, desc=desc, max_workers=_READERS, disable=not self.progress
        )


def _spread(files: list) -> list:
    """Some of the files, evenly from all over: looking for each would be as slow as listing."""
    return files[:: max(1, len(files) // _SPOT_CHECKS)]


def _stamp(root: Path) -> list:
    """Changes with what stands in the folder and in its immediate subfolders."""
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    return [[path.name, path.stat().st_mtime_ns] for path in folders]


def list_files(root: Path, refresh: bool = False, progress: bool = True) -> list[str]:
    """Every file below `root`, relative to it, with forward slashes, sorted.

    The list is kept in the cache folder, and made anew with `refresh`, where something was added to
    or taken from `root` or one of its immediate subfolders, and where one of some 200 files that
    are looked for is gone.
    """
    from ..hub import cache_folder

    root = root.resolve()
    kept = cache_folder() / "listings" / f"{hashlib.sha256(str(root).encode()).hexdigest()}.gz"
    stamp = _stamp(root)
    files = None if refresh else _read_listing(kept, stamp)
    if files is not None and all((root / file).is_file() for file in _spread(files)):
        return files
    files = []
    walk = os.walk(root, followlinks=True)
    for folder, inner, names in tqdm(
        walk, desc=f"listing {root.name}", unit="folder", disable=not progress
    ):
        if _leads_back(folder, root):
            inner.clear()
            continue
        below = Path(folder).relative_to(root).as_posix()
        files += names if below == "." else [f"{below}/{name}" for name in names]
    files.sort()
    _write_listing(kept, stamp, files)
    return files


def _leads_back(folder: str, root: Path) -> bool:
    """Whether a folder is a link to one that it is in."""
    if not os.path.islink(folder):
        return False
    above = [p for p in Path(folder).parents if p.is_relative_to(root)]
    return os.path.realpath(folder) in map(os.path.realpath, above)


def _read_listing(path: Path, stamp: list) -> list[str] | None:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            listing = json.load(file)
    except (OSError, ValueError, EOFError, zlib.error):  # not there, or not whole
        return None
    return listing["files"] if listing["stamp"] == stamp else None


def _write_listing(path: Path, stamp: list, files: list[str]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(path, "wt", encoding="utf-8", compresslevel=1) as file:
            json.dump({"stamp": stamp, "files": files}, file)
    except OSError as error:  # a full or read-only cache: it works without
        logger.info("the listing is not kept: %s", error)
