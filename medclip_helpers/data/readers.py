"""From a data set's folder to one table: one reader per data set.

Every table has a row for each image: `file` (relative to the root), `subject_id` (text), the labels
and, where the data set knows it, `study`, `frontal`, `split`, `report`.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from itertools import chain
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from .authors import AUTHORS
from .folders import DataFolder
from .labels import LABELS
from .tables import cell_problems

_MIMIC_SPLITS = {"train": "train", "validate": "valid", "test": "test"}
_REPORT_SECTIONS = ("FINDINGS", "IMPRESSION", "FINDINGS AND IMPRESSION")


def read_chexpert(folder: DataFolder, parts: tuple[str, ...] = ("train", "valid")) -> pd.DataFrame:
    """train.csv and valid.csv, whose name becomes the split; paths lose their first folder."""
    tables = []
    for part in parts:
        table, path = folder.read_csv(f"{part}.csv", ["Path", "Frontal/Lateral", *LABELS], "Path")
        paths = table["Path"].astype(str).str.replace("\\", "/")
        steps = paths.str.split("/", n=1).str[1]
        pieces = steps.str.extract(r"^\w+/(?P<patient>patient\d+)/(?P<study>study\d+)/[^/]+$")
        message = (
            "{!r}, expected 'CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg' or "
            "the like"
        )
        folder.raise_if(cell_problems(table, path, "Path", pieces["study"].isna(), message))
        view = table["Frontal/Lateral"].astype(str).str.lower()
        odd, message = ~view.isin(["frontal", "lateral"]), "{!r}, expected Frontal or Lateral"
        folder.raise_if(cell_problems(table, path, "Frontal/Lateral", odd, message))
        tables.append(
            table[LABELS].assign(
                file=steps,
                subject_id=pieces["patient"],
                study=pieces["patient"] + "/" + pieces["study"],
                frontal=view == "frontal",
                split=part,
                report=None,
            )
        )
    return pd.concat(tables, ignore_index=True)


def read_mimic(folder: DataFolder, labeller: str = "chexpert") -> pd.DataFrame:
    """Metadata, split and labels joined; a study that has no labels gets blank ones.

    labeller: "chexpert" or "negbio", which the authors sampled with, without the official split.
    Reports are left to `read_mimic_reports`, for the rows that are wanted.
    """
    name = "mimic-cxr-2.0.0-{}.csv".format
    columns = ["dicom_id", "subject_id", "study_id", "ViewPosition"]
    images, _ = folder.read_csv(name("metadata"), columns, "dicom_id")
    labels, path = folder.read_csv(name(labeller), ["study_id", *LABELS], "study_id")
    labels = labels.set_index("study_id")[LABELS]
    split = None
    if labeller == "negbio":
        studies, other = AUTHORS["mimic-5x200"]["studies"], name("chexpert")
        if len(labels) != studies:
            folder.raise_if([f"{path}: {len(labels):,} studies, expected {studies:,}"])
        if any(folder.root.glob(f"{other}*")):
            twin, where = folder.read_csv(other, ["study_id", *LABELS], "study_id")
            if twin.set_index("study_id")[LABELS].equals(labels):
                folder.raise_if([f"{path} has the same labels as {where}: expected NegBio's"])
    else:
        split = _official_split(folder, images["dicom_id"], name("split"))
    patient, study = images["subject_id"].astype(str), images["study_id"].astype(str)
    place = "files/p" + patient.str[:2] + "/p" + patient + "/s" + study
    labelled = labels.reindex(images["study_id"]).reset_index(drop=True)
    return labelled.assign(
        file=place + "/" + images["dicom_id"] + ".jpg",
        subject_id=patient,
        study=study,
        frontal=images["ViewPosition"].astype(str).str.upper().isin(["AP", "PA"]),
        split=split,
        report=None,
    )


def _official_split(folder: DataFolder, images: pd.Series, name: str) -> pd.Series:
    splits, path = folder.read_csv(name, ["dicom_id", "split"], "dicom_id")
    split = images.map(splits.set_index("dicom_id")["split"])
    odd = ~split.isin(_MIMIC_SPLITS)
    folder.raise_if(
        f"{path}: split of {image!r} is {given!r}, expected one of {list(_MIMIC_SPLITS)}"
        for image, given in zip(images[odd], split[odd], strict=True)
    )
    return split.map(_MIMIC_SPLITS)


def read_mimic_reports(folder: DataFolder, table: pd.DataFrame) -> pd.DataFrame:
    """A copy of the table with the findings and impression of each study that has a report."""
    stems = ((PurePosixPath(file).stem, file) for file in folder.files if file.endswith(".txt"))
    found = {stem: file for stem, file in stems if re.fullmatch(r"s\d+", stem)}
    studies = [study for study in table["study"].unique().tolist() if f"s{study}" in found]

    def read(study: str) -> str | None:
        text = (folder.root / found[f"s{study}"]).read_text(encoding="utf-8", errors="replace")
        return report_text(text)

    reports = dict(zip(studies, folder.map(read, studies, "reading reports"), strict=True))
    return table.assign(report=table["study"].map(reports.get))


def report_text(text: str) -> str | None:
    """Findings and impression of a MIMIC-CXR report; None where it has neither heading.

    A heading is capitals at the start of a line, up to a colon. White space is collapsed.
    """
    parts = re.split(r"^[ \t]*([A-Z][A-Z ,/()-]+):", text, flags=re.MULTILINE)
    sections = zip(parts[1::2], parts[2::2], strict=True)
    return _joined(body for heading, body in sections if heading in _REPORT_SECTIONS)


def _joined(sections: Iterable[str | None]) -> str | None:
    """Sections as one text, each ended by a full stop so that `split_report` separates them."""
    plain = (" ".join((section or "").split()).rstrip(" .") for section in sections)
    return " ".join(f"{section}." for section in plain if section) or None


def read_rsna(folder: DataFolder) -> pd.DataFrame:
    """The stage 2 labels: one row for each box, Target the same in all of an image's rows.

    Pneumonia is Target 1; Normal is all else, lungs with other abnormalities included, as in the
    published evaluation. Each image counts as a patient: `patientId` does not say whose it is.
    """
    boxes, path = folder.read_csv("stage_2_train_labels.csv", ["patientId", "Target"])
    blank, odd = boxes["patientId"].isna(), ~boxes["Target"].isin([0, 1])
    targets = boxes.groupby("patientId")["Target"]
    both = targets.nunique() > 1
    folder.raise_if(
        [
            *cell_problems(boxes, path, "patientId", blank, "blank"),
            *cell_problems(boxes, path, "Target", odd, "{!r}, expected 1 or 0"),
            *(f"{path}: patientId {name!r} has both Target 1 and 0" for name in both.index[both]),
        ]
    )
    target = targets.first()
    files = [f"stage_2_train_images/{name}.dcm" for name in target.index]
    return _one_hot(folder, files, target.to_numpy())


def read_covid(folder: DataFolder) -> pd.DataFrame:
    """The PNGs of COVID and of Normal; masks and the other folders are skipped.

    Each image counts as a patient: the files do not say whose it is.
    """
    pattern = re.compile(r"(COVID|Normal)/(?:images/)?[^/.][^/]*\.png", re.IGNORECASE)
    found = [match for file in folder.files if (match := pattern.fullmatch(file))]
    positive = np.array([match[1].lower() == "covid" for match in found], int)
    folder.raise_if(
        f"no PNG in {folder.root / name}"
        for name, state in (("Normal", 0), ("COVID", 1))
        if state not in positive
    )
    return _one_hot(folder, [match[0] for match in found], positive)


def read_covid_tables(folder: DataFolder) -> pd.DataFrame:
    """The images that the metadata list, Normal first, in their order, as the authors read them."""
    files: list[str] = []
    for part in ("Normal", "COVID"):
        table, _ = folder.read_csv(f"{part}.metadata.xlsx", ["FILE NAME"], "FILE NAME")
        names = table["FILE NAME"].astype(str)
        names = names.str.capitalize() if part == "Normal" else names  # NORMAL-1, but Normal-1.png
        files += [f"{part}/images/{name}.png" for name in names]
    return _one_hot(folder, files, np.array([file.startswith("COVID") for file in files], int))


def _one_hot(folder: DataFolder, files: list[str], positive: np.ndarray) -> pd.DataFrame:
    """A row per image of two classes, one patient each. positive: (images,) 1 for the second."""
    people = [PurePosixPath(file).stem for file in files]
    table = pd.DataFrame({"file": files, "subject_id": people, "report": None})
    one_hot = np.eye(2, dtype=np.float32)[positive]
    return table.assign(**dict(zip(folder.known.classes, one_hot.T, strict=True)))


def read_openi(folder: DataFolder) -> pd.DataFrame:
    """The reports, a row for each image that they name; `file` is None for a report without one.

    Each report is one patient and one study. Labels are blank. The files do not distinguish frontal
    and lateral views. An image that is not below the root keeps the name it should have.
    """
    pngs = {PurePosixPath(file).stem: file for file in folder.files if file.endswith(".png")}

    def read(file: str) -> list[dict]:
        study, report, images = _openi_report(folder, file)
        places: list[str | None] = [pngs.get(image, f"{image}.png") for image in images]
        known = {"xml": file, "subject_id": study, "report": report}
        return [known | {"file": place} for place in places or [None]]

    reports = [file for file in folder.files if file.endswith(".xml")]
    rows = chain.from_iterable(folder.map(read, reports, "reading reports"))
    table = pd.DataFrame(rows)
    again = table[table["file"].notna() & table["file"].duplicated()]
    folder.raise_if(
        f"{folder.root / xml}: image {file!r} is repeated"
        for xml, file in zip(again["xml"], again["file"], strict=True)
    )
    return table.drop(columns="xml").assign(**dict.fromkeys(LABELS, np.float32("nan")))


def _openi_report(folder: DataFolder, file: str) -> tuple[str, str | None, list[str]]:
    """(study, findings and impression, names of images) of one XML file."""
    path = folder.root / file
    try:
        study = ElementTree.parse(path).getroot()
        names = [name.attrib["id"] for name in study.iterfind("uId[@id]")]
        if not names:
            raise ValueError("it has no uId")
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(folder.message([f"{path} is not an Open-i report: {error}"])) from error
    parts = {part.get("Label"): part.text for part in study.iter("AbstractText")}
    report = _joined([parts.get("FINDINGS"), parts.get("IMPRESSION")])
    return names[0], report, [image.attrib["id"] for image in study.iterfind(".//parentImage[@id]")]
