"""The authors' lists: whole on the real tables, by their steps where those are not to be had."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dataset_trees import (
    LABELS,
    chexpert_tree,
    covid_tree,
    label_file,
    openi_tree,
    rsna_tree,
    states,
    write,
)
from PIL import Image

from medclip_helpers.__main__ import main
from medclip_helpers.constants import CHEXPERT_COMPETITION
from medclip_helpers.data import (
    build_manifest,
    cache_images,
    describe_test,
    manifest_counts,
    manifests,
    read_manifest,
    read_sentences,
    split_report,
)
from medclip_helpers.data.authors import (
    AUTHORS,
    draw_lists,
    find_rows,
    image_ids,
    list_hash,
    mark_overlap,
)
from medclip_helpers.data.folders import DataFolder
from medclip_helpers.data.readers import read_chexpert, read_rsna

FIVE = list(CHEXPERT_COMPETITION)
# the rows that the head of the authors' repository shows in chexpert-5x200-val-meta.csv
FIRST = [
    "patient52284/study5/view2_lateral", "patient32146/study3/view1_frontal",
    "patient03615/study1/view2_lateral", "patient06853/study1/view1_frontal",
    "patient05285/study1/view1_frontal", "patient46560/study1/view1_frontal",
    "patient51010/study3/view1_frontal", "patient17251/study3/view1_frontal",
    "patient39826/study6/view1_frontal",
]  # fmt: skip


def build(name, root, **options):
    options = {"recipe": "authors", "check_images": False, **options}
    return build_manifest(name, root, progress=False, **options)


def ids_of(table, split="test"):
    return image_ids(table.loc[table["split"] == split, "imgpath"]).tolist()


# --- CheXpert -------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def chexpert_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("real-chexpert")
    write(root / "train.csv.gz", label_file("chexpert_train.csv.gz").read_bytes())
    return root


@pytest.fixture(scope="session")
def real_table(chexpert_root):
    """The 223,414 rows as they are read; not to be changed."""
    return read_chexpert(DataFolder("chexpert-5x200", chexpert_root, "train.csv*"), ("train",))


def test_the_chexpert_list_is_the_authors_to_the_last_row(chexpert_root, real_table, monkeypatch):
    reader = "train.csv*", lambda folder: real_table  # which takes seconds to read
    monkeypatch.setitem(manifests._AUTHORS_READERS, "chexpert-5x200", reader)
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    table = build("chexpert-5x200", chexpert_root)
    assert (np.random.get_state()[1] == before).all()
    ids = ids_of(table)
    assert ids[:9] == FIRST
    assert list_hash(ids)[:16] == "854a98a3c863e1aa"  # in their order, from their script's steps
    assert list_hash(ids_of(table, "train"))[:16] == "ce5416e6c888ccf6"
    counts = manifest_counts(table)
    assert counts.loc["test", FIVE].tolist() == [215, 197, 200, 188, 200]
    assert (counts[FIVE].sum() == 400).all() and counts["images"].tolist() == [1000, 1000]
    assert sum("frontal" in name for name in ids) == 798
    assert set(np.unique(table[LABELS])) == {0, 1}
    train = table[table["split"] == "train"]
    assert train["pretrained"].all()  # they fine-tuned on what they had pretrained on
    assert describe_test(table) == {
        "sha256": AUTHORS["chexpert-5x200"]["test"], "list": "chexpert-5x200",
        "images": 1000, "patients": 958, "pretrained": 0,
        "known_images": 852, "known_patients": 821, "unseen_images": 148, "unseen_patients": 137,
        "sentence": "1,000 test images of 958 patients. The authors pretrained on 0 of the images, "
        "and on other images of 821 of the patients (852 images); 148 images of 137 patients are "
        "of people that they never pretrained on.",
    }  # fmt: skip


def test_what_is_left_of_chexpert_is_the_pretraining_set(real_table):
    lists = draw_lists("chexpert", real_table)
    assert len(lists["train"]) == 223_414 - 1000 and lists["train"].is_monotonic_increasing
    assert lists["test"][:3].tolist() == [205469, 133942, 14551]  # row numbers in their file


def test_another_table_cannot_give_the_list(real_table):
    columns = [*LABELS, "file"]

    def refused(table):
        with pytest.raises(ValueError, match="list of chexpert-5x200 cannot be drawn") as caught:
            draw_lists("chexpert-5x200", table)
        return str(caught.value)

    expected = "expected the 223,414 of train.csv of CheXpert-v1.0(-small) in their original order"
    filtered = real_table.loc[real_table["frontal"], columns]
    assert f"which has 191,027 rows, {expected}" in refused(filtered)
    assert "0 rows" in refused(real_table[:0])
    backwards = refused(real_table.loc[::-1, columns])
    assert f"'patient64540/study1/view1_frontal' first, {expected}" in backwards
    swapped = real_table["file"].tolist()
    swapped[5], swapped[6] = swapped[6], swapped[5]
    moved = real_table[columns].assign(file=swapped)
    assert "other images or another row order, 'patient00001/study1/" in refused(moved)
    none_alone = real_table[columns].assign(Fracture=1)
    assert "labels other than those of train.csv" in refused(none_alone)
    row = draw_lists("chexpert-5x200", real_table)["test"][0]
    relabelled = real_table[columns].copy()
    relabelled.loc[row, "Edema"] = 1
    assert "labels other than those of train.csv of CheXpert" in refused(relabelled)


# --- RSNA -----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def rsna_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("real-rsna")
    file = label_file("kaggle_stage_2_train_labels.csv.zip")
    write(root / "stage_2_train_labels.csv.zip", file.read_bytes())
    return root


@pytest.mark.parametrize(
    # images and pneumonias of test and train, and the ids that the authors' notebook prints first
    ("name", "test", "train", "first"),
    [
        ("rsna-whole", (8005, 1769), (18679, 4243), ("000924cf", "6a4d75d0")),
        ("rsna", (3538, 1769), (8486, 4243), ("00436515", "6a4d75d0")),
        ("rsna-2x200", (400, 200), (400, 200), ("99772300", "dc4d3a01")),
    ],
)
def test_the_rsna_lists_are_the_authors(name, test, train, first, rsna_root):
    table = build(name, rsna_root)
    counts = manifest_counts(table)
    assert tuple(counts.loc["test", ["images", "Pneumonia"]]) == test
    assert tuple(counts.loc["train", ["images", "Pneumonia"]]) == train
    assert [ids_of(table, split)[0][:8] for split in ("test", "train")] == list(first)
    assert not set(ids_of(table)) & set(ids_of(table, "train"))
    found = describe_test(table)
    assert found["list"] == name and found["unseen_images"] == test[0]
    assert found["sentence"].endswith("pretrained on none of them, nor on other images of their "
                                      "patients.")  # fmt: skip


def test_rsna_prints_the_last_ids_too(rsna_root):
    assert ids_of(build("rsna", rsna_root))[-1].startswith("c87992ba")
    assert ids_of(build("rsna-whole", rsna_root), "train")[-1].startswith("9d79432c")
    assert ids_of(build("rsna-2x200", rsna_root), "train")[-1].startswith("948e6874")


def test_rsna_without_one_image_gives_no_list(rsna_root):
    table = read_rsna(DataFolder("rsna", rsna_root, "*.zip"))
    with pytest.raises(ValueError, match="26,683 rows, expected the 26,684 of stage_2_train_la"):
        draw_lists("rsna", table[:-1])


def test_images_are_looked_for_after_the_list_is_drawn(tmp_path, monkeypatch):
    known = {"table": "a small one", "rows": 40}
    monkeypatch.setitem(AUTHORS, "rsna-whole", known)
    root = rsna_tree(tmp_path)
    whole = build("rsna-whole", root, check_images=True)
    assert whole["imgpath"].tolist() == build("rsna-whole", root)["imgpath"].tolist()
    for path in whole["imgpath"][2:27]:
        (root / path).unlink()
    with pytest.raises(ValueError, match="no image file (?s:.*)and 5 more") as caught:
        build("rsna-whole", root, check_images=True)
    assert str(caught.value).startswith(f"no image file {whole['imgpath'][2]}")
    dropped = build("rsna-whole", root, check_images=True, images="drop")
    assert dropped["imgpath"].tolist() == whole["imgpath"].drop(range(2, 27)).tolist()


# --- COVID ----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def covid_root(tmp_path_factory):
    """The metadata alone, with as many images as the real ones have."""
    pytest.importorskip("openpyxl", reason="openpyxl is not installed")
    root = tmp_path_factory.mktemp("covid")
    for part, count in (("COVID", 3616), ("Normal", 10192)):
        name = part.upper() if part == "Normal" else part
        table = pd.DataFrame({"FILE NAME": [f"{name}-{i}" for i in range(1, count + 1)]})
        table.to_excel(root / f"{part}.metadata.xlsx", index=False)
    return root


def test_covid_is_drawn_by_the_authors_steps(covid_root):
    table = build("covid", covid_root)
    counts = manifest_counts(table)
    assert counts["images"].to_dict() == {"train": 10808, "test": 3000}
    assert counts.loc["test", "COVID-19"] == 1483  # 49.433 % in their notebook
    ids = ids_of(table)
    # the row numbers that it prints; below 3,616 they count the COVID images
    rows = {0: 699, 1: 1130, 2: 101, 4: 313, -5: 2241, -4: 525, -3: 98, -2: 2606, -1: 2858}
    assert {place: ids[place] for place in rows} == {
        place: f"COVID-{row + 1}" for place, row in rows.items()
    }
    assert ids[3].startswith("Normal-") and "/Normal/images/Normal-" in table["imgpath"][3]
    assert ids_of(table, "train")[0].startswith("Normal-")
    small = build("covid-2x200", covid_root)
    assert manifest_counts(small)["COVID-19"].to_dict() == {"train": 200, "test": 200}
    assert set(ids_of(small)) < set(ids) and not set(ids_of(small, "train")) & set(ids)


def test_covid_tables_that_are_wrong_are_named(covid_root, tmp_path):
    for name in ("COVID", "Normal"):
        content = (covid_root / f"{name}.metadata.xlsx").read_bytes()
        write(tmp_path / f"{name}.metadata.xlsx", content)
    pd.DataFrame({"NAME": ["COVID-1"]}).to_excel(tmp_path / "COVID.metadata.xlsx")
    with pytest.raises(ValueError, match=r"COVID\.metadata\.xlsx: no column 'FILE NAME'"):
        build("covid", tmp_path)
    pd.DataFrame({"FILE NAME": ["COVID-1"]}).to_excel(tmp_path / "COVID.metadata.xlsx")
    with pytest.raises(ValueError, match="10,193 rows, expected the 13,808 of Normal.metadata"):
        build("covid", tmp_path)
    write(tmp_path / "COVID.metadata.xlsx", b"no workbook")
    with pytest.raises(ValueError, match=r"cannot read .*COVID\.metadata\.xlsx as a table"):
        build("covid", tmp_path)


# --- MIMIC ----------------------------------------------------------------------------------------


@pytest.fixture
def mimic_root(tmp_path, monkeypatch):
    """2,600 studies with an image each, of 1,300 patients; NegBio and CheXpert disagree."""
    name, rows = "mimic-cxr-2.0.0-{}.csv".format, []
    for i in range(2600):
        finding = {FIVE[i % 5].replace(" ", "_"): 1}
        rows.append({"study_id": i, **states(**finding, Fracture=-1 if i % 3 else 0)})
    labels, images = pd.DataFrame(rows), pd.DataFrame({"study_id": range(2600)})
    labels.to_csv(tmp_path / name("negbio"), index=False)
    labels.assign(Edema=1).to_csv(tmp_path / name("chexpert"), index=False)
    images = images.assign(dicom_id=[f"d{i}" for i in range(2600)], ViewPosition="LATERAL")
    images["subject_id"] = 10_000_000 + images["study_id"] // 2
    images.to_csv(tmp_path / name("metadata"), index=False)
    known = {"table": "a small one", "rows": 2600, "first": "d0", "studies": 2600}
    for which in ("mimic-cxr", "mimic-5x200"):
        monkeypatch.setitem(AUTHORS, which, known)
    return tmp_path


def test_mimic_is_drawn_by_the_steps_of_chexpert_from_negbio(mimic_root):
    table = build("mimic-5x200", mimic_root)
    labels = pd.read_csv(mimic_root / "mimic-cxr-2.0.0-negbio.csv")
    rng = np.random.RandomState(42)
    of_each = [labels[labels[name] == 1].sample(n=400, random_state=rng) for name in FIVE]
    expected = pd.concat(of_each).sample(frac=0.5, random_state=rng)["study_id"]
    assert ids_of(table) == [f"d{study}" for study in expected]
    assert (table[FIVE].sum() == 400).all() and set(np.unique(table[LABELS])) == {0, 1}
    rest = build("mimic-cxr", mimic_root)
    assert manifest_counts(rest)["images"].to_dict() == {"train": 1600, "test": 1000}
    test = set(ids_of(table))
    known = [f"d{int(name[1:]) ^ 1}" not in test for name in ids_of(table)]  # the other image
    assert table.loc[table["split"] == "test", "patient_pretrained"].tolist() == known
    ours = describe_test(rest)
    assert ours["sha256"] == describe_test(table)["sha256"] and ours["list"] is None


def test_mimic_says_what_the_list_needs(mimic_root):
    def problem(name="mimic-5x200", **options):
        with pytest.raises((ValueError, FileNotFoundError)) as caught:
            build(name, mimic_root, **options)
        return str(caught.value)

    negbio, chexpert = (
        mimic_root / f"mimic-cxr-2.0.0-{name}.csv" for name in ("negbio", "chexpert")
    )
    content = negbio.read_text()
    negbio.write_text(content.rsplit("\n", 2)[0])
    assert "2,599 studies, expected 2,600" in problem()
    negbio.write_text(chexpert.read_text())
    assert f"{negbio} has the same labels as {chexpert}: expected NegBio's" in problem()
    negbio.unlink()
    assert f"no file {negbio}" in problem() and "negbio.csv(.gz)" in problem()


# --- anybody's list -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg",
         "patient00001/study1/view1_frontal"),
        ("C:\\data\\valid\\patient64541\\study1\\view1_frontal.JPG",
         "patient64541/study1/view1_frontal"),
        ("patient00001/study1/view1_frontal", "patient00001/study1/view1_frontal"),
        ("files/p10/p10000032/s50414267/02aa804e-bde0.jpg", "02aa804e-bde0"),
        (" 1.2.840.113 ", "1.2.840.113"),
        ("images/COVID-1.png", "COVID-1"),
        ("a/", "a/"),
        ("", ""),
    ],
)  # fmt: skip
def test_an_image_has_one_id_in_whatever_folder(path, expected):
    assert image_ids([path]).tolist() == [expected]


def listed(tmp_path, text):
    return write(tmp_path / "list.csv", text)


def test_a_list_of_ones_own_is_the_test_in_its_order(tmp_path):
    root = rsna_tree(tmp_path)
    file = listed(tmp_path, "ImageID\nb003.dcm\n\nsome/folder/a011.png\nb001\n")
    table = build("rsna", root, recipe="stratified", test_ids=file, check_images=True)
    assert ids_of(table) == ["b003", "a011", "b001"]
    assert sum(table["split"] != "test") == 37 and sum(table["split"] == "valid") == 4
    found = describe_test(table)
    assert found["sha256"] == list_hash(["a011", "b001", "b003"]) and found["list"] is None
    (root / "stage_2_train_images/a011.dcm").unlink()
    dropped = build("rsna", root, recipe="stratified", test_ids=file, check_images=True,
                    images="drop")  # fmt: skip
    assert ids_of(dropped) == ["b003", "b001"]


def test_of_5x200_a_list_takes_its_patients_out_and_train_keeps_one_finding(tmp_path):
    root = chexpert_tree(tmp_path)
    file = listed(tmp_path, "CheXpert-v1.0-small/train/patient00004/study1/view1_lateral.jpg\n")
    table = build("chexpert-5x200", root, recipe="stratified", test_ids=file)
    assert ids_of(table) == ["patient00004/study1/view1_lateral"]
    rest = table[table["split"] != "test"]
    findings = rest[[label for label in LABELS if label != "No Finding"]]
    assert ((findings == 1).sum(axis=1) == 1).all() and not (findings == -1).any(axis=None)
    assert "patient00004" not in set(rest["subject_id"])
    assert table["pretrained"].isna().all() and table["patient_pretrained"].isna().all()
    found = describe_test(table)
    assert found["pretrained"] is None and "is not known" in found["sentence"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a001\nz9\nz8\n", "'z9' is not an image of rsna, the first of 2 among 3 ids"),
        ("a001\na002\na001\na002.dcm\n", "'a001' is repeated, the first of 2 among 4 ids"),
        ("a001,1\na002,0\n", "has 2 columns, expected one of paths or ids"),
        ("a001\na002,0\n", "cannot read .*list.csv as one column"),
        ("", "cannot read .*list.csv as one column"),
        ("patientId\n", "has no ids"),
    ],
)
def test_a_list_that_is_wrong_is_named(text, message, tmp_path):
    table = pd.DataFrame({"file": ["images/a001.dcm", "images/a002.dcm"]})
    with pytest.raises(ValueError, match=message):
        find_rows("rsna", table, listed(tmp_path, text))


# --- what the authors pretrained on ---------------------------------------------------------------


def test_overlap_is_of_the_image_and_of_others_of_its_patient():
    table = pd.DataFrame({"file": list("abcde"), "subject_id": list("xxyyz")})
    marked = mark_overlap(table, table[1:4])  # b, c, d
    assert marked["pretrained"].tolist() == [False, True, True, True, False]
    assert marked["patient_pretrained"].tolist() == [True, False, True, True, False]


def test_a_manifest_is_described_alike_when_read_again(tmp_path):
    table = pd.DataFrame(
        {"imgpath": ["b.png", "a.png", "c.png"], "subject_id": list("xxy"), "report": None,
         "split": "test", "pretrained": [True, False, False],
         "patient_pretrained": [False, True, False], "Edema": 1.0}
    )  # fmt: skip
    found = describe_test(table)
    table[::-1].to_csv(tmp_path / "manifest.csv", index=False)
    assert describe_test(pd.read_csv(tmp_path / "manifest.csv")) == found
    assert [found[name] for name in ("pretrained", "known_images", "unseen_patients")] == [1, 1, 1]
    with pytest.raises(ValueError, match="table: no column 'pretrained'"):
        describe_test(table.drop(columns="pretrained"))


def test_drawings_are_described_too():
    table = build_manifest("demo", sizes={"test": 2, "train": 0, "valid": 0}, progress=False)
    found = describe_test(table)
    assert found["unseen_images"] == 2
    assert found["sha256"] == list_hash(sorted(table["subject_id"]))


# --- the command line -----------------------------------------------------------------------------


def test_data_writes_the_manifest_and_says_what_was_seen(rsna_root, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(rsna_root.parent)
    out = tmp_path / "new" / "manifest.csv"
    words = ["data", "rsna", rsna_root.name, "--recipe", "authors", "--no-check-images"]
    assert main([*words, "--out", str(out)]) == 0
    said, table = capsys.readouterr().out, build("rsna", rsna_root)
    assert said.startswith(f"{out}: 3,538 test images of ")
    assert said.endswith(f"Test list: {AUTHORS['rsna']['test']}\n")
    written = pd.read_csv(out)
    assert written["report"].isna().all() and table["report"].isna().all()
    columns = table.columns.drop("report")  # None here, NaN there
    pd.testing.assert_frame_equal(written[columns], table[columns], check_dtype=False)
    assert describe_test(written) == describe_test(table)


def test_data_takes_a_list_and_a_seed(tmp_path, capsys):
    root, file = rsna_tree(tmp_path), listed(tmp_path, "b003\na011\n")
    words = ["data", "rsna", str(root), "--test-ids", str(file), "--out", str(tmp_path / "x.csv")]
    tables = []
    for seed in "01":
        assert main([*words, "--seed", seed]) == 0
        tables.append(pd.read_csv(tmp_path / "x.csv"))
        assert ids_of(tables[-1]) == ["b003", "a011"]
    assert not tables[0].equals(tables[1])


def test_data_writes_small_copies_and_goes_on(tmp_path, capsys):
    root, out = covid_tree(tmp_path), tmp_path / "covid.csv"
    words = ["data", "covid", str(root), "--test-ids", str(listed(tmp_path, "COVID-3\n"))]
    words += ["--cache", "32", "--out", str(out)]
    assert main(words) == 0
    table = pd.read_csv(out)
    copies = [Path(path) for path in table["imgpath"]]
    assert len(copies) == 40 and copies[0].is_relative_to(tmp_path / "covid-32")
    assert Image.open(copies[0]).size == (32, 32) and ids_of(table) == ["COVID-3"]
    copies[0].unlink()
    kept = copies[1].stat().st_mtime_ns
    write(root / "Normal/images/Normal-1.png", "no picture")
    (tmp_path / "covid-32/Normal/images/Normal-1.png.png").unlink(missing_ok=True)
    assert main(words) == 2
    assert "1 of 40 images have no copy, first: " in (said := capsys.readouterr().err)
    assert "Normal-1.png" in said and pd.read_csv(out).equals(table)
    assert copies[1].stat().st_mtime_ns == kept
    assert sum(path.is_file() for path in copies) == 39
    with pytest.raises(ValueError, match="is not in .*, the first of 40 images"):
        cache_images(table, root, tmp_path / "x")


def test_small_copies_are_each_of_its_own_image(tmp_path):
    """Of one stem, in two rows, changed since, of another size; and a row may have text alone."""
    for name, grey in {"1.2.1": 10, "1.2.2": 200, "a.jpg": 50, "a.png": 90}.items():
        Image.new("L", (40, 40), grey).save(tmp_path / name, "PNG")
    names = ["1.2.1", "1.2.2", "a.jpg", "a.png", "a.png"]
    table = pd.DataFrame({"imgpath": [*(str(tmp_path / name) for name in names), None]})

    def greys(size: int) -> list[tuple]:
        copies = cache_images(table, tmp_path, tmp_path / "out", size, progress=False)["imgpath"]
        assert copies[4] == copies[3] and pd.isna(copies[5])
        opened = [Image.open(path) for path in copies[:4]]
        return [(image.size[0], image.getpixel((9, 9))) for image in opened]

    assert greys(20) == [(20, 10), (20, 200), (20, 50), (20, 90)]
    Image.new("L", (40, 40), 130).save(tmp_path / "a.png")
    later = (tmp_path / "out/a.png.png").stat().st_mtime + 5
    os.utime(tmp_path / "a.png", (later, later))
    assert greys(20)[3] == (20, 130)
    assert {size for size, _ in greys(16)} == {16}
    with pytest.raises(ValueError, match="row 0: imgpath is 7, expected a path"):
        cache_images(pd.DataFrame({"imgpath": [7]}), tmp_path, tmp_path / "out")


def test_an_id_is_a_name(tmp_path):
    """Read from a file too: 007 is not 7, and excluding patients excludes them."""
    table = build_manifest("covid", covid_tree(tmp_path), seed=0, test_per_class=5)
    table = table.assign(subject_id=[f"{i:03}" for i in range(len(table))])
    table = table.assign(**{name: 0 for name in LABELS if name not in table})
    table.to_csv(tmp_path / "whole.csv", index=False)
    read = read_manifest(tmp_path / "whole.csv")
    assert read["subject_id"].tolist() == table["subject_id"].tolist()


def test_data_writes_labelled_sentences_of_what_is_not_tested(tmp_path, capsys):
    pytest.importorskip("negspacy")
    root, out = openi_tree(tmp_path), tmp_path / "openi.csv"
    sentences = tmp_path / "sentences.csv"
    assert main(["data", "openi", str(root), "--out", str(out), "--sentences", str(sentences)]) == 0
    table, found = pd.read_csv(out), read_sentences(sentences)
    train = table[table["split"] != "test"]["report"].dropna().unique()
    assert set(found["Reports"]) == {s for report in train for s in split_report(report, 1)}
    assert (found["Cardiomegaly"] == 1).any()
    words = ["data", "covid", str(covid_tree(tmp_path)), "--out", str(out)]
    words += ["--test-ids", str(listed(tmp_path, "COVID-3\n")), "--sentences", str(sentences)]
    assert main(words) == 2
    assert "covid has no reports outside its test images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rsna", "gone"], "no folder "),
        (["rsna", "rsna", "--recipe", "authors"], "which has 40 rows, expected the 26,684"),
        (["rsna", "rsna", "--test-ids", "gone.csv"], "gone.csv"),
        (["rsna", "rsna", "--out", "."], "--out is a folder, ."),
        (["demo", "rsna"], "the demo's drawings are not files"),
        (["covid-0.2", "rsna"], "a seed that is written nowhere"),
    ],
)
def test_data_refuses_and_writes_nothing(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rsna_tree(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["data", "--out", "manifest.csv", *words]) == 2
    said = capsys.readouterr()
    assert said.out == "" and message in said.err and said.err.startswith("medclip data: ")
    assert sorted(tmp_path.rglob("*")) == before
