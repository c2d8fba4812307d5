"""The shipped demo checkpoint: small, honest about itself, and as good as it says."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from medclip_helpers import classify_images, load_medclip
from medclip_helpers.constants import CHEXPERT_COMPETITION, CHEXPERT_LABELS
from medclip_helpers.data import draw_images, true_classes, write_sentences
from medclip_helpers.demo import CHECKPOINT_FOLDER, DERIVED_LABELS, IMAGE_SIZE
from medclip_helpers.experiments import demo_model, evaluate_demo, train_demo
from medclip_helpers.similarity import similarity_map

LABELS = list(CHEXPERT_LABELS)


@pytest.fixture(scope="module")
def metrics() -> dict:
    return json.loads((CHECKPOINT_FOLDER / demo_model.METRICS_FILE).read_text())


@pytest.fixture(scope="module")
def shipped():
    return load_medclip("demo", device="cpu")


@pytest.fixture(scope="module")
def fresh(shipped) -> pd.DataFrame:
    """Chests that neither the training nor the metrics file has seen."""
    return draw_images(150, 987_654_321, shipped[1], exclusive=True, progress=False)


def test_checkpoint_is_small_and_says_what_it_is(shipped):
    files = {file.name: file.stat().st_size for file in CHECKPOINT_FOLDER.iterdir()}
    assert sum(files.values()) <= 8 * 2**20
    assert {"model.safetensors", "config.json", "preprocessor_config.json"} <= set(files)
    assert "drawings" in shipped[0].note
    assert not shipped[0].training
    assert all(parameter.isfinite().all() for parameter in shipped[0].parameters())


def test_the_joint_space_is_as_wide_as_the_published_one(shipped):
    model, processor = shipped
    inputs = processor(text="small pleural effusion", images=np.zeros((300, 200), np.uint8))
    with torch.no_grad():
        outputs = model(**inputs)
    assert outputs.image_embeds.shape == outputs.text_embeds.shape == (1, 512)


def test_metrics_file_agrees_with_itself(metrics):
    result = metrics["zero_shot"]
    confusion = np.array(result["confusion"])
    assert confusion.shape == (5, 5) and confusion.sum() == result["images"] >= 1000
    assert result["accuracy"] == pytest.approx(np.trace(confusion) / confusion.sum())
    low, high = result["accuracy_interval"]
    assert low < result["accuracy"] < high
    assert list(result["classes"]) == list(CHEXPERT_COMPETITION)
    for k, values in enumerate(result["classes"].values()):
        assert values["recall"] == pytest.approx(confusion[k, k] / confusion[k].sum())
    assert result["accuracy"] >= 0.95
    assert {"torch", "transformers", "timm"} <= set(metrics["versions"])


def test_as_good_on_new_drawings_as_its_metrics_file_says(metrics, shipped):
    """The share of right answers among 150 new chests has a (wider) interval of its own."""
    stated = metrics["zero_shot"]
    found = evaluate_demo(*shipped, images=150, seed=555_555_555, progress=False)
    low, high = found["accuracy_interval"]
    assert low <= stated["accuracy_interval"][1] and stated["accuracy_interval"][0] <= high
    assert found["auroc"] == pytest.approx(stated["auroc"], abs=0.03)


def test_it_looks_at_the_image(shipped, fresh):
    """With pixels shuffled nothing is left to see, and the accuracy falls to chance."""
    rng = np.random.default_rng(0)
    noise = [
        rng.permutation(np.asarray(image).ravel()).reshape(image.size) for image in fresh.imgpath
    ]
    prompts = {name: [f"there is {name.lower()}"] for name in CHEXPERT_COMPETITION}
    table = classify_images(*shipped, noise, prompts, progress=False)
    assert (table["predicted"] == true_classes(fresh)).mean() < 0.35


def test_a_denial_is_not_the_finding(shipped, fresh):
    """The score of "pleural effusion" less that of its denial tells images with and without."""
    from sklearn.metrics import roc_auc_score

    prompts = {"present": ["pleural effusion"], "denied": ["no pleural effusion"]}
    table = classify_images(*shipped, fresh["imgpath"], prompts, progress=False)
    effusion = fresh["Pleural Effusion"] == 1
    assert roc_auc_score(effusion, table["present"] - table["denied"]) > 0.9


def test_maps_are_exact_and_not_coarser_than_seven_by_seven(shipped, fresh):
    model, processor = shipped
    inputs = processor(text="left pleural effusion", images=fresh["imgpath"].tolist()[:4])
    with torch.no_grad():
        texts = model.encode_text(inputs["input_ids"], inputs["attention_mask"])
        cosine = model.encode_image(inputs["pixel_values"]) @ texts.T
        maps = similarity_map(model, inputs["pixel_values"], texts)
    assert min(maps.shape[-2:]) >= 7
    torch.testing.assert_close(maps.sum(dim=(2, 3)), cosine, rtol=0, atol=1e-5)


def test_images_and_sentences_are_what_the_recipe_says(shipped):
    drawn = draw_images(7, 3, shipped[1], exclusive=True, progress=False)
    assert true_classes(drawn) == [CHEXPERT_COMPETITION[i % 5] for i in range(7)]
    assert drawn[list(DERIVED_LABELS)].isna().all(axis=None)
    assert {image.size for image in drawn["imgpath"]} == {(IMAGE_SIZE, IMAGE_SIZE)}
    sentences = write_sentences(50, 3)
    states = set(np.unique(sentences[LABELS].to_numpy())[:3])
    assert states == {-1.0, 0.0, 1.0}
    assert sentences["Reports"].nunique() > 50


@pytest.mark.slow
def test_training_again_gives_the_same_checkpoint(tmp_path):
    """The real thing, in small: same arguments, same bytes; another seed, other ones."""
    small = {"samples": 60, "steps": 4, "test_images": 10, "progress": False}
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        metrics = train_demo(tmp_path / name, seed, **small)
    weights = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("one", "two", "three")]
    assert weights[0] == weights[1] != weights[2]
    assert metrics == json.loads((tmp_path / "three" / demo_model.METRICS_FILE).read_text())
    assert metrics["recipe"]["samples"] == 60 and metrics["zero_shot"]["images"] == 10
    assert metrics["threads"] == 1 and metrics["recipe"]["seed"] == 1
    model, processor = load_medclip(tmp_path / "one", device="cpu")
    assert model.note == demo_model.NOTE and processor.image_processor.size == IMAGE_SIZE


@pytest.mark.parametrize("inside", [".", "mine", "../checkpoint/a/b"])
def test_the_shipped_checkpoint_is_never_overwritten(inside):
    before = sorted(CHECKPOINT_FOLDER.rglob("*"))
    with pytest.raises(
        ValueError, match="the folder of the demo model that ships: expected another folder"
    ):
        train_demo(CHECKPOINT_FOLDER / inside)
    assert sorted(CHECKPOINT_FOLDER.rglob("*")) == before


@pytest.mark.parametrize("name", ["samples", "steps", "test_images", "threads"])
def test_a_number_that_is_none_is_refused_before_anything_is_written(name, tmp_path):
    with pytest.raises(ValueError, match=f"{name} is 0, expected [15] or more"):
        train_demo(tmp_path / "new", **{name: 0})
    assert not (tmp_path / "new").exists()
