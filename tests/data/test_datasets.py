"""Manifests, reports, datasets and batches."""

import hashlib
import math

import numpy as np
import pandas as pd
import pytest
import torch
from openi_reports import needs_openi, openi_reports
from PIL import Image
from torch.utils.data import DataLoader, SequentialSampler
from torchvision.transforms import v2
from transformers import BertTokenizer

from medclip_helpers.constants import CHEXPERT_LABELS
from medclip_helpers.data import (
    MedCLIPCollator,
    PairedDataset,
    UnpairedDataset,
    check_manifest,
    combine_labels,
    encode_labels,
    label_manifest,
    read_manifest,
    read_sentences,
    split_report,
)
from medclip_helpers.processor import MedCLIPImageProcessor, MedCLIPProcessor

LABELS = list(CHEXPERT_LABELS)
NAN = math.nan


def labels(**states) -> dict:
    """A full set of labels; Pleural_Effusion=1 sets "Pleural Effusion"."""
    given = {name.replace("_", " "): state for name, state in states.items()}
    assert set(given) <= set(LABELS)
    return {name: given.get(name, NAN) for name in LABELS}


def vector(**states) -> np.ndarray:
    return np.array(list(labels(**states).values()), np.float32)


# --- manifests -----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Two images and a fine manifest over them, with one image-only and one text-only row."""
    (tmp_path / "images").mkdir()
    for name in "ab":
        Image.new("L", (4, 4)).save(tmp_path / "images" / f"{name}.png")
    rows = [
        {"imgpath": "a.png", "subject_id": 1, "report": "Big heart.", **labels(Cardiomegaly=1)},
        {"imgpath": "b.png", "subject_id": 2, "report": None, **labels(Edema=-1, Fracture=0)},
        {"imgpath": None, "subject_id": 3, "report": "No fracture.", **labels(Fracture=0)},
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "train.csv")  # with an index column, as published
    return tmp_path


def spoil(folder, row, column, value):
    table = pd.read_csv(folder / "train.csv", index_col=0)
    table[column] = table[column].astype(object)
    table.loc[row, column] = value
    table.to_csv(folder / "spoilt.csv")
    return folder / "spoilt.csv"


def test_read_manifest_keeps_the_four_states_and_joins_files(folder):
    table = read_manifest([folder / "train.csv"] * 2, root=folder / "images")
    assert list(table.columns) == ["imgpath", "subject_id", "report", *LABELS]
    assert len(table) == 6 and list(table.index) == list(range(6))
    expected = [vector(Cardiomegaly=1), vector(Edema=-1, Fracture=0), vector(Fracture=0)] * 2
    np.testing.assert_array_equal(table[LABELS].to_numpy(), np.stack(expected))
    assert table["imgpath"][0] == str(folder / "images" / "a.png")
    assert table["imgpath"].isna().tolist() == [False, False, True] * 2


def test_images_are_looked_for_beside_the_manifest_unless_a_root_is_given(folder):
    problems = check_manifest(folder / "train.csv")
    assert len(problems) == 2 and str(folder / "a.png") in problems[0]
    assert check_manifest(folder / "train.csv", root=folder / "images") == []


@pytest.mark.parametrize(
    ("row", "column", "value", "words"),
    [
        (1, "Edema", 2, ["row 2", "'Edema'", "2", "expected 1, 0, -1 or blank"]),
        (0, "Fracture", "yes", ["row 1", "'Fracture'", "'yes'"]),
        (0, "imgpath", "c.png", ["row 1", "'imgpath'", "c.png"]),
        (1, "imgpath", None, ["row 2", "'imgpath'", "neither"]),
    ],
)
def test_a_manifest_error_names_file_row_and_column(folder, row, column, value, words):
    path = spoil(folder, row, column, value)
    with pytest.raises(ValueError) as error:
        read_manifest(path, root=folder / "images")
    assert all(word in str(error.value) for word in [str(path), *words])
    assert len(str(error.value).splitlines()) == 1


def test_a_missing_column_is_named(folder):
    table = pd.read_csv(folder / "train.csv", index_col=0)
    table.drop(columns=["report", "Edema"]).to_csv(folder / "short.csv")
    problems = check_manifest(folder / "short.csv", root=folder / "images")
    assert [problem.split(": ")[1] for problem in problems] == [
        "no column 'report'",
        "no column 'Edema'",
    ]


def test_the_check_lists_all_problems_of_all_files_and_the_error_bounds_them(folder):
    table = pd.read_csv(folder / "train.csv", index_col=0)
    bad = pd.concat([table.assign(imgpath="gone.png", Edema=7)] * 10)
    bad.assign(subject_id=range(30)).to_csv(folder / "bad.csv")
    files = [folder / "bad.csv", spoil(folder, 0, "Fracture", 3)]
    problems = check_manifest(files, root=folder / "images")
    assert len(problems) == 61 and "spoilt.csv" in problems[-1]
    with pytest.raises(ValueError, match="and 41 more"):
        read_manifest(files, root=folder / "images")


def test_images_can_go_unchecked(folder):
    assert len(read_manifest(folder / "train.csv", check_images=False)) == 3


def test_read_sentences(tmp_path):
    rows = [
        {"Reports": "big heart", **labels(Cardiomegaly=1)},
        {"Reports": "big heart", **labels(Cardiomegaly=0)},
        {"Reports": "no edema", **labels(Edema=0)},
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "sentences.csv")
    table = read_sentences(tmp_path / "sentences.csv")
    assert table["Reports"].tolist() == ["big heart", "no edema"]
    assert table["Cardiomegaly"][0] == 1
    pd.DataFrame([*rows, {"Reports": " ", **labels()}]).to_csv(tmp_path / "blank.csv")
    with pytest.raises(ValueError, match=r"blank\.csv, row 4, column 'Reports'"):
        read_sentences(tmp_path / "blank.csv")


def test_no_files_at_all():
    with pytest.raises(ValueError, match="at least one CSV"):
        read_manifest([])


# --- reports -------------------------------------------------------------------------------------


def test_split_report_by_hand():
    report = (
        "1. Heart size is mildly enlarged. No effusion.\n2. Stable 2.5 cm nodule, right upper lobe"
    )
    assert split_report(report) == [
        "heart size is mildly enlarged",
        "stable 2 . 5 cm nodule , right upper lobe",
    ]
    assert split_report(None) == split_report(NAN) == split_report("") == []


@needs_openi
def test_split_report_gives_the_published_sentences_for_all_real_reports():
    """Digest of what medclip 0.0.3 gave for the same texts (15,933 sentences)."""
    split = [split_report(report) for report in openi_reports()]
    assert (len(split), sum(map(len, split))) == (3955, 15933)
    digest = hashlib.sha256("\n".join("\t".join(s) for s in split).encode()).hexdigest()
    assert digest == "4e78b243374e193e2f475e7ec2fec71882a9eb2c012a790b892c44efc324fdf0"


def test_combine_labels_prefers_present_over_uncertain_over_absent():
    sentences = [
        vector(Edema=0, Fracture=-1, Cardiomegaly=0),
        vector(Edema=-1, Fracture=1),
        vector(Cardiomegaly=0, No_Finding=1),
    ]
    expected = vector(Edema=-1, Fracture=1, Cardiomegaly=0)
    np.testing.assert_array_equal(combine_labels(np.stack(sentences)), expected)


def test_no_finding_follows_chexperts_rule():
    devices = combine_labels(np.stack([vector(Support_Devices=1), vector(Edema=0)]))
    np.testing.assert_array_equal(devices, vector(No_Finding=1, Support_Devices=1, Edema=0))
    assert np.isnan(combine_labels(vector(Edema=-1, No_Finding=1))[0])


def test_label_manifest_fills_blank_rows_only():
    sentences = pd.DataFrame([{"Reports": "The heart is much enlarged", **labels(Cardiomegaly=1)}])
    report = "The heart is much enlarged. Something nobody has labelled before"
    rows = [
        {"imgpath": "a", "report": report, **labels()},
        {"imgpath": "b", "report": report, **labels(Cardiomegaly=0)},
        {"imgpath": "c", "report": "Something nobody has labelled before", **labels()},
    ]
    manifest = pd.DataFrame(rows)
    labelled = label_manifest(manifest, sentences)
    assert labelled["Cardiomegaly"].tolist()[:2] == [1, 0]
    assert labelled[LABELS].loc[2].isna().all()
    assert manifest[LABELS].loc[0].isna().all()  # the argument is left alone


def test_encode_labels():
    raw = vector(Edema=1, Fracture=0, Cardiomegaly=-1)
    at = [LABELS.index(name) for name in ("Edema", "Fracture", "Cardiomegaly", "Pneumonia")]
    assert encode_labels(raw)[at].tolist() == [1, 0, 0, 0]
    assert encode_labels(raw, uncertain=-1)[at].tolist() == [1, 0, -1, 0]  # as published
    assert encode_labels(raw, absent=-1, uncertain=0.5)[at].tolist() == [1, -1, 0.5, 0]


# --- datasets ------------------------------------------------------------------------------------


def grey(level):
    return Image.new("L", (8, 8), level)


@pytest.fixture(scope="module")
def sentences():
    rows = [
        *({"Reports": f"big heart {k}", **labels(Cardiomegaly=1)} for k in range(5)),
        *({"Reports": f"wet lung {k}", **labels(Edema=1, Fracture=0)} for k in range(5)),
        {"Reports": "normal chest", **labels(No_Finding=1)},
        {"Reports": "no edema", **labels(Edema=0)},
        {"Reports": "who knows", **labels()},
    ]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def images():
    """In the order of the tests' needs; the image itself stands in the path column."""
    states = [
        labels(Cardiomegaly=1, Edema=0),
        labels(Cardiomegaly=1, Edema=1),
        labels(Edema=0, Fracture=0),  # nothing found
        labels(Pneumonia=1),  # found, but no sentence has it
        labels(Edema=-1),
    ]
    return pd.DataFrame([{"imgpath": grey(k), **state} for k, state in enumerate(states)])


def texts_of(dataset, i, epochs=200):
    return [dataset[epoch * len(dataset) + i]["text"] for epoch in range(epochs)]


def test_an_unpaired_sentence_shares_a_present_finding(images, sentences):
    dataset = UnpairedDataset(images, sentences)
    assert set(texts_of(dataset, 0)) == {f"big heart {k}" for k in range(5)}
    both = texts_of(dataset, 1)
    assert len(set(both)) == 10
    assert 60 < sum(text.startswith("wet") for text in both) < 140  # labels are drawn evenly


def test_images_without_a_present_finding(images, sentences):
    dataset = UnpairedDataset(images, sentences)
    assert set(texts_of(dataset, 2)) == {"normal chest"}
    known = set(sentences["Reports"]) - {"who knows"}
    assert set(texts_of(dataset, 3)) == known  # any sentence, never an unlabelled one
    assert set(texts_of(dataset, 4)) == known


def test_unpaired_without_matching_draws_whatever_the_image(images, sentences):
    dataset = UnpairedDataset(images, sentences, match=False)
    known = set(sentences["Reports"]) - {"who knows"}
    assert set(texts_of(dataset, 0)) == known


def test_each_text_comes_with_its_own_labels(images, sentences):
    dataset = UnpairedDataset(images, sentences, match=False)
    by_text = sentences.set_index("Reports")[LABELS]
    for g in range(40):
        item = dataset[g]
        np.testing.assert_array_equal(item["text_labels"], by_text.loc[item["text"]])
        np.testing.assert_array_equal(item["image_labels"], images[LABELS].loc[g % 5])
        assert item["image"].getpixel((0, 0)) == g % 5


def test_an_image_about_which_nothing_is_known_is_left_out(images, sentences):
    unlabelled = pd.concat([images, pd.DataFrame([{"imgpath": grey(9), **labels()}])])
    with pytest.warns(UserWarning, match="1 of 6 images have no label"):
        dataset = UnpairedDataset(unlabelled, sentences)
    assert len(dataset) == 5
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="no image with a label"):
        UnpairedDataset(unlabelled.iloc[5:], sentences)
    with pytest.raises(ValueError, match="no sentence with a label"):
        UnpairedDataset(images, sentences.iloc[-1:])


def test_image_only_and_text_only_rows_are_legal(images, sentences):
    """Without a report column on one side and without images on the other."""
    text_only = {"imgpath": None, **labels(Edema=1)}
    assert len(UnpairedDataset(pd.concat([images, pd.DataFrame([text_only])]), sentences)) == 5


def test_a_sample_is_a_function_of_seed_epoch_and_row(images, sentences):
    first = [UnpairedDataset(images, sentences, seed=3)[g]["text"] for g in range(100)]
    dataset = UnpairedDataset(images, sentences, seed=3)
    backwards = [dataset[g]["text"] for g in reversed(range(100))]
    assert first == backwards[::-1]
    assert first != [UnpairedDataset(images, sentences, seed=4)[g]["text"] for g in range(100)]
    assert len(list(dataset)) == 5
    with pytest.raises(IndexError, match="-1"):
        dataset[-1]


def test_sampling_leaves_the_global_generators_alone(images, sentences):
    import random

    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    UnpairedDataset(images, sentences)[7]
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert before[:2] == after[:2] and before[2].equal(after[2])


REPORT = "The heart is much enlarged. There is no edema at all. Words which nobody has labelled"
TABLE = pd.DataFrame(
    [
        {"Reports": "The heart is much enlarged", **labels(Cardiomegaly=1)},
        {"Reports": "There is no edema at all", **labels(Edema=0)},
    ]
)
STUDIES = pd.DataFrame(
    [
        {"imgpath": grey(0), "report": REPORT, **labels(Cardiomegaly=1, Edema=0)},
        {"imgpath": grey(1), "report": "There is no edema at all", **labels(Edema=0)},
        {"imgpath": grey(2), "report": "Too short.", **labels(Edema=0)},
        {"imgpath": None, "report": REPORT, **labels(Edema=0)},
    ]
)


def paired(text):
    with pytest.warns(UserWarning, match="2 of 4 rows"):
        return PairedDataset(STUDIES, TABLE, text=text)


def test_paired_sentences_come_from_the_images_own_report():
    dataset = paired("sentence")
    assert len(dataset) == 2
    assert set(texts_of(dataset, 0, 60)) == set(split_report(REPORT))
    assert set(texts_of(dataset, 1, 5)) == {"there is no edema at all"}


def test_an_unknown_sentence_has_unknown_labels_not_no_finding():
    items = {item["text"]: item for item in (paired("sentence")[2 * g] for g in range(60))}
    unknown = items["words which nobody has labelled"]["text_labels"]
    assert np.isnan(unknown).all() and len(unknown) == 14
    known = items["the heart is much enlarged"]["text_labels"]
    np.testing.assert_array_equal(known, vector(Cardiomegaly=1))


def test_paired_findings_and_whole_reports():
    findings = paired("finding")
    assert set(texts_of(findings, 0, 60)) == {"the heart is much enlarged"}
    assert set(texts_of(findings, 1, 5)) == {"there is no edema at all"}  # nothing present
    report = paired("report")[0]
    assert report["text"] == " ".join(split_report(REPORT))
    np.testing.assert_array_equal(report["text_labels"], vector(Cardiomegaly=1, Edema=0))


def test_paired_errors():
    with pytest.raises(ValueError, match="'whole'.*'sentence', 'finding' or 'report'"):
        PairedDataset(STUDIES, TABLE, text="whole")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="no row with an image"):
        PairedDataset(STUDIES.iloc[2:], TABLE)


# --- batches -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    words = "big heart wet lung normal chest no edema 0 1 2 3 4".split()
    vocab = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    return MedCLIPProcessor(MedCLIPImageProcessor(size=16), BertTokenizer(str(vocab)))


def shout(text, rng):
    return f"{text} {rng.integers(5)}"


def test_a_batch(images, sentences, processor):
    dataset = UnpairedDataset(images, sentences, match=False, seed=1)
    items = [dataset[g] for g in range(8)]
    batch = MedCLIPCollator(processor)(items)
    assert batch["pixel_values"].shape == (8, 1, 16, 16)
    longest = max(len(item["text"].split()) for item in items) + 2
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (8, longest)
    for name in ("image_labels", "text_labels"):
        assert batch[name].dtype == torch.float32
        expected = np.stack([encode_labels(item[name]) for item in items])
        np.testing.assert_array_equal(batch[name].numpy(), expected)
    raw = MedCLIPCollator(processor, absent=-1, uncertain=-1)(items)["image_labels"]
    assert raw[4, LABELS.index("Edema")] == raw[0, LABELS.index("Edema")] == -1


def test_a_long_text_is_cut(images, processor):
    long = pd.DataFrame([{"Reports": "big heart " * 90, **labels(Cardiomegaly=1)}])
    batch = MedCLIPCollator(processor)([UnpairedDataset(images, long)[0]])
    assert batch["input_ids"].shape == (1, 77)


def test_transforms_depend_on_the_sample_alone(images, sentences, processor):
    """The same in any order, batch and worker; the global generators stay as they were."""
    noise = v2.Compose([v2.PILToTensor(), v2.RandomInvert(0.5), v2.ToPILImage()])
    collator = MedCLIPCollator(processor, image_transform=noise, text_transform=shout)
    dataset = UnpairedDataset(images, sentences, seed=2)
    state = torch.get_rng_state()
    alone = [collator([dataset[g]]) for g in range(20)]
    assert torch.get_rng_state().equal(state)
    together = collator([dataset[g] for g in reversed(range(20))])
    for g, single in enumerate(alone):
        assert single["pixel_values"][0].equal(together["pixel_values"][19 - g])
        ids = single["input_ids"][0]
        assert ids.equal(together["input_ids"][19 - g][: len(ids)])
    assert len({float(single["pixel_values"].mean()) for single in alone}) > 5
    loader = DataLoader(
        dataset,
        batch_size=5,
        sampler=SequentialSampler(range(20)),
        num_workers=2,
        collate_fn=collator,
    )
    pixels = torch.cat([batch["pixel_values"] for batch in loader])
    assert pixels.equal(together["pixel_values"].flip(0))
