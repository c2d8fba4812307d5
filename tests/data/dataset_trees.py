"""Small folders in the layout of each data set, for tests, and the real label files of two.

Every image is the same tiny PNG.
"""

import io
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medclip_helpers.constants import CHEXPERT_COMPETITION, CHEXPERT_LABELS

LABELS = list(CHEXPERT_LABELS)
NAN = float("nan")
CHEXPERT_VIEWS = (  # study and image
    (1, "view1_lateral"),
    (1, "view2_frontal"),
    (2, "view1_frontal"),
    (2, "view2_frontal"),
)


def _png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(file, "PNG")
    return file.getvalue()


PNG = _png()


def write(path: Path, content: bytes | str = PNG) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def states(**known) -> dict:
    """14 labels, blank but for those named; Pleural_Effusion=1 sets "Pleural Effusion"."""
    return {label: known.get(label.replace(" ", "_"), NAN) for label in LABELS}


def _study(i: int) -> dict:
    """Labels of study i: the five findings in turn, alone; each seventh with a second, uncertain,
    each eleventh with a second that is present.
    """
    labels = states(**{CHEXPERT_COMPETITION[i % 5].replace(" ", "_"): 1})
    labels["Fracture"] = -1 if i % 7 == 0 else 1 if i % 11 == 0 else NAN
    return labels


def chexpert_tree(folder: Path, patients: int = 60) -> Path:
    """Two studies a patient: lateral and frontal, frontal twice; ten patients are in valid.csv."""
    root = folder / "CheXpert-v1.0-small"
    for part, first, count in (("train", 1, patients), ("valid", 10**4, 10)):
        rows = []
        for patient in range(first, first + count):
            for study, view in CHEXPERT_VIEWS:
                place = f"{part}/patient{patient:05}/study{study}/{view}.jpg"
                write(root / place)
                rows.append(
                    {
                        "Path": f"CheXpert-v1.0-small/{place}",
                        "Sex": "Female",
                        "Frontal/Lateral": view.split("_")[1].capitalize(),
                        **_study(patient + study),
                    }
                )
        pd.DataFrame(rows).to_csv(root / f"{part}.csv", index=False)
    return root


REPORT = """\
                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  History: fever. COMPARISON:  None.

 FINDINGS:

 The heart is   enlarged. There is
 no effusion.

 IMPRESSION:  Cardiomegaly.
"""


def mimic_tree(folder: Path, patients: int = 60) -> Path:
    """Two studies a patient, the first with an AP and a lateral image; the last has no labels and
    no report. The labels' file is packed.
    """
    root = folder / "mimic-cxr-jpg"
    images, studies = [], []
    for patient in range(10_000_000, 10_000_000 + patients):
        for study in (patient * 2, patient * 2 + 1):
            place = f"files/p{str(patient)[:2]}/p{patient}/s{study}"
            studies.append({"subject_id": patient, "study_id": study, **_study(study)})
            write(root / f"mimic-cxr-reports/{place}.txt", REPORT)
            for view in ("AP", "LATERAL") if study % 2 == 0 else ("PA",):
                image = {"dicom_id": f"{study}-{view}", "subject_id": patient, "study_id": study}
                images.append(image | {"ViewPosition": view})
                write(root / place / f"{study}-{view}.jpg")
    (root / f"mimic-cxr-reports/{place}.txt").unlink()
    table = pd.DataFrame(images)
    table.to_csv(root / "mimic-cxr-2.0.0-metadata.csv", index=False)
    turn = (table["subject_id"] % 10).map({8: "validate", 9: "test"}).fillna("train")
    table.assign(split=turn).drop(columns="ViewPosition").to_csv(
        root / "mimic-cxr-2.0.0-split.csv", index=False
    )
    pd.DataFrame(studies[:-1]).to_csv(root / "mimic-cxr-2.0.0-chexpert.csv.gz", index=False)
    return root


def rsna_tree(folder: Path, pneumonias: int = 10, others: int = 30) -> Path:
    """Every pneumonia has two boxes, and so two rows."""
    root = folder / "rsna"
    rows = [
        {"patientId": f"b{i:03}", "x": x, "Target": 1} for i in range(pneumonias) for x in (1, 2)
    ]
    rows += [{"patientId": f"a{i:03}", "x": NAN, "Target": 0} for i in range(others)]
    table = pd.DataFrame(rows)
    for name in table["patientId"].unique():
        write(root / f"stage_2_train_images/{name}.dcm")
    table.to_csv(root / "stage_2_train_labels.csv", index=False)
    return root


def covid_tree(folder: Path, covid: int = 10, normal: int = 30) -> Path:
    root = folder / "COVID-19_Radiography_Dataset"
    for name, count in (("COVID", covid), ("Normal", normal), ("Lung_Opacity", 5)):
        for i in range(1, count + 1):
            write(root / f"{name}/images/{name}-{i}.png")
            write(root / f"{name}/masks/{name}-{i}.png")
    return root


def openi_report(name: str, images: list[str], findings: str = "", impression: str = "") -> str:
    return (
        f'<?xml version="1.0"?>\n<eCitation><uId id="{name}"/><Abstract>'
        '<AbstractText Label="INDICATION">Cough.</AbstractText>'
        f'<AbstractText Label="FINDINGS">{findings}</AbstractText>'
        f'<AbstractText Label="IMPRESSION">{impression}</AbstractText></Abstract>'
        + "".join(f'<parentImage id="{image}"/>' for image in images)
        + "</eCitation>"
    )


def openi_tree(folder: Path, reports: int = 20) -> Path:
    """Two images a report; report 3 has no text, report 4 no image."""
    root = folder / "openi"
    for i in range(1, reports + 1):
        images = [] if i == 4 else [f"CXR{i}_IM-{view}" for view in (1001, 2001)]
        text = [] if i == 3 else [f"The heart is enlarged. Study {i} of its kind.", "Cardiomegaly."]
        write(root / f"ecgen-radiology/{i}.xml", openi_report(f"CXR{i}", images, *text))
        for image in images:
            write(root / f"NLMCXR_png/{image}.png")
    return root


def label_file(name: str) -> Path:
    """One of the label files that torchxrayvision ships; it is not imported."""
    package = find_spec("torchxrayvision")
    path = package and Path(package.origin).parent / "data" / name
    if not path or not path.is_file():
        pytest.skip(f"no torchxrayvision with {name}: pip install torchxrayvision")
    return path


TREES = {
    "chexpert": chexpert_tree,
    "chexpert-5x200": chexpert_tree,
    "mimic-cxr": mimic_tree,
    "mimic-5x200": mimic_tree,
    "rsna": rsna_tree,
    "covid": covid_tree,
    "openi": openi_tree,
}
