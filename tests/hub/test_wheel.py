"""The authors' phrases, read from the published wheel and from nowhere else."""

import hashlib
import json
import subprocess
import sys
import zipfile

import pytest

from medclip_helpers.hub import DownloadError, published_constants
from medclip_helpers.hub.wheel import WHEEL, WHEEL_SHA256
from medclip_helpers.prompts import load_class_prompts, process_class_prompts

# SHA-256 of json.dumps of what the published package's own generators return, all prompts.
GENERATED = {
    "chexpert": "53f8f289422ac209cdae341c58b9aea0e46080f6d3b4a7fcb39530ea65ce36c3",
    "covid": "3f978cd534e836832e733cdd20411201b9c242785f91276c5f80f1f3b29068a3",
    "rsna": "c336b6b789896b3f54188ffb86055beca1454e45f12667f278ea536e3523dcf3",
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDCLIP_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", GENERATED)
def test_all_phrases_are_the_published_generators_to_the_letter(published_wheel, name):
    prompts = load_class_prompts(f"authors:{name}")
    prompts = {label.replace("-19", ""): phrases for label, phrases in prompts.items()}
    assert hashlib.sha256(json.dumps(prompts).encode()).hexdigest() == GENERATED[name]


def test_pneumonia_s_phrases_do_not_say_so_and_one_is_blank(published_wheel, standin_processor):
    (phrases,) = load_class_prompts("authors:rsna").values()
    assert len(phrases) == 312 and not any("pneumonia" in phrase for phrase in phrases)
    blank = [phrase for phrase in phrases if not phrase.strip()]
    assert blank == ["  "]
    inputs = process_class_prompts({"Pneumonia": blank}, standin_processor)["Pneumonia"]
    assert inputs["input_ids"].shape == (1, 2)  # [CLS] and [SEP]


def test_draws_are_seeded_as_of_any_preset(published_wheel):
    first = load_class_prompts("authors:chexpert", n=10, seed=3)
    assert first == load_class_prompts("authors:chexpert", n=10, seed=3)
    assert {len(set(phrases)) for phrases in first.values()} == {10}


def test_kept_and_read_without_being_run(published_wheel, monkeypatch):
    def no_process(*_, **__):
        raise AssertionError("fetched again")

    monkeypatch.setattr(subprocess, "run", no_process)
    constants = published_constants()
    assert constants["IMG_SIZE"] == 224 and constants["IMG_MEAN"] == 0.5862785803043838
    assert "medclip" not in sys.modules


def test_another_wheel_is_refused(home):
    with zipfile.ZipFile(home / WHEEL, "w") as zipped:
        zipped.writestr("medclip/constants.py", "CHEXPERT_CLASS_PROMPTS = {}")
    with pytest.raises(ValueError, match=f"{WHEEL} has SHA-256 [0-9a-f]+, expected {WHEEL_SHA256}"):
        load_class_prompts("authors:chexpert")


def test_without_an_index_it_is_said_and_nothing_is_left(home, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(DownloadError, match="package index is needed once. Prompts without"):
        load_class_prompts("authors:covid")
    assert list(home.iterdir()) == []
    assert load_class_prompts("covid")  # our own
