"""Reproducing the paper: embeddings once, draws of prompts, pairs, tuned classifiers, results."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import default_collate

from medclip_helpers import PromptClassifier, training
from medclip_helpers import evaluation as ev
from medclip_helpers.data import class_numbers, is_exclusive, DATASETS, LABELS
from medclip_helpers.evaluation import evaluate_classification, pair_probabilities, recall_at_k
from medclip_helpers.similarity import encode_images, encode_texts
from medclip_helpers.prompts import load_class_prompts, process_class_prompts
from medclip_helpers.training import TrainingConfig

CLASSES = ["Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"]
IMAGES = 30


def pictures(count: int, seed: int = 0) -> list[Image.Image]:
    """Picture i is noise, with a bright stripe at a height that its class, i % 5, decides."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (count, 64, 64)).astype(np.uint8)
    for i, picture in enumerate(pixels):
        picture[12 * (i % 5) : 12 * (i % 5) + 12] += 180
    return [Image.fromarray(picture) for picture in pixels]


@pytest.fixture
def processor(standin_processor):
    from medclip_helpers.processor import MedCLIPImageProcessor, MedCLIPProcessor

    return MedCLIPProcessor(MedCLIPImageProcessor(64), standin_processor)


@pytest.fixture
def embeds(small_model, processor) -> torch.Tensor:
    return encode_images(small_model, processor, pictures(IMAGES), progress=False)


@pytest.fixture
def table() -> pd.DataFrame:
    """A manifest of 50 train and 25 test pictures."""
    rows = pd.DataFrame({"imgpath": [*pictures(50), *pictures(25, seed=1)]})
    rows[LABELS] = np.float32(0)
    rows[CLASSES] = np.tile(np.eye(5, dtype=np.float32), (15, 1))
    return rows.assign(subject_id=range(75), report=None, split=["train"] * 50 + ["test"] * 25)


# --- labels -----------------------------------------------------------------------------------


def test_class_numbers_and_exclusive_rows():
    rows = pd.DataFrame({"a": [1, 0, 1, -1, np.nan], "b": [0, 1, 1, 1, 0]})
    exclusive = is_exclusive(rows, ["a", "b"])
    assert exclusive.tolist() == [True, True, False, True, False]
    assert class_numbers(rows[exclusive], ["a", "b"]).tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match=r"row 2 has \['a', 'b'\], expected exactly one"):
        class_numbers(rows, ["a", "b"])
    with pytest.raises(ValueError, match="none of 1 images has exactly one"):
        is_exclusive(rows[2:3], ["a", "b"])


# --- embeddings -------------------------------------------------------------------------------


def test_scores_equal_the_prompt_classifier(small_model, processor, embeds):
    prompts = load_class_prompts("chexpert", n=4)
    scores = ev.prompt_scores(small_model, processor, embeds, prompts)
    pixels = processor(images=pictures(IMAGES))["pixel_values"]
    inputs = process_class_prompts(prompts, processor)
    for rule, ensemble in (("ensemble", True), ("maximum", False)):
        with torch.no_grad():
            expected = PromptClassifier(small_model, ensemble)(pixels, inputs)
        assert list(scores) == expected["class_names"]
        found = ev.class_scores(scores, rule)
        np.testing.assert_allclose(found[0], expected["logits"], atol=1e-5)
    one = ev.class_scores(scores, "one prompt")
    assert one.shape == (4, IMAGES, 5)
    np.testing.assert_array_equal(one[2, :, 1], scores["Cardiomegaly"][:, 2])
    with pytest.raises(ValueError, match="rule is 'median', expected one of"):
        ev.class_scores(scores, "median")


def test_embeddings_do_not_depend_on_the_batch_size(small_model, processor, embeds):
    again = encode_images(
        small_model, processor, pictures(IMAGES), batch_size=7, progress=False
    )
    torch.testing.assert_close(again, embeds)
    texts = ["edema", "a much longer sentence about a pleural effusion", "no edema"]
    all_at_once = encode_texts(small_model, processor, texts)
    torch.testing.assert_close(
        encode_texts(small_model, processor, texts, 1), all_at_once
    )
    assert all_at_once.norm(dim=1).tolist() == pytest.approx([1, 1, 1])


def test_an_unreadable_image_is_named(small_model, processor, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"broken\.png"):
        encode_images(small_model, processor, [*pictures(2), broken], progress=False)


# --- draws of prompts -------------------------------------------------------------------------


def draw(small_model, processor, embeds, **settings):
    labels = np.arange(len(embeds)) % 5
    settings = {"draws": 3, "per_class": 4, "resamples": 200} | settings
    return ev.zero_shot_draws(
        small_model, processor, embeds, labels, CLASSES, "chexpert", **settings
    )


def test_draws_are_what_evaluation_says_of_each(small_model, processor, embeds):
    runs, summary = draw(small_model, processor, embeds, seed=2)
    ensemble = runs[runs["prompts"] == "ensemble"]["accuracy"].tolist()
    for number in range(3):
        prompts = load_class_prompts("chexpert", n=4, seed=2000 + number)
        scores = ev.prompt_scores(small_model, processor, embeds, prompts)
        expected = evaluate_classification(
            np.arange(IMAGES) % 5, ev.class_scores(scores)[0], CLASSES, resamples=1
        )
        assert ensemble[number] == pytest.approx(expected["value"][0])
    row = summary.set_index("prompts").loc["ensemble"]
    assert row["value"] == pytest.approx(np.mean(ensemble))
    assert row["sd"] == pytest.approx(np.std(ensemble, ddof=1))
    assert [row["lowest"], row["highest"]] == [min(ensemble), max(ensemble)]
    assert row["low"] <= row["value"] <= row["high"]
    assert summary["answers"].tolist() == [12, 3, 3]
    assert runs["prompts"].value_counts().to_dict() == {
        "one prompt": 12, "maximum": 3, "ensemble": 3,
    }  # fmt: skip


def test_draws_are_seeded(small_model, processor, embeds):
    first, again, other = (draw(small_model, processor, embeds, seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first.summary, again.summary)
    assert not first.runs.equals(other.runs)
    with pytest.raises(ValueError, match="draws is 0, expected at least 1"):
        draw(small_model, processor, embeds, draws=0)


def test_interval_of_the_mean_covers_images_and_draws():
    """Wider than over images alone where draws differ, and equal to it where they do not."""
    rng = np.random.default_rng(0)
    same = np.tile(rng.random(400) < 0.7, (5, 1))
    low, high = ev._mean_interval(same)
    error = 1.96 * np.sqrt(same[0].mean() * (1 - same[0].mean()) / 400)
    assert high - low == pytest.approx(2 * error, rel=0.1)
    chances = np.array([0.5, 0.6, 0.7, 0.8, 0.9])
    apart = rng.random((5, 400)) < chances[:, None]
    low, high = ev._mean_interval(apart)
    assert low < apart.mean() < high
    assert high - low > 4 * error


# --- pairs ------------------------------------------------------------------------------------


def test_pairs_are_the_softmax_over_two_prompts(small_model, processor, embeds):
    names = ["Edema", "Pleural Effusion"]
    positive, negative = ev.pair_scores(small_model, processor, embeds, names)
    probability = pair_probabilities(positive, negative)
    assert probability.shape == (IMAGES, 2)
    inputs = process_class_prompts(
        {"yes": ["pleural effusion"], "no": ["no pleural effusion"]}, processor.tokenizer
    )
    pixels = processor(images=pictures(IMAGES))["pixel_values"]
    with torch.no_grad():
        logits = PromptClassifier(small_model)(pixels, inputs)["logits"]
    np.testing.assert_allclose(probability[:, 1], logits.softmax(1)[:, 0], atol=1e-5)
    swapped = ev.pair_scores(small_model, processor, embeds, names, ("no {}", "{}"))
    np.testing.assert_allclose(swapped[0], negative, atol=1e-6)


def test_retrieval_of_the_own_text_from_encoded_texts(small_model, processor):
    """Embeddings of this module are what `evaluation` takes: a text finds itself."""
    texts = ["edema", "effusion", "cardiac silhouette is enlarged"]
    embeds = encode_texts(small_model, processor, texts)
    found = recall_at_k(embeds, embeds, texts, texts, ks=(1,), resamples=10)
    assert found["value"][0] == 1


# --- training ---------------------------------------------------------------------------------
LONG = {"max_steps": 150, "learning_rate": 0.05}  # what a layer on random features needs


def config(**settings) -> TrainingConfig:
    defaults = {"max_steps": 20, "batch_size": 10, "learning_rate": 1e-2, "device": "cpu"}
    return TrainingConfig(**defaults | {"progress": False} | settings)


def accuracy(found: pd.DataFrame) -> float:
    return found.set_index(["metric", "class"]).loc[("accuracy", "average"), "value"]


@pytest.mark.parametrize("method", training.LEARNING_RATES)
def test_each_method_learns_and_leaves_the_model_alone(method, small_model, processor, table):
    before = {name: tensor.clone() for name, tensor in small_model.state_dict().items()}
    state = torch.random.get_rng_state()
    found = training.evaluate_method(
        method, small_model, processor, table, DATASETS["demo"], config(max_steps=60),
        resamples=20,
    )  # fmt: skip
    least = 0.28 if method == "prompt tuning" else 0.6  # of random encoders; chance is 0.2
    assert accuracy(found) >= least
    assert set(found["images"]) == {25}
    assert all(t.equal(before[name]) for name, t in small_model.state_dict().items())
    assert all(p.requires_grad for p in small_model.parameters())
    assert torch.random.get_rng_state().equal(state)


def test_training_is_seeded_and_starts_from_the_images_it_is_told(small_model, processor, table):
    def logits(seed, images=None):
        found = training.evaluate_method(
            "linear probe", small_model, processor, table, DATASETS["demo"],
            config(max_steps=3, seed=seed), train_images=images, resamples=2,
        )  # fmt: skip
        return found["value"].tolist()

    assert logits(0) == logits(0) != logits(1)
    assert logits(0, images=10) != logits(0)
    assert logits(0, images=10**6) == logits(0, images=50)


def test_a_frozen_encoder_does_not_learn_the_statistics_of_its_images(
    small_model, processor, table
):
    classifier = training.build_classifier("linear probe", small_model, CLASSES, "multiclass")
    images = training.LabelledImages(table["imgpath"][:50], np.arange(50) % 5, processor)
    before = {n: t.clone() for n, t in classifier.model.state_dict().items()}
    layer = classifier.fc.weight.clone()
    training.fit(classifier, images, config(), default_collate)
    assert not classifier.fc.weight.equal(layer)
    assert any("running_mean" in name for name in before)  # there is something to be kept
    assert all(t.equal(before[n]) for n, t in classifier.model.state_dict().items())
    assert not classifier.training
    classifier.train()
    assert classifier.training and not classifier.model.training


@pytest.mark.parametrize("method", ["linear probe", "prompt tuning"])
def test_binary(method, small_model, processor, table):
    """Two columns for prompts, one for a layer, whose threshold is a sigmoid's one half."""
    rows = table.assign(**{"Normal": table["Edema"] == 0, "Pneumonia": table["Edema"]})
    found = training.evaluate_method(
        method, small_model, processor, rows, DATASETS["rsna"], config(**LONG), resamples=20
    )
    assert set(found["class"]) == {"Normal", "Pneumonia", "average"}
    areas = found[(found["metric"] == "auroc") & (found["class"] == "Pneumonia")]["value"]
    assert areas.item() > 0.6


def test_multilabel_counts_only_known_labels(small_model, processor, table):
    rows = table.copy()
    rows.loc[50:59, "Edema"] = -1
    rows.loc[60:64, "Edema"] = np.nan
    found = training.evaluate_method(
        "linear probe", small_model, processor, rows, DATASETS["chexpert"],
        config(**LONG), resamples=20,
    ).set_index(["metric", "class"])  # fmt: skip
    assert found.loc[("auroc", "Edema"), "images"] == 10
    assert found.loc[("auroc", "Atelectasis"), "images"] == 25
    assert found.loc[("auroc", "average"), "value"] > 0.8


def test_errors_of_training(small_model, processor, table):
    known = DATASETS["demo"]
    with pytest.raises(ValueError, match="method is 'magic', expected one of"):
        training.evaluate_method("magic", small_model, processor, table, known)
    with pytest.raises(ValueError, match="no row of the manifest has split 'train'"):
        training.evaluate_method("linear probe", small_model, processor, table[50:], known)
    with pytest.raises(ValueError, match="2 images and 3 labels"):
        training.LabelledImages(pictures(2), np.zeros(3), processor)


# --- published figures ------------------------------------------------------------------------


def measured(one: float, ensemble: float, half: float = 0.01) -> pd.DataFrame:
    rows = [("one prompt", one), ("maximum", 0.1), ("ensemble", ensemble)]
    found = pd.DataFrame(rows, columns=["prompts", "value"])
    return found.assign(low=found["value"] - half, high=found["value"] + half)


def test_published_table_is_whole():
    shown = ev.published_zero_shot()
    assert shown.shape == (5, 8) and not shown.isna().any(axis=None)
    assert shown.loc["MedCLIP-ViT", ("covid", "one prompt")] == 0.8013
    assert shown.loc["GLoRIA", ("rsna", "ensemble")] == 0.4752
    assert ev.zero_shot_of("rsna", "resnet") == {"one prompt": 0.7418, "ensemble": 0.7584}


def test_judgement():
    found = ev.compare_with_published(measured(0.60, 0.50), "chexpert-5x200", "vit")
    assert found["prompts"].tolist() == ["one prompt", "ensemble"]
    assert found["judgement"].tolist() == ["agrees", "lower"]
    assert found["difference"].tolist() == pytest.approx([0.0058, -0.0942])
    # 1,000 published images: their share of 0.5942 is known to 0.0304
    half = np.hypot(0.01, 1.96 * np.sqrt(0.5942 * 0.4058 / 1000))
    width = found["difference high"] - found["difference low"]
    assert width.tolist() == pytest.approx([2 * half] * 2)
    better = ev.compare_with_published(measured(0.9, 0.9), "rsna", "vit")
    assert better["judgement"].tolist() == ["higher", "higher"]
    wide = ev.compare_with_published(measured(0.9, 0.9, half=0.2), "rsna", "vit")
    assert wide["judgement"].tolist() == ["agrees", "agrees"]


@pytest.mark.parametrize("place", [("demo", "vit"), ("covid", "demo"), ("chexpert", "vit")])
def test_nothing_is_judged_that_has_no_counterpart(place):
    with pytest.raises(ValueError, match="nothing is published for"):
        ev.compare_with_published(measured(0.9, 0.9), *place)
