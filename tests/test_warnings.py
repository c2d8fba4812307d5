"""A warning names the line that called the package, not one inside it or in a thread of its own."""

import warnings
from types import SimpleNamespace

import nltk
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medclip_helpers.classifier import classify_images
from medclip_helpers.data import (
    LABELS,
    PairedDataset,
    TextAugmentation,
    UnpairedDataset,
    augmentation,
)
from medclip_helpers.engines import choose_engine, choose_precision, engine
from medclip_helpers.evaluation import evaluate_classification, zero_shot_evaluator
from medclip_helpers.loading import load_medclip
from medclip_helpers.plots import visualize_image_text_similarity
from medclip_helpers.processor import MedCLIPImageProcessor
from medclip_helpers.prompts import process_class_prompts
from medclip_helpers.radiographs import read_radiograph
from medclip_helpers.similarity import encode_images
from medclip_helpers.training import TrainingConfig
from medclip_helpers.training.arguments import training_arguments

PROMPTS = {"edema": ["edema"], "normal": ["no edema"]}
TABLE = pd.DataFrame(
    {"imgpath": ["a.png"] * 2, "report": ["The heart is large.", None], "Reports": "Edema."}
    | {label: [1, np.nan] for label in LABELS}
)


@pytest.fixture(scope="module")
def demo():
    model, processor = load_medclip("demo", device="cpu")
    return SimpleNamespace(model=model, processor=processor)


@pytest.fixture
def photo(tmp_path):
    x, y = np.meshgrid(np.arange(64), np.arange(64))
    colours = np.stack([x * 4, y * 4, 255 - x * 2 - y * 2], axis=2).astype(np.uint8)
    Image.fromarray(colours).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def no_synonyms(word):
    raise LookupError


def no_openvino():
    raise ImportError("not installed")


# what: (what warns of it, what it says)
WARNINGS = {
    "one picture": (lambda d, photo: read_radiograph(photo), "colour"),
    "a processor's picture": (lambda d, photo: d.processor(images=[photo]), "colour"),
    "an image processor's": (lambda d, photo: MedCLIPImageProcessor()(photo), "colour"),
    "pictures read by threads": (
        lambda d, photo: classify_images(d.model, d.processor, [photo], PROMPTS, progress=False),
        "colour",
    ),
    "pictures to embed": (lambda d, photo: encode_images(d.model, d.processor, [photo]), "colour"),
    "a picture to draw": (
        lambda d, photo: visualize_image_text_similarity(d.model, d.processor, photo, ["edema"]),
        "colour",
    ),
    "pictures to evaluate on": (
        lambda d, photo: zero_shot_evaluator(d.processor, [photo], ["edema"], PROMPTS),
        "colour",
    ),
    "a text": (lambda d, photo: d.processor(text="edema " * 100), "word pieces"),
    "prompts": (
        lambda d, photo: process_class_prompts({"edema": ["edema " * 100]}, d.processor),
        "word pieces",
    ),
    "groups": (
        lambda d, photo: evaluate_classification(
            [0, 1], np.eye(2), ["a", "b"], groups=["p", None], resamples=2
        ),
        "no group",
    ),
    "unpaired": (lambda d, photo: UnpairedDataset(TABLE, TABLE), "no label"),
    "paired": (lambda d, photo: PairedDataset(TABLE), "no report sentence"),
    "augmentation": (
        lambda d, photo: TextAugmentation()("a small streak", np.random.default_rng(0)),
        "WordNet",
    ),
    "a precision": (lambda d, photo: choose_precision("float16", "cpu"), "emulated"),
    "a model's precision": (
        lambda d, photo: load_medclip("demo", "cpu", precision="float16"),
        "emulated",
    ),
    "training's precision": (
        lambda d, photo: training_arguments(
            TrainingConfig(device="cpu", precision="bfloat16"), photo.parent, 9
        ),
        "emulated",
    ),
    "an engine": (lambda d, photo: choose_engine("openvino", "cpu", "float32"), "openvino"),
    "a model's engine": (
        lambda d, photo: load_medclip("demo", "cpu", engine="openvino"),
        "openvino",
    ),
    "a model in place of another": (
        lambda d, photo: load_medclip("auto", "cpu", cache_dir=photo.parent),
        "not available",
    ),
}


@pytest.mark.parametrize("what", WARNINGS)
def test_a_warning_names_the_line_of_its_user(what, demo, photo, monkeypatch):
    call, said = WARNINGS[what]
    monkeypatch.setattr(nltk.corpus, "wordnet", SimpleNamespace(synsets=no_synonyms))
    monkeypatch.setattr(engine, "import_openvino", no_openvino)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    monkeypatch.setenv("MEDCLIP_MIRROR", "http://127.0.0.1:9")
    augmentation._has_wordnet.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(demo, photo)
    augmentation._has_wordnet.cache_clear()
    [warning] = [one for one in caught if said in str(one.message)]
    start = call.__code__.co_firstlineno
    assert warning.filename == __file__ and start <= warning.lineno < start + 4
