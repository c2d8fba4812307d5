"""Zero-shot scores: of the classifier, of pairs, and the evaluator of training."""

import numpy as np
import pytest
import torch
from pictures import pictures
from sklearn import metrics

from medclip_helpers import PromptClassifier
from medclip_helpers import evaluation as ev
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
