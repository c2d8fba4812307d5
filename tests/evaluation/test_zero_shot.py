"""The zero-shot protocol: scores of the classifier, draws of prompts, pairs, the evaluator."""

import numpy as np
import pandas as pd
import pytest
import torch
from pictures import pictures
from sklearn import metrics

from medclip_helpers import PromptClassifier
from medclip_helpers import evaluation as ev
from medclip_helpers.evaluation.zero_shot import _mean_interval
from medclip_helpers.processor import MedCLIPImageProcessor, MedCLIPProcessor
from medclip_helpers.prompts import load_class_prompts, process_class_prompts
from medclip_helpers.similarity import encode_images

CLASSES = ["Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"]
IMAGES = 30


@pytest.fixture
def processor(standin_processor) -> MedCLIPProcessor:
    return MedCLIPProcessor(MedCLIPImageProcessor(64), standin_processor.tokenizer)


@pytest.fixture
def embeds(small_model, processor) -> torch.Tensor:
    return encode_images(small_model, processor, pictures(IMAGES), progress=False)


# --- scores -----------------------------------------------------------------------------------


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
        expected = ev.evaluate_classification(
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
    low, high = _mean_interval(same)
    error = 1.96 * np.sqrt(same[0].mean() * (1 - same[0].mean()) / 400)
    assert high - low == pytest.approx(2 * error, rel=0.1)
    chances = np.array([0.5, 0.6, 0.7, 0.8, 0.9])
    apart = rng.random((5, 400)) < chances[:, None]
    low, high = _mean_interval(apart)
    assert low < apart.mean() < high
    assert high - low > 4 * error


# --- pairs ------------------------------------------------------------------------------------


def test_pairs_are_the_softmax_over_two_prompts(small_model, processor, embeds):
    names = ["Edema", "Pleural Effusion"]
    positive, negative = ev.pair_scores(small_model, processor, embeds, names)
    probability = ev.pair_probabilities(positive, negative)
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


# --- the evaluator of training ----------------------------------------------------------------


def test_evaluator_is_the_protocol_and_leaves_the_mode(small_model, processor, tmp_path):
    prompts = load_class_prompts("chexpert", n=3)
    names = [CLASSES[i % 5] for i in range(IMAGES)]
    files = [tmp_path / f"{i}.png" for i in range(IMAGES)]
    for file, picture in zip(files, pictures(IMAGES), strict=True):
        picture.save(file)
    evaluate = ev.zero_shot_evaluator(processor, files, names, prompts)
    for file in files:
        file.unlink()  # read once
    pixels = processor(images=pictures(IMAGES))["pixel_values"]
    with torch.no_grad():
        inputs = process_class_prompts(prompts, processor)
        scores = PromptClassifier(small_model, ensemble=True)(pixels, inputs)["logits"]
    truth = np.arange(IMAGES) % 5
    areas = [metrics.roc_auc_score(truth == k, scores[:, k]) for k in range(5)]
    expected = {
        "zero_shot_accuracy": (scores.argmax(1).numpy() == truth).mean(),
        "zero_shot_auroc": np.mean(areas),
    }
    state = {name: tensor.clone() for name, tensor in small_model.state_dict().items()}
    for mode in (True, False):
        assert evaluate(small_model.train(mode)) == pytest.approx(expected)
        assert small_model.training is mode
    assert all(tensor.equal(state[name]) for name, tensor in small_model.state_dict().items())
    with pytest.raises(ValueError, match=r"no prompts for the classes \['Fracture'\]"):
        ev.zero_shot_evaluator(processor, pictures(1), ["Fracture"], prompts)


class Brightness(torch.nn.Module):
    """Takes bright images for texts of two words and dark ones for longer texts."""

    text_model = torch.nn.Identity()
    device = torch.device("cpu")

    def encode_image(self, pixel_values):
        bright = (pixel_values.mean(dim=(1, 2, 3)) > 0).float()
        return torch.stack([bright, 1 - bright], dim=1)

    def encode_text(self, input_ids, attention_mask):
        short = (attention_mask.sum(1) == 4).float()
        return torch.stack([short, 1 - short], dim=1)

    def compute_logits(self, image_embeds, text_embeds):
        return image_embeds @ text_embeds.T


def test_evaluator_counts_right_answers(processor):
    images = [np.full((64, 64), value, np.uint8) for value in (250, 0, 250, 0)]
    prompts = {"bright": ["left effusion"], "dark": ["no left opacity", "mild right opacity"]}
    labels = ["bright", "dark", "bright", "bright"]
    found = ev.zero_shot_evaluator(processor, images, labels, prompts)(Brightness())
    assert found == {"zero_shot_accuracy": 0.75, "zero_shot_auroc": pytest.approx(5 / 6)}
    with pytest.raises(ValueError, match="'c'"):
        ev.zero_shot_evaluator(processor, images, ["c"] * 4, prompts)
