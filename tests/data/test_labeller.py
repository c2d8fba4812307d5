"""The sentence labeller, on sentences by hand and against the experts' headings of Open-i."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from openi_reports import ARCHIVE, ROOT, needs_openi

from medclip_helpers.constants import CHEXPERT_LABELS
from medclip_helpers.data import label_sentences

LABELS = list(CHEXPERT_LABELS)


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("There is a small left pleural effusion.", {"Pleural Effusion": 1}),
        ("No pleural effusion or pneumothorax.", {"Pleural Effusion": 0, "Pneumothorax": 0}),
        ("Possible small effusion.", {"Pleural Effusion": -1}),
        ("Effusion cannot be excluded.", {"Pleural Effusion": -1}),
        ("Small pericardial effusion.", {}),
        ("The heart is mildly enlarged.", {"Cardiomegaly": 1}),
        ("The heart is not enlarged.", {"Cardiomegaly": 0}),
        ("Heart size is normal, and the lungs are clear.", {"Cardiomegaly": 0, "Lung Opacity": 0}),
        ("Heart size at the upper limits of normal.", {"Cardiomegaly": -1}),
        ("Cardiomegaly without edema.", {"Cardiomegaly": 1, "Edema": 0}),
        ("No edema, possible pneumonia.", {"Edema": 0, "Pneumonia": -1}),
        ("The pneumothorax is not visualized.", {"Pneumothorax": 0}),
        ("Atelectasis without significant interval change.", {"Atelectasis": 1}),
        ("History of pneumonia.", {}),
        ("Possible edema, heart size normal.", {"Edema": -1, "Cardiomegaly": 0}),
        ("No edema, otherwise normal chest.", {"Edema": 0, "No Finding": 1}),
        ("No acute cardiopulmonary abnormality.", {"No Finding": 1}),
        ("The lungs are clear of consolidation.", {"Consolidation": 0, "Lung Opacity": 0}),
        ("The trachea is midline.", {}),
        ("", {}),
    ],
)
def test_states(sentence, expected):
    pytest.importorskip("negspacy", reason="negspaCy, an optional extra, is not installed")
    row = label_sentences([sentence], progress=False).iloc[0]
    found = {label: row[label] for label in LABELS if not np.isnan(row[label])}
    assert found == expected


def test_hard_sentences():
    """Doubts, double negations, changes, exceptions and the like: hard_sentences.csv, by kind."""
    pytest.importorskip("negspacy", reason="negspaCy, an optional extra, is not installed")
    table = pd.read_csv(Path(__file__).with_name("hard_sentences.csv"))
    assert table["sentence"].nunique() >= 150 and table["finding"].isin(LABELS).all()
    labelled = label_sentences(table["sentence"], progress=False).set_index("Reports")
    wrong = [
        f"{sentence} {finding}: {found}, expected {expected}"
        for _, sentence, finding, expected in table.itertuples(index=False)
        if not np.array_equal(found := labelled.loc[sentence, finding], expected, equal_nan=True)
    ]
    assert wrong == []


def test_the_table_has_one_row_a_sentence():
    pytest.importorskip("negspacy", reason="negspaCy, an optional extra, is not installed")
    table = label_sentences(["No edema.", "Clear lungs.", "No edema."], progress=False)
    assert table["Reports"].tolist() == ["No edema.", "Clear lungs."]
    assert list(table.columns) == ["Reports", *LABELS]
    empty = label_sentences([], progress=False)
    assert len(empty) == 0 and (empty[LABELS].dtypes == "float32").all()
    assert empty["Reports"].dtype == table["Reports"].dtype
    with pytest.raises(ValueError, match="^sentences"):
        label_sentences([5], progress=False)


def test_progress_is_shown_unless_it_is_not_wanted(capsys):
    pytest.importorskip("negspacy", reason="negspaCy, an optional extra, is not installed")
    label_sentences(["No edema.", "Clear lungs."])
    assert "2/2" in capsys.readouterr().err
    label_sentences(["No edema."], progress=False)
    assert not capsys.readouterr().err


def test_without_negspacy_the_error_says_what_to_install(monkeypatch):
    from medclip_helpers.data import SentenceLabeller

    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(ImportError, match="pip install negspacy"):
        SentenceLabeller()


@needs_openi
def test_agreement_with_the_experts_of_open_i(monkeypatch):
    """The documented figures (mean F1 .88 on the even reports) have not slipped."""
    pytest.importorskip("negspacy", reason="negspaCy, an optional extra, is not installed")
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from measure_labeller import label_reports, read_reports, score

    from medclip_helpers.data import SentenceLabeller

    reports = read_reports(ARCHIVE)
    reports = reports[(reports["number"] % 2 == 0) & (reports["text"] != "")]
    table = score(reports, label_reports(reports, SentenceLabeller()), [1.0])
    assert (table["F1"] > 0.7).all() and table.loc["mean", "F1"] > 0.85
    assert table.loc["Cardiomegaly", "reports"] == 203
