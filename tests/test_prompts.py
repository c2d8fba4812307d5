"""Prompts: presets, tables, files, and what is said of a bad one."""

import json
import random

import numpy as np
import pandas as pd
import pytest

from medclip_helpers.constants import CHEXPERT_COMPETITION, CHEXPERT_LABELS
from medclip_helpers.prompts import (
    generate_chexpert_class_prompts,
    generate_class_prompts,
    generate_covid_class_prompts,
    generate_rsna_class_prompts,
    load_class_prompts,
    process_class_prompts,
)


def test_sizes_are_comparable_to_the_published_ones():
    prompts = generate_chexpert_class_prompts()
    assert {name: len(p) for name, p in prompts.items()} == {
        "Atelectasis": 210, "Cardiomegaly": 15, "Consolidation": 192, "Edema": 18,
        "Pleural Effusion": 54,
    }  # fmt: skip
    assert tuple(prompts) == CHEXPERT_COMPETITION
    assert all(len(set(p)) == len(p) for p in prompts.values())
    assert all(text == " ".join(text.split()) for p in prompts.values() for text in p)
    assert {"perihilar edema", "mild perihilar edema"} <= set(prompts["Edema"])


def test_covid_and_rsna_have_something_to_choose_against():
    assert set(generate_covid_class_prompts()) == {"COVID-19", "Normal"}
    assert set(generate_rsna_class_prompts()) == {"Pneumonia", "Normal"}


def test_draws_are_seeded_without_repeats_and_leave_global_randomness_alone():
    random.seed(1)
    before = random.getstate()
    first = generate_chexpert_class_prompts(n=10, seed=4)
    assert random.getstate() == before
    assert first == generate_chexpert_class_prompts(n=10, seed=4)
    assert first != generate_chexpert_class_prompts(n=10, seed=5)
    assert all(len(set(p)) == 10 for p in first.values())
    everything = generate_chexpert_class_prompts()
    assert all(set(first[name]) <= set(everything[name]) for name in first)
    assert len(generate_chexpert_class_prompts(n=100)["Cardiomegaly"]) == 15


def test_a_draw_without_a_seed_is_that_of_seed_0():
    for generate in (
        generate_chexpert_class_prompts, generate_covid_class_prompts, generate_rsna_class_prompts
    ):  # fmt: skip
        assert generate(5) == generate(5, seed=0) != generate(5, seed=1)
    assert load_class_prompts("covid", 5) == generate_covid_class_prompts(5, seed=0)
    table = sentence_table({f"edema number {i}": {"Edema": 1} for i in range(20)})
    drawn = generate_class_prompts(table, ["Edema"])
    assert drawn == generate_class_prompts(table, ["Edema"], n=10, seed=0)
    assert drawn["Edema"] == random.Random("0:Edema").sample(sorted(table["Reports"]), 10)
    assert drawn != generate_class_prompts(table, ["Edema"], n=10, seed=1)


def test_a_class_draws_the_same_whatever_other_classes_there_are(tmp_path):
    everything = generate_chexpert_class_prompts()
    (tmp_path / "edema.json").write_text(json.dumps({"Edema": everything["Edema"]}))
    alone = load_class_prompts(tmp_path / "edema.json", n=5, seed=3)
    assert alone == {"Edema": generate_chexpert_class_prompts(n=5, seed=3)["Edema"]}


def sentence_table(rows: dict[str, dict]) -> pd.DataFrame:
    table = pd.DataFrame(np.nan, index=range(len(rows)), columns=list(CHEXPERT_LABELS))
    for i, labels in enumerate(rows.values()):
        for name, value in labels.items():
            table.loc[i, name] = value
    table.insert(0, "Reports", list(rows))
    return table


def test_prompts_from_a_sentence_table_are_positive_for_one_class_only():
    table = sentence_table(
        {
            "there is edema": {"Edema": 1, "Pneumothorax": 0},
            "edema and effusion": {"Edema": 1, "Pleural Effusion": 1},
            "possible edema": {"Edema": -1},
            "left effusion": {"Pleural Effusion": 1},
        }
    )
    prompts = generate_class_prompts(table, ["Edema", "Pleural Effusion"])
    assert prompts == {"Edema": ["there is edema"], "Pleural Effusion": ["left effusion"]}
    each = sentence_table({f"there is {name}": {name: 1} for name in CHEXPERT_LABELS})
    assert tuple(generate_class_prompts(each)) == CHEXPERT_LABELS[1:]  # all but No Finding
    with pytest.raises(ValueError, match="no sentence is positive for 'Fracture' alone"):
        generate_class_prompts(table, ["Fracture"])
    with pytest.raises(ValueError, match=r"unknown labels \['Flu'\]"):
        generate_class_prompts(table, ["Flu"])
    with pytest.raises(ValueError, match=r"\['Edema', 'Edema'\] name a class twice"):
        generate_class_prompts(table, ["Edema", "Edema"])
    with pytest.raises(ValueError, match=r"lacks the columns \['Reports'\]"):
        generate_class_prompts(table.drop(columns="Reports"))


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_own_classes_from_a_file(suffix, tmp_path):
    own = {"Tube": ["endotracheal tube"], "None": ["no tube", "tube was removed"]}
    file = tmp_path / f"own{suffix}"
    file.write_text(json.dumps(own))  # JSON is YAML too
    assert load_class_prompts(file) == own
    assert len(load_class_prompts(str(file), n=1, seed=0)["None"]) == 1


def test_presets_by_name():
    assert load_class_prompts("chexpert", n=3, seed=2) == generate_chexpert_class_prompts(3, 2)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "is not JSON"),
        ("[1]", "expected {class: .* got list"),
        ('{"a": "text"}', "class 'a' needs a non-empty list"),
        ('{"a": []}', "class 'a' needs a non-empty list"),
        ('{"a": 3}', "class 'a' needs a non-empty list"),
        ('{"a": ["x", 3]}', "3 among the prompts of 'a' is not text"),
        ('{"a": [" "]}', "' ' among the prompts of 'a' is not text"),
        ('{"a": ["x"], "a": ["y"]}', "has 'a' twice in one mapping"),
        ('{"": ["x"]}', "class name '' is not text"),
        (b"\xff\xd8\xff", "is not JSON"),
        ("{}", "expected {class:"),
    ],
)
def test_bad_files_are_named(content, expected, tmp_path):
    file = tmp_path / "own.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=expected) as caught:
        load_class_prompts(file)
    assert "own.json" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a: [b", "is not YAML"),
        ("a: [x]\nb: [y]\na: [z]", "has 'a' twice in one mapping"),
        ("No: [no tube]", "class name False is not text .in YAML, quote it"),
        ("a: [1]", "1 among the prompts of 'a' is not text"),
        ("", "expected {class: .* got nothing"),
    ],
)
def test_bad_yaml_is_named(content, expected, tmp_path):
    (tmp_path / "own.yaml").write_text(content)
    with pytest.raises(ValueError, match=rf"own\.yaml.*{expected}"):
        load_class_prompts(tmp_path / "own.yaml")


def test_block_yaml_with_a_byte_order_mark(tmp_path):
    (tmp_path / "own.yml").write_text("Flu:\n  - grippe\n  - flu\n", encoding="utf-8-sig")
    assert load_class_prompts(tmp_path / "own.yml") == {"Flu": ["grippe", "flu"]}


def test_unknown_presets_and_missing_files(tmp_path):
    with pytest.raises(ValueError, match="unknown prompts 'flu': expected one of .*'chexpert'"):
        load_class_prompts("flu")
    with pytest.raises(FileNotFoundError, match=r"no prompt file at .*flu\.yaml: expected one of"):
        load_class_prompts(tmp_path / "flu.yaml")


@pytest.mark.parametrize("n", [0, -1, 2.5, True])
def test_number_of_prompts_is_checked(n):
    with pytest.raises(ValueError, match="expected a whole number, 1 or more"):
        generate_chexpert_class_prompts(n=n)


def test_each_class_is_padded_to_its_own_longest(standin_processor):
    prompts = {"short": ["edema", "mild edema"], "long": ["no", "small left pleural effusion"]}
    inputs = process_class_prompts(prompts, standin_processor)
    for name, sentences in prompts.items():
        one_by_one = [len(standin_processor.tokenizer(s)["input_ids"]) for s in sentences]
        assert inputs[name]["input_ids"].shape == (2, max(one_by_one))
        assert inputs[name]["attention_mask"].sum(1).tolist() == one_by_one
    assert inputs["short"]["input_ids"].shape[1] < inputs["long"]["input_ids"].shape[1]


def test_the_default_tokenizer_is_asked_for_only_when_needed(monkeypatch, standin_processor):
    asked = []

    def load_tokenizer(**source):
        asked.append(1)
        return standin_processor.tokenizer

    monkeypatch.setattr("medclip_helpers.processor.load_tokenizer", load_tokenizer)
    process_class_prompts({"a": ["edema"]}, standin_processor)
    assert not asked
    assert process_class_prompts({"a": ["edema"]})["a"]["input_ids"].shape[0] == 1
    assert asked


def test_tokenised_prompts_are_cut_at_the_limit(standin_processor):
    inputs = process_class_prompts({"long": ["edema " * 200]}, standin_processor)
    assert inputs["long"]["input_ids"].shape == (1, 77)
    inputs = process_class_prompts({"long": ["edema " * 200]}, standin_processor, max_length=5)
    assert inputs["long"]["input_ids"].shape == (1, 5)
    with pytest.raises(ValueError, match="^prompts: class 'none' needs a non-empty list"):
        process_class_prompts({"none": []}, standin_processor)
