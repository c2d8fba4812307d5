"""From a data set's folder to one table: a reader each.

Every table has a row for each image: `file` (relative to the root), `subject_id` (text), the labels
and, where the data set knows it, `study`, `frontal`, `split`, `report`.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from .folders import DATASETS, DataFolder
from .labels import LABELS
from .tables import label_problems

_MIMIC_SPLITS = {"train": "train", "validate": "valid", "test": "test"}
_REPORT_SECTIONS = ("FINDINGS", "IMPRESSION", "FINDINGS AND IMPRESSION")


def _repeats(table: pd.DataFrame, path: Path, column: str) -> list[str]:
    """Values that occur a second time, and missing ones."""
    values = table[column]
    wrong = values.duplicated() | values.isna()
    return [
        f"{path}, row {row + 1}, column {column!r}: "
        + ("blank" if pd.isna(values.iat[row]) else f"{values.iat[row]!r} a second time")
        for row in np.flatnonzero(wrong)
    ]


def _labels(table: pd.DataFrame) -> dict[str, pd.Series]:
    return {label: table[label].astype(np.float32) for label in LABELS}


def read_chexpert(folder: DataFolder, parts: tuple[str, ...] = ("train", "valid")) -> pd.DataFrame:
    """train.csv and valid.csv, whose name becomes the split; paths lose their first folder."""
    tables = []
    for part in parts:
        table, path = folder.read_csv(f"{part}.csv", ["Path", "Frontal/Lateral", *LABELS])
        folder.raise_if([*_repeats(table, path, "Path"), *label_problems(table, path)])
        steps = table["Path"].str.split("/", n=1).str[1]
        pieces = steps.str.extract(r"^\w+/(?P<patient>patient\d+)/(?P<study>study\d+)/[^/]+$")
        wrong = np.flatnonzero(pieces["study"].isna())
        folder.raise_if(
            f"{path}, row {row + 1}, column 'Path': {table['Path'].iat[row]!r}, expected "
            "'CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg' or the like"
            for row in wrong
        )
        read = {
            "file": steps,
            "subject_id": pieces["patient"],
            "study": pieces["patient"] + "/" + pieces["study"],
            "frontal": table["Frontal/Lateral"] == "Frontal",
            "split": part,
            "report": None,
        }
        tables.append(pd.DataFrame({**read, **_labels(table)}))
    return pd.concat(tables, ignore_index=True)


def read_mimic(folder: DataFolder) -> pd.DataFrame:
    """Metadata, split and CheXpert labels joined; a study that has no labels gets blank ones.

    Reports are left to `read_mimic_reports`, for the rows that are wanted.
    """
    name = "mimic-cxr-2.0.0-{}.csv".format
    images, path = folder.read_csv(
        name("metadata"), ["dicom_id", "subject_id", "study_id", "ViewPosition"]
    )
    splits, splits_path = folder.read_csv(name("split"), ["dicom_id", "split"])
    labels, labels_path = folder.read_csv(name("chexpert"), ["study_id", *LABELS])
    folder.raise_if(
        [
            *_repeats(images, path, "dicom_id"),
            *_repeats(splits, splits_path, "dicom_id"),
            *_repeats(labels, labels_path, "study_id"),
            *label_problems(labels, labels_path),
        ]
    )
    split = images["dicom_id"].map(splits.set_index("dicom_id")["split"])
    folder.raise_if(
        f"{splits_path}: split of {images['dicom_id'].iat[row]!r} is {split.iat[row]!r}, expected "
        f"one of {list(_MIMIC_SPLITS)}"
        for row in np.flatnonzero(~split.isin(_MIMIC_SPLITS))
    )
    patient, study = images["subject_id"].astype(str), images["study_id"].astype(str)
    place = "files/p" + patient.str[:2] + "/p" + patient + "/s" + study
    labelled = labels.set_index("study_id")[LABELS].reindex(images["study_id"])
    read = {
        "file": place + "/" + images["dicom_id"] + ".jpg",
        "subject_id": patient,
        "study": study,
        "frontal": images["ViewPosition"].isin(["AP", "PA"]),
        "split": split.map(_MIMIC_SPLITS),
        "report": None,
    }
    return pd.DataFrame({**read, **_labels(labelled.reset_index(drop=True))})


def read_mimic_reports(folder: DataFolder, table: pd.DataFrame) -> pd.DataFrame:
    """A copy of the table with the findings and impression of each study that has a report."""
    stems = ((PurePosixPath(file).stem, file) for file in folder.files if file.endswith(".txt"))
    found = {stem: file for stem, file in stems if re.fullmatch(r"s\d+", stem)}
    studies = [s for s in table["study"].unique() if f"s{s}" in found]

    def read(study: str) -> str | None:
        text = (folder.root / found[f"s{study}"]).read_text(encoding="utf-8", errors="replace")
        return report_text(text)

    reports = dict(zip(studies, folder.map(read, studies, "reading reports"), strict=True))
    return table.assign(report=[reports.get(study) for study in table["study"]])


def report_text(text: str) -> str | None:
    """Findings and impression of a MIMIC-CXR report; None where it has neither heading.

    A heading is a line's beginning in capitals, up to a colon. White space is made single.
    """
    parts = re.split(r"^[ \t]*([A-Z][A-Z ,/()-]+):", text, flags=re.MULTILINE)
    sections = zip(parts[1::2], parts[2::2], strict=True)
    return _joined(body for heading, body in sections if heading in _REPORT_SECTIONS)


def _joined(sections: Iterable[str | None]) -> str | None:
    """Sections as one text in which a full stop ends each, so that `split_report` parts them."""
    plain = (" ".join((section or "").split()).rstrip(" .") for section in sections)
    return " ".join(f"{section}." for section in plain if section) or None


def read_rsna(folder: DataFolder) -> pd.DataFrame:
    """The stage 2 labels: one row for each box, Target the same in all of an image's rows.

    Pneumonia is Target 1; Normal is all else, lungs with other abnormalities included, as in the
    published evaluation. An image counts as a person: who is behind `patientId` is not in the file.
    """
    boxes, path = folder.read_csv("stage_2_train_labels.csv", ["patientId", "Target"])
    targets = boxes.groupby("patientId")["Target"]
    given = boxes["Target"].tolist()
    folder.raise_if(
        [
            *(
                f"{path}, row {row + 1}, column 'patientId': blank"
                for row in np.flatnonzero(boxes["patientId"].isna())
            ),
            *(
                f"{path}, row {row + 1}, column 'Target': {given[row]!r}, expected 1 or 0"
                for row in np.flatnonzero(~boxes["Target"].isin([0, 1]))
            ),
            *(
                f"{path}: patientId {name!r} has both Target 1 and 0"
                for name in targets.nunique().loc[lambda count: count > 1].index
            ),
        ]
    )
    target = targets.first()
    return _one_hot(
        "rsna", "stage_2_train_images/" + target.index + ".dcm", target.index, target.to_numpy()
    )


def read_covid(folder: DataFolder) -> pd.DataFrame:
    """The PNGs of COVID and of Normal; masks and the other folders are passed over.

    An image counts as a person: whose it is, is not in the files.
    """
    pattern = re.compile(r"(COVID|Normal)/(?:images/)?[^/]+\.png", re.IGNORECASE)
    found = [match for file in folder.files if (match := pattern.fullmatch(file))]
    files = pd.Index([match[0] for match in found])
    positive = np.array([match[1].lower() == "covid" for match in found], int)
    folder.raise_if(
        f"no PNG in {folder.root / name}"
        for name, state in (("Normal", 0), ("COVID", 1))
        if state not in positive
    )
    return _one_hot("covid", files, files.map(lambda file: PurePosixPath(file).stem), positive)


def _one_hot(name: str, files: pd.Index, subjects: pd.Index, positive: np.ndarray) -> pd.DataFrame:
    negative_class, positive_class = DATASETS[name].classes
    table = pd.DataFrame({"file": files, "subject_id": subjects.astype(str), "report": None})
    table[negative_class] = (1 - positive).astype(np.float32)
    table[positive_class] = positive.astype(np.float32)
    return table


def read_openi(folder: DataFolder) -> pd.DataFrame:
    """The reports, a row for each image that they name; `file` is None for a report without one.

    A report is one patient's and one study. Labels are blank. Frontal and lateral views are not
    told apart in the files. An image that is not below the root keeps the name it should have.
    """
    pngs = {PurePosixPath(file).stem: file for file in folder.files if file.endswith(".png")}
    reports = [file for file in folder.files if file.endswith(".xml")]
    rows = []
    for file, (study, text, images) in zip(
        reports, folder.map(lambda f: _openi_report(folder, f), reports, "reading reports"),
        strict=True,
    ):  # fmt: skip
        for image in images or [None]:
            place = image and pngs.get(image, f"{image}.png")
            rows.append({"xml": file, "file": place, "subject_id": study, "report": text})
    table = pd.DataFrame(rows)
    again = table["file"].notna() & table["file"].duplicated()
    folder.raise_if(
        f"{folder.root / row.xml}: image {row.file!r} a second time"
        for row in table[again].itertuples()
    )
    return table.drop(columns="xml").assign(**dict.fromkeys(LABELS, np.float32("nan")))


def _openi_report(folder: DataFolder, file: str) -> tuple[str, str | None, list[str]]:
    """(study, findings and impression, names of images) of one XML file."""
    path = folder.root / file
    try:
        study = ElementTree.parse(path).getroot()
        name = study.find("uId").get("id")
    except (ElementTree.ParseError, AttributeError) as error:
        raise ValueError(folder.message(f"{path} is not an Open-i report: {error}")) from error
    parts = {part.get("Label"): part.text for part in study.iter("AbstractText")}
    report = _joined(map(parts.get, ("FINDINGS", "IMPRESSION")))
    return name, report, [image.get("id") for image in study.iter("parentImage")]
