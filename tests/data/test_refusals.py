"""What is nearly right is taken as what it means or refused by name, with no error from within."""

import math

import numpy as np
import pandas as pd
import pytest
from dataset_trees import chexpert_tree
from PIL import Image

from medclip_helpers.data import (
    LABELS,
    LabelledImages,
    MedCLIPCollator,
    PairedDataset,
    TextAugmentation,
    UnpairedDataset,
    build_manifest,
    class_numbers,
    combine_labels,
    draw_images,
    draw_studies,
    encode_labels,
    image_augmentation,
    is_exclusive,
    label_manifest,
    label_sentences,
    manifest_counts,
    read_manifest,
    read_openi,
    read_sentences,
    split_report,
    true_classes,
    write_reports,
    write_sentences,
)

NAN, INF = math.nan, math.inf
PICTURE = Image.new("L", (8, 8), 9)


def studies(**columns) -> pd.DataFrame:
    table = pd.DataFrame(0.0, range(2), LABELS).assign(Edema=1.0, imgpath=[PICTURE] * 2)
    report = "There is some mild edema. No fracture is seen at all."
    return table.assign(subject_id=["a", "b"], report=report, **columns)


def spoken(**columns) -> pd.DataFrame:
    return studies(Reports=["there is edema", "again edema"], **columns)


TABLES = [None, "", "abc", [], ["abc"], NAN, 3, pd.DataFrame({"a": [1]})]
OTHER_LABELS = [{"Edema": INF}, {"Edema": 2.0}, {"Fracture": "yes"}]
TEXTS = [None, NAN, 3, [None], [NAN], ["edema", 3], pd.DataFrame({"edema": [1]})]
NUMBERS = [None, "3", 2.0, True, NAN, INF, [3], -1]  # nearly whole numbers, 0 or more
PATHS = [None, NAN, 3, [None], [NAN], pd.DataFrame({"a.csv": [1]})]
CLASSES = [None, NAN, 3, [None], "Oedema", ["Edema", "Oedema"]]
DEMO = {"train": 0, "valid": 0, "test": 0}


@pytest.mark.parametrize(
    ("call", "given", "named"),
    [
        (manifest_counts, TABLES, "table"),
        (lambda t: is_exclusive(t, ["Edema"]), TABLES, "table"),
        (lambda t: class_numbers(t, ["Edema"]), TABLES, "table"),
        (lambda c: is_exclusive(studies(), c), CLASSES, "classes|column"),
        (lambda c: class_numbers(studies(), c), CLASSES, "classes|column"),
        (true_classes, [*TABLES, studies(Atelectasis=1.0), studies(Edema=0.0)], "table|row 0"),
        (lambda t: label_manifest(t, spoken()), TABLES, "manifest"),
        (lambda t: label_manifest(studies(), t), [*TABLES, studies()], "sentences"),
        (lambda t: UnpairedDataset(t, spoken()), TABLES, "images"),
        (lambda t: UnpairedDataset(studies(), t), [*TABLES, studies()], "sentences"),
        (PairedDataset, TABLES, "rows"),
        (lambda t: PairedDataset(studies(), t), TABLES[1:], "sentences"),
        (lambda r: PairedDataset(studies().assign(report=[r, r])), [3, {}, [NAN], [3]], "report|s"),
        (lambda w: UnpairedDataset(studies(**w), spoken()), OTHER_LABELS, "images, row 1, column"),
        (lambda w: UnpairedDataset(studies(), spoken(**w)), OTHER_LABELS, "sentences, row 1"),
        (lambda w: PairedDataset(studies(**w)), OTHER_LABELS, "rows, row 1, column"),
        (lambda w: label_manifest(studies(**w), spoken()), OTHER_LABELS, "manifest, row 1"),
        (
            lambda m: UnpairedDataset(studies(), spoken(), match=m),
            ["false", "", 0, 1, None],
            "match",
        ),
        (lambda n: UnpairedDataset(studies(), spoken(), seed=n), NUMBERS, "seed"),
        (lambda n: build_manifest("demo", seed=n, sizes=DEMO, progress=False), NUMBERS, "seed"),
        (lambda n: build_manifest("demo", sizes={"train": n}), NUMBERS, "sizes, train"),
        (lambda s: build_manifest("demo", sizes=s), ["", [], 3, NAN, ["train"]], "sizes of demo"),
        (lambda n: build_manifest("rsna", ".", test_per_class=n), [*NUMBERS[1:], 0], "test_per_c"),
        (build_manifest, [None, NAN, [], ["demo"], {}], "unknown data set"),
        (lambda r: build_manifest("chexpert", r), PATHS, "root"),
        (read_openi, PATHS, "root"),
        (lambda how: read_openi(".", images=how), [None, "some", True], "images is"),
        (read_manifest, PATHS, "paths"),
        (read_sentences, PATHS, "paths"),
        (split_report, [3, [], ["Big heart."], {}], "report"),
        (lambda n: split_report("big heart", n), NUMBERS, "shortest"),
        (combine_labels, [None, "", [], [NAN], np.zeros((0, 14)), [INF] * 14, [2] * 14], "label"),
        (encode_labels, ["edema", [INF], [2.0], {}], "label"),
        (lambda v: encode_labels(np.zeros(14), v), [None, "0", NAN, INF, [0]], "absent"),
        (lambda v: LabelledImages(v, [1, 0], None), [None, "a.png", NAN, 3, []], "images and 2"),
        (lambda v: LabelledImages([PICTURE], v, None), [None, "1", ["1"], 1, [INF]], "labels"),
        (lambda n: draw_images(n, 0, None), NUMBERS, "count"),
        (lambda n: write_sentences(n, 0), NUMBERS, "count"),
        (lambda n: write_sentences(1, n), NUMBERS, "seed"),
        (lambda p: draw_studies(p, progress=False), [None, NAN, "12", ["1"], [1.0]], "people"),
        (lambda e: draw_studies([1, 2], e, progress=False), ["Edema", ["Edema"]], "exclusive"),
        (write_reports, [None, NAN, "12", ["1"], [True]], "people"),
        (TextAugmentation, [None, "0.1", NAN, INF, -1, 2.0], "deletion"),
        (lambda n: image_augmentation(n), [*NUMBERS, 0], "size"),
        (MedCLIPCollator(None), [None, [], "", 3, [1], [{"text": "edema"}]], "samples"),
    ],
)
def test_what_is_nearly_right_is_named(call, given, named):
    for value in given:
        with pytest.raises(ValueError, match=named):
            call(value)


def test_labels_are_of_sentences_not_of_letters():
    pytest.importorskip("negspacy", reason="negspaCy, an optional extra, is not installed")
    table = label_sentences("There is edema.", progress=False)
    assert table["Reports"].tolist() == ["There is edema."] and table["Edema"].tolist() == [1]
    assert len(label_sentences([], progress=False)) == 0
    for texts in TEXTS:
        with pytest.raises(ValueError, match="sentences"):
            label_sentences(texts, progress=False)


def test_one_is_a_list_of_one():
    assert class_numbers(studies(), "Edema").tolist() == [0, 0]
    assert is_exclusive(studies(), "Edema").all()
    assert draw_studies(5, "Edema", 32, progress=False)["Edema"].tolist() == [1]
    assert len(LabelledImages("a.png", [1], None)) == 1
    assert len(write_reports(3)) > 0


def test_unknown_labels_of_images_are_kept_for_whoever_trains():
    labels = np.array([[1, NAN], [-1, 0]])
    images = LabelledImages([PICTURE] * 2, labels, lambda images: {"pixel_values": np.zeros(1)})
    np.testing.assert_array_equal([images[i]["labels"] for i in range(2)], labels)


def test_repeats_and_blanks_in_a_file(tmp_path):
    rows = studies().assign(imgpath=["a.png", "b.png"], subject_id=["", "b"])
    rows.to_csv(file := tmp_path / "a.csv", index=False)
    subjects = read_manifest(file, check_images=False)["subject_id"]
    assert subjects.isna().tolist() == [True, False]
    pd.concat([rows, rows[1:]]).to_csv(file, index=False)
    with pytest.raises(ValueError, match="row 3, column 'imgpath': .*(b.png'|row) is repeated"):
        read_manifest(file, check_images=False)
    pd.concat([rows, rows[["Edema"]]], axis=1).to_csv(file, index=False)
    with pytest.raises(ValueError, match="column 'Edema' is repeated"):
        read_manifest(file, check_images=False)


def test_chexpert_written_on_windows_in_lower_case(tmp_path):
    root = chexpert_tree(tmp_path)
    expected = build_manifest("chexpert", root, progress=False)
    for file in root.glob("*.csv"):
        table = pd.read_csv(file)
        table["Path"] = table["Path"].str.replace("/", "\\")
        table["Frontal/Lateral"] = table["Frontal/Lateral"].str.lower()
        table.to_csv(file, index=False)
    pd.testing.assert_frame_equal(build_manifest("chexpert", root, progress=False), expected)
    by_finding = build_manifest("chexpert-5x200", root, test_per_class=1, progress=False)
    assert by_finding["imgpath"].str.contains("frontal").all()
    table["Frontal/Lateral"] = "front"
    table.to_csv(file, index=False)
    with pytest.raises(ValueError, match="row 1, column 'Frontal/Lateral': 'front', expected"):
        build_manifest("chexpert", root, progress=False)
