"""Equal weights give equal numbers: this package against what the published one computed.

tests/parity holds stand-in weights, a function of name and shape, and the outputs of medclip 0.0.3.
"""

import json

import pytest
import torch
from PIL import Image
from standin import PARITY

from medclip_helpers.classifier import PromptClassifier
from medclip_helpers.losses import (
    ImageTextContrastiveLoss,
    info_nce_loss,
    label_similarity,
    semantic_matching_loss,
)
from medclip_helpers.processor import MedCLIPImageProcessor
from medclip_helpers.prompts import process_class_prompts

TOLERANCE = {"rtol": 0, "atol": 1e-5}


def test_image_processor(golden):
    pixel_values = MedCLIPImageProcessor()(Image.open(PARITY / "image.png"))
    torch.testing.assert_close(pixel_values, golden["pixel_values"], rtol=0, atol=1e-6)


def test_tokenizer(golden, standin_processor):
    inputs = standin_processor(text=golden["texts"])
    assert inputs["input_ids"].equal(golden["input_ids"])
    assert inputs["attention_mask"].equal(golden["attention_mask"])


def test_each_class_is_padded_to_its_own_longest_prompt(golden, standin_processor):
    prompts = process_class_prompts(golden["class_prompts"], standin_processor)
    assert list(prompts) == list(golden["class_prompts"])
    for name, ids in golden["prompt_input_ids"].items():
        assert prompts[name]["input_ids"].equal(ids)


@pytest.fixture(scope="module", params=["vit", "resnet"])
def published(request, standin_model):
    """Name, model with the stand-in weights and its outputs for the golden image and texts."""
    return request.param, standin_model(request.param)


def test_model(published, golden, standin_processor):
    name, model = published
    inputs = standin_processor(text=golden["texts"], images=PARITY / "image.png")
    with torch.no_grad():
        outputs = model(**inputs)
    for ours, theirs, near in [
        ("image_embeds", "img_embeds", 1e-6),
        ("text_embeds", "text_embeds", 1e-6),
        ("logits_per_image", "logits", 1e-5),
    ]:
        torch.testing.assert_close(outputs[ours], golden[name][theirs], rtol=0, atol=near)
        assert outputs[theirs] is outputs[ours]  # the published name reads the same tensor
    assert outputs.logits_per_text.equal(outputs.logits_per_image.T)


def test_vision_encoder_on_a_batch(published, golden):
    name, model = published
    with torch.no_grad():
        embeds = model.encode_image(golden["batch_pixel_values"].float())
    torch.testing.assert_close(embeds, golden[name]["batch_img_embeds"], **TOLERANCE)


@pytest.mark.parametrize(("ensemble", "key"), [(True, "clf_mean"), (False, "clf_max")])
def test_classifier(published, golden, standin_processor, ensemble, key):
    name, model = published
    prompts = process_class_prompts(golden["class_prompts"], standin_processor)
    with torch.no_grad():
        outputs = PromptClassifier(model, ensemble=ensemble)(
            pixel_values=golden["batch_pixel_values"].float(), prompt_inputs=prompts
        )
    torch.testing.assert_close(outputs["logits"], golden[name][key], **TOLERANCE)
    assert outputs["class_names"] == list(golden["class_prompts"])


def test_losses(published, golden):
    name, model = published
    record = golden[name]
    logits = model.compute_logits(record["batch_img_embeds"], record["text_embeds"])
    hard = info_nce_loss(logits[:3])
    soft = semantic_matching_loss(
        logits, label_similarity(golden["img_labels"], golden["text_labels"], kind="dot")
    )
    torch.testing.assert_close(hard, record["hard_loss"], **TOLERANCE)
    torch.testing.assert_close(soft, record["soft_loss"], **TOLERANCE)


def test_loss_with_and_without_augmented_text(standin_model, golden):
    """Text i's other wording is here the next text: what matters is what is done with it."""
    recorded = json.loads((PARITY / "protocol.json").read_text())["loss"]
    texts = {"input_ids": golden["input_ids"], "attention_mask": golden["attention_mask"]}
    given = {
        **texts,
        "pixel_values": golden["batch_pixel_values"].float()[:3],
        "img_labels": golden["img_labels"][:3],
        "text_labels": golden["text_labels"],
    }
    augmented = {f"aug_{name}": part.flip(0) for name, part in texts.items()}
    with torch.no_grad():
        loss = ImageTextContrastiveLoss(standin_model("vit"))
        plain, both = (loss(**given, **more)["loss_value"].item() for more in ({}, augmented))
    assert plain == pytest.approx(recorded["plain"], abs=1e-5)
    assert both == pytest.approx(recorded["augmented"], abs=1e-5) != plain
