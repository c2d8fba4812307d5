"""Data sets as people download them, as manifests: images, labels and a documented split.

    table = build_manifest("chexpert-5x200", "CheXpert-v1.0-small")
    manifest_counts(table)

What is drawn for which split is in `splits`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..radiographs import warn_user
from . import readers
from .catalogue import DATASETS
from .drawings import DEMO_SIZES, draw_demo
from .folders import IMAGE_CHECKS, DataFolder
from .labeller import label_sentences
from .labels import LABELS, PRESENT
from .sentences import label_manifest, split_report
from .splits import SPLITS, SPLITTERS, TEST_PER_CLASS
from .tables import FIRST_COLUMNS, check_numbers, check_table

logger = logging.getLogger(__name__)


def build_manifest(
    name: str,
    root: str | Path | None = None,
    *,
    recipe: str = "stratified",
    seed: int = 0,
    test_per_class: int | None = None,
    sizes: Mapping[str, int] | None = None,
    images: str = "check",
    progress: bool = True,
) -> pd.DataFrame:
    """A data set as a manifest; the same arguments give the same one.

    name: one of DATASETS. root: its folder, as DATASETS[name].layout shows; none for demo.
    recipe: "stratified" or, where there is one, "published", as below.
    seed: of everything that is drawn.
    test_per_class: images of each class in a sampled test; by default as many as published (200,
        1,769 in rsna, 1,500 in covid).
    sizes: {"train", "valid", "test": drawings}, demo only.
    images: "check", each image of the manifest must be there; "read", must be readable too, which
        takes hours for the large ones; "drop", missing ones are left out before anything is drawn;
        "trust", nothing is looked for.

    Returns `imgpath` (path, for demo a PIL image), `subject_id`, `report` (None where there is
    none), `split` ("train", "valid", "test"), then the labels: float32, the 14 of CheXpert in their
    four states (of "published" 1 and 0 alone), or DATASETS[name].classes one-hot.

    Raises FileNotFoundError for a wrong root or a missing file, ValueError for an argument, column,
    label, path or image that is wrong; each names it and shows the expected layout.

    Two recipes are there where MedCLIP's authors sampled a test set (Wang et al., EMNLP 2022,
    section 4.1, and the `examples/process_*.py` of their repository). Their files of sampled images
    are not public, so that "published" has the published sizes and way of drawing, not the
    published images.

        chexpert-5x200, mimic-5x200 (only images with exactly one of the five findings)
            stratified  Exclusively positive: one of the five findings present, and no other of the
                        13 present or uncertain. One frontal image a study. Test: 200 a class, one
                        a patient. Train and valid: all such images of the other patients.
            published   One of the five present and no other of the 13 present; uncertain and blank
                        as absent. Any view, image by image, so that patients may be on both sides.
                        400 images a class, of which one half, drawn from all 2,000 together, is
                        the test (class counts are then uneven) and the other, on which the authors
                        fine-tune, is train. (Their MIMIC script reads NegBio's labels; here
                        CheXpert's are read.)
        rsna
            stratified  Test: 1,769 of each class. Train and valid: all other images.
            published   Test: as above. Train: the other pneumonias and as many other images, 8,486
                        in all. Our reading of "balanced"; the authors' script draws 30 % of all
                        images instead.
        covid
            stratified  Test: 1,500 of each class. Train and valid: all other images of the two
                        classes.
            published   Test: 3,000 drawn from all COVID images and as many normal ones, without
                        regard to class. Train: all other images of the two classes.

    The other data sets have one recipe, "stratified":

        chexpert    Test: valid.csv, read by three radiologists. Train and valid: train.csv, by
                    patient.
        mimic-cxr   The official split.
        openi       70 % train, 10 % valid, 20 % test, by patient.
        demo        Drawings, as many as `sizes` says, each with one of the five findings.

    `valid` has a tenth of the patients that are not in the test. To pretrain on what a sampled test
    leaves: `rest = chexpert[~chexpert["subject_id"].isin(test["subject_id"])]`.
    """
    _check_arguments(name, recipe, seed, images, test_per_class, sizes)
    if name == "demo":
        table = draw_demo({**DEMO_SIZES, **(sizes or {})}, seed, progress)
    elif name == "openi":
        table = read_openi(root, seed, images, progress).manifest
    else:
        marker, read = _READERS[name]
        folder = DataFolder(name, root, marker, progress)
        table = read(folder)
        if images == "drop":
            table = folder.check_images(table, "drop")
        count = test_per_class or TEST_PER_CLASS.get(name, 0)
        table = SPLITTERS[name][recipe](table, count, np.random.default_rng(seed))
        table = _finished(folder, table, images)
    logger.info("%s, %s, seed %d:\n%s", name, recipe, seed, manifest_counts(table).to_string())
    return table


def _check_arguments(
    name: str,
    recipe: str,
    seed: int,
    images: str,
    test_per_class: int | None = None,
    sizes: Mapping[str, int] | None = None,
) -> None:
    if not isinstance(name, str) or name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}: expected one of {list(DATASETS)}")
    recipes = list(SPLITTERS.get(name, ["stratified"]))
    if recipe not in recipes:
        raise ValueError(f"recipe of {name} is {recipe!r}, expected one of {recipes}")
    if images not in IMAGE_CHECKS:
        raise ValueError(f"images is {images!r}, expected one of {IMAGE_CHECKS}")
    check_numbers(seed=seed)
    if test_per_class is not None:
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
    """How many images and patients each split has, and images in which each label is present.

    Returns a row for each of train, valid and test that there is: `images`, `patients`, the labels.
    """
    check_table(table, [*FIRST_COLUMNS, "split"], "table")
    labels = table.columns.drop([*FIRST_COLUMNS, "split"])
    counts = (table[labels] == PRESENT).groupby(table["split"]).sum()
    splits = table.groupby("split")
    counts.insert(0, "patients", splits["subject_id"].nunique())
    counts.insert(0, "images", splits.size())
    return counts.loc[[split for split in SPLITS if split in counts.index]]


def _finished(folder: DataFolder, table: pd.DataFrame, images: str) -> pd.DataFrame:
    """The manifest: images checked, reports read, paths joined to the root."""
    table = folder.check_images(table, images)
    if folder.name.startswith("mimic"):
        table = readers.read_mimic_reports(folder, table)
    table = table.assign(imgpath=[str(folder.root / file) for file in table["file"]])
    labels = folder.known.classes if folder.known.mode == "binary" else LABELS
    return table[[*FIRST_COLUMNS, "split", *labels]].reset_index(drop=True)


_READERS: dict[str, tuple[str, Callable]] = {  # what must stand in the root, reader
    "chexpert": ("train.csv*", readers.read_chexpert),
    "chexpert-5x200": ("train.csv*", partial(readers.read_chexpert, parts=("train",))),
    "mimic-cxr": ("mimic-cxr-2.0.0-metadata.csv*", readers.read_mimic),
    "mimic-5x200": ("mimic-cxr-2.0.0-metadata.csv*", readers.read_mimic),
    "rsna": ("stage_2_train_labels.csv*", readers.read_rsna),
    "covid": ("COVID", readers.read_covid),
}


class OpenI(NamedTuple):
    """manifest: as `build_manifest` returns it. sentences: `Reports` and the 14 labels, each of the
    reports' sentences once, of those without an image too.
    """

    manifest: pd.DataFrame
    sentences: pd.DataFrame

    @property
    def pairs(self) -> pd.DataFrame:
        """`imgpath` and `report` of the images that have one."""
        return self.manifest.loc[self.manifest["report"].notna(), ["imgpath", "report"]]


def read_openi(
    root: str | Path | None, seed: int = 0, images: str = "check", progress: bool = True
) -> OpenI:
    """Open-i's manifest, sentence table and pairs; arguments as for `build_manifest`.

    The reports come without CheXpert labels: `label_sentences` writes them. Where it is not
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
    table = SPLITTERS["openi"]["stratified"](table, 0, np.random.default_rng(seed))
    return OpenI(_finished(folder, table, "trust"), sentences)


def _labelled(sentences: list[str], progress: bool) -> pd.DataFrame:
    try:
        return label_sentences(sentences, progress)
    except ImportError as error:
        warn_user(f"Open-i's labels stay blank: {error}")
        table = pd.DataFrame({"Reports": list(dict.fromkeys(sentences))})
        return table.reindex(columns=["Reports", *LABELS]).astype(dict.fromkeys(LABELS, np.float32))
