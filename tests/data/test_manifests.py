"""Manifests of data sets: on small trees, on hostile ones, and on the real label files."""

import logging
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dataset_trees import (
    LABELS,
    NAN,
    TREES,
    chexpert_tree,
    covid_tree,
    label_file,
    mimic_tree,
    openi_report,
    openi_tree,
    rsna_tree,
    states,
    write,
)  # fmt: skip
from joblib import Parallel
from openi_reports import ARCHIVE, needs_openi
from PIL import Image

from medclip_helpers.constants import CHEXPERT_COMPETITION
from medclip_helpers.data import (
    DATASETS,
    build_manifest,
    describe_test,
    draw_studies,
    folders,
    manifest_counts,
    manifests,
    read_openi,
    write_reports,
)
from medclip_helpers.data.folders import list_files
from medclip_helpers.data.readers import report_text
from medclip_helpers.demo import draw_phantom, sample_findings, sample_people, write_report
from medclip_helpers.processor import MedCLIPImageProcessor
from medclip_helpers.prompts import load_class_prompts

FIVE = list(CHEXPERT_COMPETITION)
FIRST = ["imgpath", "subject_id", "report", "split", "pretrained", "patient_pretrained"]
PER_CLASS = {"chexpert-5x200": 2, "mimic-5x200": 2, "rsna": 4, "covid": 4}


@pytest.fixture
def labeller(monkeypatch):
    """A labeller that knows one finding, so that the optional one need not be installed."""

    def label(texts, progress=True):
        texts = list(dict.fromkeys(texts))
        rows = [states(Cardiomegaly=1) if "cardiomegaly" in text else states() for text in texts]
        return pd.DataFrame(rows).astype(np.float32).assign(Reports=texts)

    monkeypatch.setattr(manifests, "label_sentences", label)


def build(name, root, **options):
    options.setdefault("test_per_class", PER_CLASS.get(name))
    return build_manifest(name, root, progress=False, **options)


def patients(table, *splits) -> set:
    return set(table.loc[table["split"].isin(splits), "subject_id"])


# --- every data set ---------------------------------------------------------------------------


def test_classes_are_those_of_the_prompts_and_modes_fit_them():
    for name, known in DATASETS.items():
        assert set(known.classes) == set(load_class_prompts(known.prompts)), name
        assert known.mode in ("multiclass", "binary", "multilabel")
        assert known.mode != "binary" or known.classes[0] == "Normal"


@pytest.mark.parametrize("name", TREES)
def test_a_manifest_of_a_small_tree(name, tmp_path, labeller, caplog):
    with caplog.at_level(logging.INFO, "medclip_helpers.data.manifests"):
        root = TREES[name](tmp_path)
        table = build(name, root)
    known = DATASETS[name]
    labels = list(known.classes) if known.mode == "binary" else LABELS
    assert list(table.columns) == [*FIRST, *labels]
    assert (table[labels].dtypes == np.float32).all()
    assert all(Path(path).is_file() and root in Path(path).parents for path in table["imgpath"])
    assert not table["imgpath"].duplicated().any() and list(table.index) == list(range(len(table)))
    assert set(table["split"]) == {"train", "valid", "test"}
    for split in ("train", "valid", "test"):
        others = {"train", "valid", "test"} - {split}
        assert not patients(table, split) & patients(table, *others)
    if known.mode != "multilabel":
        assert ((table[list(known.classes)] == 1).sum(axis=1) == 1).all()
        test = manifest_counts(table).loc["test", list(known.classes)]
        assert (test == PER_CLASS[name]).all()
    assert manifest_counts(table).to_string() in caplog.text


@pytest.mark.parametrize("name", TREES)
def test_the_seed_decides_and_nothing_else(name, tmp_path, labeller):
    root = TREES[name](tmp_path)
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    table = build(name, root, seed=3)
    pd.testing.assert_frame_equal(build(name, root, seed=3), table)
    assert (np.random.get_state()[1] == before).all()
    same = build(name, root, seed=4).equals(table)
    assert same == (name == "mimic-cxr")  # whose split is official


@pytest.mark.parametrize("name", TREES)
def test_the_folder_that_holds_the_root_does_too(name, tmp_path, labeller):
    root = TREES[name](tmp_path / "above")
    assert build(name, root.parent).equals(build(name, root))


def test_counts_are_of_images_patients_and_present_labels(tmp_path):
    table = pd.DataFrame(
        {"imgpath": list("abcd"), "subject_id": list("xxyz"), "report": None,
         "split": ["test", "test", "test", "train"], "Edema": [1, -1, 1, NAN]}
    )  # fmt: skip
    counts = manifest_counts(table)
    assert counts.to_dict("index") == {
        "train": {"images": 1, "patients": 1, "Edema": 0},
        "test": {"images": 3, "patients": 2, "Edema": 2},
    }
    assert list(counts.index) == ["train", "test"]


# --- CheXpert and MIMIC -----------------------------------------------------------------------


def test_chexpert_keeps_the_states_and_tests_on_the_radiologists_labels(tmp_path):
    root = chexpert_tree(tmp_path)
    table = build("chexpert", root)
    assert len(table) == 70 * 4
    assert all("/valid/" in path for path in table.loc[table["split"] == "test", "imgpath"])
    assert all("/train/" in path for path in table.loc[table["split"] != "test", "imgpath"])
    assert len(patients(table, "valid")) == 6  # a tenth of 60
    csv = pd.concat([pd.read_csv(root / "train.csv"), pd.read_csv(root / "valid.csv")])
    assert {-1, 1} < set(csv["Fracture"])
    np.testing.assert_array_equal(table[LABELS], csv[LABELS].astype(np.float32))


@pytest.mark.parametrize("name", ["chexpert-5x200", "mimic-5x200"])
def test_5x200_has_one_certain_finding_one_frontal_image_a_study_one_study_a_patient(
    name, tmp_path
):
    table = build(name, TREES[name](tmp_path))
    labels = table[[label for label in LABELS if label != "No Finding"]]
    assert ((labels == 1).sum(axis=1) == 1).all() and not (labels == -1).any(axis=None)
    assert not table["imgpath"].str.contains("lateral|LATERAL").any()
    assert not table["imgpath"].map(os.path.dirname).duplicated().any()
    assert not table.loc[table["split"] == "test", "subject_id"].duplicated().any()


def test_5x200_needs_no_valid_csv(tmp_path):
    root = chexpert_tree(tmp_path)
    (root / "valid.csv").unlink()
    shutil.rmtree(root / "valid")
    assert len(build("chexpert-5x200", root))
    with pytest.raises(FileNotFoundError, match=r"no file .*valid\.csv"):
        build("chexpert", root)


def test_mimic_has_the_official_split_labels_by_study_and_reports(tmp_path):
    root = mimic_tree(tmp_path)
    table = build("mimic-cxr", root)
    number = table["subject_id"].astype(int) % 10
    expected = number.map({8: "valid", 9: "test"}).fillna("train")
    assert table["split"].tolist() == expected.tolist()
    last = table["imgpath"] == table["imgpath"].iat[-1]
    assert table.loc[last, LABELS].isna().all(axis=None) and table.loc[last, "report"].isna().all()
    assert set(table.loc[~last, "report"]) == {
        "The heart is enlarged. There is no effusion. Cardiomegaly."
    }
    labels = pd.read_csv(root / "mimic-cxr-2.0.0-chexpert.csv.gz").set_index("study_id")
    for row in (0, 1, 2, 50):
        study = int(Path(table["imgpath"].iat[row]).parent.name[1:])
        np.testing.assert_array_equal(
            table.loc[row, LABELS].astype(float), labels.loc[study, LABELS]
        )


def test_mimic_reports_may_lie_beside_the_images_or_be_missing(tmp_path):
    root = mimic_tree(tmp_path)
    wanted = build("mimic-cxr", root)["report"]
    for file in sorted((root / "mimic-cxr-reports").rglob("*.txt")):
        file.rename(root / file.relative_to(root / "mimic-cxr-reports"))
    assert build("mimic-cxr", root)["report"].equals(wanted)
    for file in root.rglob("*.txt"):
        file.unlink()
    assert build("mimic-cxr", root)["report"].isna().all()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FINDINGS: Clear\nlungs\nIMPRESSION: Normal.", "Clear lungs. Normal."),
        (" IMPRESSION: \n\n 1. Edema.\n 2. Effusion.\n", "1. Edema. 2. Effusion."),
        ("FINDINGS AND IMPRESSION: Clear.", "Clear."),
        ("INDICATION: Cough.\n\nClear lungs.", None),
        ("FINDINGS:\nNOTIFICATION: told", None),
        ("", None),
    ],
)
def test_findings_and_impression_of_a_report(text, expected):
    assert report_text(text) == expected


# --- RSNA, COVID ------------------------------------------------------------------------------


def test_rsna_has_a_row_for_each_image_whatever_the_boxes(tmp_path):
    table = build("rsna", rsna_tree(tmp_path))
    assert len(table) == 40 and table["Pneumonia"].sum() == 10
    assert (table["Pneumonia"] == table["subject_id"].str.startswith("b")).all()
    assert (table["Normal"] == 1 - table["Pneumonia"]).all()


def test_covid_folders_without_images_folder_are_read_and_masks_never(tmp_path):
    root = covid_tree(tmp_path)
    table = build("covid", root)
    assert len(table) == 40 and not table["imgpath"].str.contains("masks|Opacity").any()
    assert (table["COVID-19"] == table["imgpath"].str.contains("/COVID/")).all()
    for name in ("COVID", "Normal"):
        for file in (root / name / "images").iterdir():
            file.rename(root / name / file.name)
    assert build("covid", root)["subject_id"].tolist() == table["subject_id"].tolist()


# --- Open-i, demo -----------------------------------------------------------------------------


def test_openi_gives_manifest_sentences_and_pairs(tmp_path, labeller):
    read = read_openi(openi_tree(tmp_path), progress=False)
    assert len(read.manifest) == 19 * 2
    blank = read.manifest["subject_id"] == "CXR3"
    assert read.manifest.loc[blank, LABELS].isna().all(axis=None)
    assert (read.manifest.loc[~blank, "Cardiomegaly"] == 1).all()
    assert (
        read.manifest.loc[~blank, "report"]
        .str.fullmatch(r"The heart is enlarged\. Study \d+ of its kind\. Cardiomegaly\.")
        .all()
    )
    assert "study 4 of its kind" in set(read.sentences["Reports"])  # which has no image
    assert len(read.pairs) == 18 * 2 and list(read.pairs.columns) == ["imgpath", "report"]
    assert len(patients(read.manifest, "test")) == 4  # a fifth of 19
    assert read.manifest.equals(build("openi", tmp_path))


def test_openi_without_the_labeller_is_unlabelled_not_normal(tmp_path, monkeypatch):
    def missing(texts, progress=True):
        raise ImportError("pip install a-labeller")

    monkeypatch.setattr(manifests, "label_sentences", missing)
    said = "labels stay blank: pip install a-labeller"
    with pytest.warns(UserWarning, match=said) as caught:
        read = read_openi(openi_tree(tmp_path), progress=False)
        build("openi", tmp_path / "openi")
    assert [warning.filename for warning in caught] == [__file__] * 2
    assert read.manifest[LABELS].isna().all(axis=None)
    assert read.sentences[LABELS].isna().all(axis=None) and len(read.sentences) == 21


def test_demo_draws_one_finding_each_and_reports_about_it():
    sizes = {"train": 10, "valid": 3, "test": 5}
    table = build_manifest("demo", sizes=sizes, seed=1, progress=False)
    assert table["split"].value_counts().to_dict() == sizes
    assert list(table.columns) == [*FIRST, *LABELS]
    assert not table["subject_id"].duplicated().any() and table["report"].str.endswith(".").all()
    assert ((table[FIVE] == 1).sum(axis=1) == 1).all()
    assert manifest_counts(table).loc["test", FIVE].tolist() == [1] * 5
    for row in (0, 7, 12):  # the report is about what is drawn, its side and degree too
        person = int(table["subject_id"].iat[row].removeprefix("drawing-"))
        findings = sample_findings(person, table.loc[row, FIVE].astype(float).idxmax())
        image = MedCLIPImageProcessor(112).square(
            Image.fromarray(draw_phantom(person, findings).image)
        )
        assert table["imgpath"].iat[row] == image
        report = ". ".join(sentence.text for sentence in write_report(findings, person))
        assert table["report"].iat[row] == f"{report}."
    again = build_manifest("demo", sizes={**sizes, "train": 0}, seed=1, progress=False)
    assert again["subject_id"].tolist() == table["subject_id"].tolist()[10:]
    other = build_manifest("demo", sizes=sizes, seed=2, progress=False)
    assert not set(other["subject_id"]) & set(table["subject_id"])


def test_drawn_studies_are_a_function_of_the_people():
    people = [11, 7, 5]
    table = draw_studies(people, size=32, progress=False)
    assert list(table.columns) == ["imgpath", "subject_id", "report", *LABELS]
    assert table["subject_id"].tolist() == ["drawing-11", "drawing-7", "drawing-5"]
    assert {image.size for image in table["imgpath"]} == {(32, 32)}
    assert table[["Lung Opacity", "Enlarged Cardiomediastinum"]].isna().all(axis=None)
    again = draw_studies(people[::-1], size=32, progress=False)
    assert again["imgpath"].tolist() == table["imgpath"].tolist()[::-1]
    assert again.drop(columns="imgpath").equals(
        table[::-1].reset_index(drop=True).drop(columns="imgpath")
    )
    alone = draw_studies(people, FIVE, size=32, derived=True, progress=False)
    assert (alone[FIVE].to_numpy() == np.eye(5)[:3]).all()
    assert alone["Enlarged Cardiomediastinum"].tolist() == [0, 1, 0]
    assert draw_studies([], progress=False).empty


def test_many_are_drawn_by_all_cores_and_are_the_same_drawings(monkeypatch):
    people = sample_people(100)
    alone = [draw_studies(p, size=32, drawn_size=32, progress=False) for p in people]
    asked = []
    monkeypatch.setattr(
        "medclip_helpers.data.drawings.Parallel",
        lambda jobs, **options: asked.append(jobs) or Parallel(2, **options),
    )
    table = draw_studies(people, size=32, drawn_size=32, progress=False)
    assert asked == [-1]
    pixels = [
        [np.asarray(image).tolist() for image in t.imgpath] for t in (table, pd.concat(alone))
    ]
    assert pixels[0] == pixels[1]
    said = [t.drop(columns="imgpath").reset_index(drop=True) for t in (table, pd.concat(alone))]
    pd.testing.assert_frame_equal(*said)


def test_reports_are_about_the_people_whose_studies_are_drawn():
    people = range(20)
    table, sentences = draw_studies(people, size=32, progress=False), write_reports(people)
    for study, said in sentences.groupby("study"):
        assert ". ".join(said["Reports"]) + "." == table["report"][study]
        drawn = table.loc[study, FIVE] == 1
        assert not (drawn & (said[FIVE] == 0).any()).any()  # what is there is never denied
    other = write_reports(people, range(20, 40))  # in other words
    assert len(set(other["Reports"]) - set(sentences["Reports"])) > 10


# --- what is wrong is named -------------------------------------------------------------------


def edit(path: Path, change) -> None:
    """Rewrites a CSV file by `change`, table -> table."""
    change(pd.read_csv(path)).to_csv(path, index=False)


def put(column, value, row=2):
    """A change that sets one value."""

    def change(table):
        table[column] = table[column].astype(object)
        table.loc[row, column] = value
        return table

    return change


HOSTILE = {
    # data set, file, change of its table, what the error says
    "chexpert column": ("chexpert", "train.csv", lambda t: t.drop(columns="Edema"),
                        r"train\.csv: no column 'Edema'"),
    "chexpert label": ("chexpert", "train.csv", put("Edema", 2),
                       r"train\.csv, row 3, column 'Edema': \S*2\.0\)?, expected 1, 0, -1"),
    "chexpert repeated": ("chexpert", "train.csv", lambda t: pd.concat([t, t.iloc[[4]]]),
                          r"train\.csv, row 241, column 'Path': .*view1_lateral.* is repeated"),
    "chexpert path": ("chexpert", "valid.csv", put("Path", "elsewhere.jpg"),
                      r"valid\.csv, row 3, column 'Path': 'elsewhere.jpg', expected 'CheXpert"),
    "chexpert no path": ("chexpert", "valid.csv", put("Path", None),
                         r"valid\.csv, row 3, column 'Path': blank"),
    "chexpert empty": ("chexpert", "valid.csv", lambda t: t.iloc[:0, :0],
                       r"cannot read .*valid\.csv as a table"),
    "mimic column": ("mimic-cxr", "mimic-cxr-2.0.0-metadata.csv",
                     lambda t: t.drop(columns=["study_id", "ViewPosition"]),
                     r"no column 'study_id'\n.*no column 'ViewPosition'"),
    "mimic label": ("mimic-5x200", "mimic-cxr-2.0.0-chexpert.csv.gz", put("Fracture", "yes"),
                    r"chexpert\.csv\.gz, row 3, column 'Fracture': 'yes', expected"),
    "mimic repeated": ("mimic-cxr", "mimic-cxr-2.0.0-metadata.csv",
                       lambda t: pd.concat([t, t.iloc[[0]]]), r"row 181, column 'dicom_id'"),
    "mimic study repeated": ("mimic-cxr", "mimic-cxr-2.0.0-chexpert.csv.gz",
                             lambda t: pd.concat([t, t.iloc[[0]]]), r"row 120, column 'study_id'"),
    "mimic split repeated": ("mimic-cxr", "mimic-cxr-2.0.0-split.csv",
                             lambda t: pd.concat([t, t.iloc[[0]]]), r"split.csv, row 181, column"),
    "mimic no split": ("mimic-cxr", "mimic-cxr-2.0.0-split.csv", lambda t: t.iloc[1:],
                       r"split of '20000000-AP' is nan, expected one of .*validate"),
    "mimic odd split": ("mimic-cxr", "mimic-cxr-2.0.0-split.csv", put("split", "dev"),
                        r"is 'dev', expected one of"),
    "rsna column": ("rsna", "stage_2_train_labels.csv", lambda t: t.rename(columns=str.lower),
                    r"no column 'patientId'\n.*no column 'Target'"),
    "rsna label": ("rsna", "stage_2_train_labels.csv", put("Target", 2),
                   r"row 3, column 'Target': 2, expected 1 or 0"),
    "rsna no label": ("rsna", "stage_2_train_labels.csv", put("Target", None),
                      r"row 3, column 'Target': nan, expected 1 or 0"),
    "rsna no image": ("rsna", "stage_2_train_labels.csv", put("patientId", None),
                      r"row 3, column 'patientId': blank"),
    "rsna both": ("rsna", "stage_2_train_labels.csv", put("Target", 0),
                  r"patientId 'b001' has both Target 1 and 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_wrong_table_is_named_and_the_layout_shown(case, tmp_path):
    name, file, change, message = HOSTILE[case]
    root = TREES[name](tmp_path)
    edit(root / file, change)
    with pytest.raises(ValueError, match=message) as caught:
        build(name, root)
    assert DATASETS[name].layout in str(caught.value)
    assert DATASETS[name].source in str(caught.value)


def test_a_damaged_archive_is_named(tmp_path):
    root = rsna_tree(tmp_path)
    (root / "stage_2_train_labels.csv").rename(root / "stage_2_train_labels.csv.zip")
    with pytest.raises(ValueError, match=r"cannot read .*labels\.csv\.zip as a table"):
        build("rsna", root)


@pytest.mark.parametrize("name", TREES)
def test_a_wrong_root_is_named_and_the_layout_shown(name, tmp_path):
    (tmp_path / "empty").mkdir()
    for root, error, message in (
        (None, ValueError, "needs root"),
        (tmp_path / "nowhere", FileNotFoundError, r"no folder .*nowhere"),
        (tmp_path / "empty", FileNotFoundError, r"no .* in .*empty"),
    ):
        with pytest.raises(error, match=message) as caught:
            build(name, root)
        assert DATASETS[name].layout in str(caught.value)


@pytest.mark.parametrize("name", ["chexpert", "mimic-cxr", "rsna", "openi"])
def test_missing_images_are_named_or_dropped_or_trusted(name, tmp_path, labeller):
    root = TREES[name](tmp_path)
    one = {"test_per_class": 1} if name == "rsna" else {}
    paths = build(name, root, **one)["imgpath"]
    for path in paths[5:35]:
        os.remove(path)
    with pytest.raises(ValueError, match=r"and 10 more\nexpected, from ") as caught:
        build(name, root, **one)
    named = str(caught.value).splitlines()[:20]
    for line, path in zip(named, paths[5:25], strict=True):
        assert line.startswith("no image file") and line.endswith(Path(path).name)
    dropped = build(name, root, images="drop", **one)
    assert sorted(dropped["imgpath"]) == sorted([*paths[:5], *paths[35:]])
    trusted = build(name, root, images="trust", **one)["imgpath"]
    assert trusted.map(os.path.basename).equals(paths.map(os.path.basename))
    for path in dropped["imgpath"]:
        os.remove(path)
    for images in ("check", "drop"):
        with pytest.raises(
            ValueError, match=rf"none of {len(paths)} images is there, the first is .*\nexpected"
        ):
            build(name, root, images=images, **one)


def test_dropping_looks_whether_the_missing_have_come(tmp_path):
    root = chexpert_tree(tmp_path)
    late = root / "train/patient00001/study2/view1_frontal.jpg"
    content = late.read_bytes()
    late.unlink()
    assert len(build("chexpert", root, images="drop")) == 279
    write(late, content)
    assert len(build("chexpert", root, images="drop")) == 280


def test_an_unreadable_image_is_named_where_it_is_asked_for(tmp_path):
    root = covid_tree(tmp_path)
    broken = root / "COVID/images/COVID-3.png"
    broken.write_bytes(broken.read_bytes()[:50])
    build("covid", root)
    with pytest.raises(ValueError, match=r"cannot read .*COVID-3\.png as a radiograph"):
        build("covid", root, images="read")
    covid_tree(tmp_path)
    assert len(build("covid", root, images="read")) == 40


def test_too_few_images_of_a_class_are_named(tmp_path):
    root = covid_tree(tmp_path)
    with pytest.raises(ValueError, match="30 images to draw 'Normal' from, expected at least 1500"):
        build("covid", root, test_per_class=None)
    shutil.rmtree(root / "Normal")
    with pytest.raises(ValueError, match="no PNG in .*Normal"):
        build("covid", root)
    root = chexpert_tree(tmp_path)
    edit(root / "train.csv", lambda t: t[t["Consolidation"] != 1])
    with pytest.raises(ValueError, match="0 images to draw 'Consolidation' from"):
        build("chexpert-5x200", root)


def test_a_broken_report_and_an_image_of_two_reports_are_named(tmp_path, labeller):
    root = openi_tree(tmp_path)
    write(root / "ecgen-radiology/21.xml", openi_report("CXR21", ["CXR1_IM-1001"]))
    with pytest.raises(ValueError, match=r"'NLMCXR_png/CXR1_IM-1001\.png' is repeated"):
        build("openi", root)
    for content in ("<eCitation><uId", "<eCitation/>"):
        write(root / "ecgen-radiology/21.xml", content)
        with pytest.raises(ValueError, match=r"21\.xml is not an Open-i report"):
            build("openi", root)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nih", {}, "unknown data set 'nih': expected one of"),
        (
            "chexpert",
            {"recipe": "published"},
            r"of chexpert is 'published', expected one of \['stratified', 'authors'\]",
        ),
        ("openi", {"recipe": "authors"}, r"'authors', expected one of \['stratified'\]"),
        ("rsna-whole", {}, r"'stratified', expected one of \['authors'\]"),
        ("covid-0.2", {}, "drew the 20 % .* with a seed that is written nowhere"),
        ("demo", {"test_ids": "x.csv"}, "test_ids of demo, stratified: expected none"),
        ("rsna", {"test_ids": "x.csv", "recipe": "authors"}, "test_ids of rsna, authors"),
        ("rsna", {"test_ids": "x.csv", "test_per_class": 4}, "test_per_class: expected none"),
        ("rsna", {"recipe": "authors", "test_per_class": 4}, "test_per_class: expected none"),
        ("rsna", {"images": "some"}, "images is 'some', expected one of"),
        ("rsna", {"test_per_class": 0}, "test_per_class of rsna is 0"),
        ("openi", {"test_per_class": 5}, "test_per_class of openi is 5"),
        ("demo", {"sizes": {"dev": 5}}, "sizes of demo are .*dev"),
        ("rsna", {"sizes": {"test": 5}}, "sizes of rsna are"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_read(name, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        build_manifest(name, tmp_path / "nowhere", progress=False, **options)


# --- the listing ------------------------------------------------------------------------------


@pytest.mark.parametrize("images", ["check", "drop", "trust"])
def test_a_folder_is_walked_once_a_call_and_only_where_it_must(images, tmp_path, monkeypatch):
    root = chexpert_tree(tmp_path)
    walks, walk = [], os.walk
    monkeypatch.setattr(folders.os, "walk", lambda *a, **k: walks.append(a) or walk(*a, **k))
    assert len(build("chexpert", root, images=images)) == 280
    assert len(walks) == (images != "trust")


def test_every_call_sees_what_came_since(tmp_path):
    root = covid_tree(tmp_path)
    files = list_files(root, progress=False)
    assert files == sorted(files) and "COVID/images/COVID-1.png" in files
    write(root / "README.txt", "new")
    assert "README.txt" in list_files(root, progress=False)
    late = write(root / "COVID/images/deep/COVID-99.png")
    assert "COVID/images/deep/COVID-99.png" in list_files(root, progress=False)
    late.unlink()
    assert list_files(root, progress=False) == sorted([*files, "README.txt"])


def test_linked_folders_are_listed_and_loops_end(tmp_path):
    root, elsewhere = tmp_path / "linked", tmp_path / "elsewhere"
    write(root / "own.csv", "x")
    write(elsewhere / "deep" / "far.png", "x")
    (root / "train").symlink_to(elsewhere)
    (elsewhere / "deep" / "back").symlink_to(root)
    (elsewhere / "up").symlink_to(elsewhere)
    assert list_files(root, progress=False) == ["own.csv", "train/deep/far.png"]


# --- the real label files ---------------------------------------------------------------------


@pytest.fixture
def real_chexpert(tmp_path) -> Path:
    """The 223,414 real rows, and one made-up row for valid.csv, which is not public."""
    root = tmp_path / "real"
    write(root / "train.csv.gz", label_file("chexpert_train.csv.gz").read_bytes())
    header = pd.read_csv(root / "train.csv.gz", nrows=1)
    header["Path"] = "CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg"
    header.to_csv(root / "valid.csv", index=False)
    return root


def test_real_chexpert(real_chexpert):
    csv = pd.read_csv(real_chexpert / "train.csv.gz")
    table = build("chexpert", real_chexpert, images="trust")
    counts = manifest_counts(table)
    assert len(csv) == 223_414 == counts.loc[["train", "valid"], "images"].sum()
    assert counts.loc[["train", "valid"], "patients"].sum() == 64_540
    assert counts.loc["valid", "patients"] == 6454
    assert (counts.loc[["train", "valid"], LABELS].sum() == (csv[LABELS] == 1).sum()).all()
    assert (table[LABELS] == -1).sum().sum() == (csv[LABELS] == -1).sum().sum()


def test_real_chexpert_5x200(real_chexpert):
    table = build("chexpert-5x200", real_chexpert, images="trust", test_per_class=None)
    counts = manifest_counts(table)
    assert (counts.loc["test", FIVE] == 200).all()
    assert counts.loc["test", "images"] == counts.loc["test", "patients"] == 1000
    assert not patients(table, "test") & patients(table, "train", "valid")
    known = describe_test(table)  # of one a patient, the authors pretrained on most
    assert (known["pretrained"], known["known_patients"], known["unseen_images"]) == (906, 773, 22)
    # Every patient with such an image is there: 487 of Consolidation alone have one.
    assert counts["patients"].sum() == table["subject_id"].nunique()
    assert counts["Consolidation"].sum() > 487


def test_real_rsna(tmp_path):
    file = label_file("kaggle_stage_2_train_labels.csv.zip")
    write(tmp_path / "stage_2_train_labels.csv.zip", file.read_bytes())
    table = build("rsna", tmp_path, images="trust", test_per_class=None)
    counts = manifest_counts(table)
    assert counts.loc["test", ["images", "Normal", "Pneumonia"]].tolist() == [3538, 1769, 1769]
    assert counts["Pneumonia"].sum() == 6012 and counts["images"].sum() == 26_684


@needs_openi
def test_real_openi(tmp_path, labeller):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path / "openi", filter="data")
    read = read_openi(tmp_path / "openi", images="trust", progress=False)
    assert len(read.manifest) == 7470 and read.manifest["subject_id"].nunique() == 3955 - 104
    assert manifest_counts(read.manifest)["patients"].tolist() == [2773, 308, 770]
    assert len(read.pairs) == read.manifest["report"].notna().sum() > 7400
    assert (read.manifest["Cardiomegaly"] == 1).sum() > 300
    first = read.manifest.set_index("subject_id").loc["CXR1", "report"].iat[0]
    assert first.startswith("The cardiac silhouette") and first.endswith("Normal chest x-XXXX.")
    with pytest.raises(ValueError, match="none of 7470 images is there, the first is "):
        read_openi(tmp_path / "openi", progress=False)
