"""Data sets as people download them, as manifests: images, labels and a documented split.

    table = build_manifest("chexpert-5x200", "CheXpert-v1.0-small")
    manifest_counts(table)

Which images go into which split is in `splits` and, the authors' way, in `authors`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..radiographs import warn_user
from . import readers
from .authors import (
    AUTHORS,
    LOST,
    OVERLAP,
    draw_lists,
    find_rows,
    mark_overlap,
    split_as_authors,
)
from .catalogue import DATASETS
from .drawings import DEMO_SIZES, draw_demo
from .folders import IMAGE_CHECKS, DataFolder
from .labeller import label_sentences
from .labels import LABELS, PRESENT
from .sentences import label_manifest, split_report
from .splits import SPLITS, SPLITTERS, TEST_PER_CLASS, split_by_list
from .tables import FIRST_COLUMNS, check_numbers, check_table

logger = logging.getLogger(__name__)


def build_manifest(
    name: str,
    root: str | Path | None = None,
    *,
    recipe: str = "stratified",
    seed: int = 0,
    test_per_class: int | None = None,
    test_ids: str | Path | None = None,
    sizes: Mapping[str, int] | None = None,
    images: str = "check",
    check_images: bool = True,
    progress: bool = True,
) -> pd.DataFrame:
    """A data set as a manifest; the same arguments give the same one.

    name: one of DATASETS. root: its folder, as DATASETS[name].layout shows; none for demo.
    recipe: "stratified", our own way, or, where there is one, "authors", as below.
    seed: of all random sampling; the authors' lists have their own.
    test_per_class: images of each class in a sampled test of "stratified"; by default as many as
        published (200, 1,769 in rsna, 1,500 in covid).
    test_ids: a file that lists the test images, whoever chose them: one column of paths, DICOM or
        image ids, in the order that the manifest keeps. Train and valid are of other patients.
    sizes: {"train", "valid", "test": drawings}, demo only.
    images: "check", each image of the manifest must be there; "read", must be readable too, which
        takes hours for the large ones; "drop", missing ones are left out before the sampling,
        or after it where a list is given; "trust", nothing is looked for.
    check_images: False is images="trust": a list from the tables alone.

    Returns `imgpath` (path, for demo a PIL image), `subject_id`, `report` (None where there is
    none), `split` ("train", "valid", "test"), `pretrained` (whether the authors pretrained on the
    image), `patient_pretrained` (on others of its patient; both missing where the tables are
    incomplete or NegBio's labels of MIMIC-CXR absent), then the labels: float32, the 14 of CheXpert
    in their four states (with "authors" only 1 and 0), or DATASETS[name].classes one-hot.
    `describe_test` sums up the test images.

    Raises FileNotFoundError for a wrong root or a missing file, ValueError for an argument, column,
    label, path or image that is wrong, for a table that cannot give the authors' list, and for ids
    that match nothing or repeat; each names it, and where relevant the expected layout.
    A COVID list of the authors needs openpyxl.

    "authors" gives exactly the images of MedCLIP's authors, sampled by their repository's steps
    from the data set's own tables, complete and in their original order; it has no `valid`.

        chexpert-5x200      Test: 1,000 images. Train: the other 1,000, to fine-tune on. One of the
        mimic-5x200         five findings present and no other of the 13; uncertain and blank are
                            absent. Any view, image by image, so that patients are in both splits.
                            MIMIC-CXR by NegBio's labels; never compared with a list of theirs.
        chexpert, mimic-cxr Test: the same. Train: all other images, on which they pretrained.
        rsna-whole          Test: 8,005 images, 1,769 with pneumonia. Train: the other 18,679.
        rsna                Test and train: all of these with pneumonia, as many without: 3,538 and
                            8,486, the balanced sets of the paper's table.
        covid               Test: 3,000 drawn from all COVID images and as many normal ones. Train:
                            all other images of the two classes.
        rsna-2x200          200 of each class from test and train of rsna-whole and
        covid-2x200         of covid.

    "stratified" is the clean alternative: classes of equal size, no patient in two splits,
    no uncertain label in the test. Its images are not the authors', who pretrained on most of those
    of CheXpert and MIMIC-CXR.

        chexpert-5x200, mimic-5x200 (only images with exactly one of the five findings)
                    Exclusively positive: one of the five findings present, and no other of the 13
                    present or uncertain. One frontal image per study. Test: 200 per class,
                    one per patient. Train and valid: all such images of the other patients.
        rsna        Test: 1,769 of each class. Train and valid: all other images.
        covid       Test: 1,500 of each class. Train and valid: all other images of the two classes.
        chexpert    Test: valid.csv, read by three radiologists. Train and valid: train.csv, by
                    patient.
        mimic-cxr   The official split.
        openi       70 % train, 10 % valid, 20 % test, by patient.
        demo        Drawings, as many as `sizes` says, each with one of the five findings.

    `valid` has a tenth of the patients that are not in the test. To pretrain on what a sampled test
    leaves: `rest = chexpert[~chexpert["subject_id"].isin(test["subject_id"])]`.
    """
    _check_arguments(name, recipe, seed, images, test_per_class, sizes, test_ids)
    images = images if check_images else "trust"
    if name == "demo":
        table = draw_demo({**DEMO_SIZES, **(sizes or {})}, seed, progress).assign(file=None)
        table = _arranged(mark_overlap(table, table[:0]), LABELS)
    elif name == "openi":
        table = read_openi(root, seed, images, progress, test_ids).manifest
    else:
        readers_of = _AUTHORS_READERS if recipe == "authors" else _READERS
        marker, read = readers_of[name.removesuffix("-2x200").removesuffix("-whole")]
        folder = DataFolder(name, root, marker, progress)
        whole = table = read(folder)
        if recipe == "authors":
            table = split_as_authors(name, table)
        else:
            if images == "drop" and test_ids is None:
                table = folder.check_images(table, "drop")
            table = _split(name, table, test_per_class, test_ids, np.random.default_rng(seed))
        table = _finished(folder, table, images, _pretrained(folder, whole, recipe))
    by, counts = test_ids or recipe, manifest_counts(table).to_string()
    logger.info("%s, %s, seed %d:\n%s", name, by, seed, counts)
    return table


def _check_arguments(
    name: str,
    recipe: str,
    seed: int,
    images: str,
    test_per_class: int | None = None,
    sizes: Mapping[str, int] | None = None,
    test_ids: str | Path | None = None,
) -> None:
    if not isinstance(name, str) or name not in DATASETS:
        lost = f"{LOST[name]}; " if isinstance(name, str) and name in LOST else ""
        raise ValueError(f"unknown data set {name!r}: {lost}expected one of {list(DATASETS)}")
    ours = ["stratified"] if name in SPLITTERS or name == "demo" else []
    recipes = [*ours, *(["authors"] if name in AUTHORS else [])]
    if recipe not in recipes:
        raise ValueError(f"recipe of {name} is {recipe!r}, expected one of {recipes}")
    if images not in IMAGE_CHECKS:
        raise ValueError(f"images is {images!r}, expected one of {IMAGE_CHECKS}")
    check_numbers(seed=seed)
    if test_ids is not None and (name == "demo" or recipe == "authors"):
        raise ValueError(f"test_ids of {name}, {recipe}: expected none, its test images are fixed")
    if test_per_class is not None:
        if recipe == "authors" or test_ids is not None:
            raise ValueError("test_per_class: expected none where the test images are listed")
        if name not in TEST_PER_CLASS:
            raise ValueError(
                f"test_per_class of {name} is {test_per_class}, expected one of {[*TEST_PER_CLASS]}"
            )
        check_numbers(1, **{f"test_per_class of {name}": test_per_class})
    if sizes is not None:
        if name != "demo" or not isinstance(sizes, Mapping) or not set(sizes) <= set(SPLITS):
            raise ValueError(f"sizes of {name} are {sizes}: expected demo, and some of {SPLITS}")
        check_numbers(**{f"sizes, {split}": size for split, size in sizes.items()})


def manifest_counts(table: pd.DataFrame) -> pd.DataFrame:
    """How many images and patients each split has, and in how many images each label is present.

    Returns a row for each of train, valid and test that exists: `images`, `patients`, the labels.
    """
    check_table(table, [*FIRST_COLUMNS, "split"], "table")
    labels = table.columns.drop([*FIRST_COLUMNS, "split", *OVERLAP], errors="ignore")
    counts = (table[labels] == PRESENT).groupby(table["split"]).sum()
    splits = table.groupby("split")
    counts.insert(0, "patients", splits["subject_id"].nunique())
    counts.insert(0, "images", splits.size())
    return counts.loc[[split for split in SPLITS if split in counts.index]]


def _split(
    name: str,
    table: pd.DataFrame,
    count: int | None,
    test_ids: str | Path | None,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """The table with `split`, by a list of test images or our own way."""
    if test_ids is not None:
        return split_by_list(name, table, find_rows(name, table, test_ids), rng)
    return SPLITTERS[name](table, count or TEST_PER_CLASS.get(name, 0), rng)


def _pretrained(folder: DataFolder, table: pd.DataFrame, recipe: str) -> pd.DataFrame | None:
    """The rows that the authors pretrained on; None where the tables do not tell."""
    family = folder.name.split("-")[0]
    if family not in ("chexpert", "mimic"):
        return table[:0]
    try:
        if family == "mimic" and recipe != "authors":
            table = readers.read_mimic(folder, "negbio")
        elif family == "chexpert":
            table = table[table["split"] == "train"]
        return table.drop(draw_lists(f"{family}-5x200", table)["test"])
    except (ValueError, FileNotFoundError) as error:
        logger.info("what the authors pretrained on is not known: %s", error)
        return None


def _finished(
    folder: DataFolder, table: pd.DataFrame, images: str, seen: pd.DataFrame | None
) -> pd.DataFrame:
    """The manifest: images checked, reports read, paths joined to the root."""
    table = folder.check_images(table, images)
    if folder.name.startswith("mimic"):
        table = readers.read_mimic_reports(folder, table)
    table = mark_overlap(table, seen)
    table = table.assign(imgpath=[str(folder.root / file) for file in table["file"]])
    return _arranged(table, folder.known.classes if folder.known.mode == "binary" else LABELS)


def _arranged(table: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    return table[[*FIRST_COLUMNS, "split", *OVERLAP, *labels]].reset_index(drop=True)


_READERS: dict[str, tuple[str, Callable]] = {  # what the root must contain, reader
    "chexpert": ("train.csv*", readers.read_chexpert),
    "chexpert-5x200": ("train.csv*", partial(readers.read_chexpert, parts=("train",))),
    "mimic-cxr": ("mimic-cxr-2.0.0-metadata.csv*", readers.read_mimic),
    "mimic-5x200": ("mimic-cxr-2.0.0-metadata.csv*", readers.read_mimic),
    "rsna": ("stage_2_train_labels.csv*", readers.read_rsna),
    "covid": ("COVID", readers.read_covid),
}
_negbio = "mimic-cxr-2.0.0-metadata.csv*", partial(readers.read_mimic, labeller="negbio")
_AUTHORS_READERS = _READERS | {
    "chexpert": _READERS["chexpert-5x200"],
    "mimic-cxr": _negbio,
    "mimic-5x200": _negbio,
    "covid": ("COVID.metadata.xlsx", readers.read_covid_tables),
}


class OpenI(NamedTuple):
    """manifest: as `build_manifest` returns it. sentences: `Reports` and the 14 labels, each of the
    reports' sentences once, including reports without an image.
    """

    manifest: pd.DataFrame
    sentences: pd.DataFrame

    @property
    def pairs(self) -> pd.DataFrame:
        """`imgpath` and `report` of the images that have one."""
        return self.manifest.loc[self.manifest["report"].notna(), ["imgpath", "report"]]


def read_openi(
    root: str | Path | None,
    seed: int = 0,
    images: str = "check",
    progress: bool = True,
    test_ids: str | Path | None = None,
) -> OpenI:
    """Open-i's manifest, sentence table and pairs; arguments as for `build_manifest`.

    The reports come without CheXpert labels: `label_sentences` adds them. Where negspaCy is not
    installed, all labels stay blank (NaN), with a warning that says how to install it.
    """
    _check_arguments("openi", "stratified", seed, images)
    folder = DataFolder("openi", root, "**/*.xml", progress)
    table = readers.read_openi(folder)
    reports = table["report"].dropna().unique()
    sentences = _labelled([s for report in reports for s in split_report(report, 1)], progress)
    table = folder.check_images(table[table["file"].notna()], images)
    if sentences[LABELS].notna().any(axis=None):  # blank ones would make every study No Finding
        table = label_manifest(table, sentences)
    table = _split("openi", table, None, test_ids, np.random.default_rng(seed))
    return OpenI(_finished(folder, table, "trust", table[:0]), sentences)


def _labelled(sentences: list[str], progress: bool) -> pd.DataFrame:
    try:
        return label_sentences(sentences, progress)
    except ImportError as error:
        warn_user(f"Open-i's labels stay blank: {error}")
        table = pd.DataFrame({"Reports": list(dict.fromkeys(sentences))})
        return table.reindex(columns=["Reports", *LABELS]).astype(dict.fromkeys(LABELS, np.float32))
