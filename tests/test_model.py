"""The model's own promises: outputs, gradients, devices, and a light import."""

import subprocess
import sys
from contextlib import nullcontext

import pytest
import timm
import torch
from standin import PARITY

import medclip_helpers
from medclip_helpers import classify_images, similarity_map
from medclip_helpers.model import (
    MedCLIPModel,
    MedCLIPOutput,
    MedCLIPTextModel,
    MedCLIPVisionEncoder,
)
from medclip_helpers.processor import MedCLIPProcessor
from medclip_helpers.similarity import encode_texts


@pytest.fixture
def inputs(standin_processor):
    return standin_processor(
        text=["no edema", "small left pleural effusion"], images=[PARITY / "image.png"] * 2
    )


def test_outputs_under_both_names(small_model, inputs):
    outputs = small_model(**inputs, return_loss=True)
    assert outputs.logits_per_image.shape == (2, 2)
    assert outputs.logits is outputs["logits"] is outputs.logits_per_image
    assert outputs.img_embeds is outputs["img_embeds"] is outputs.get("image_embeds")
    assert outputs.loss_value is outputs["loss_value"] is outputs.loss
    assert list(outputs) == [
        "loss", "logits_per_image", "logits_per_text", "image_embeds", "text_embeds",
    ]  # fmt: skip
    assert "img_embeds" in outputs and "image_embeds" in outputs and "images" not in outputs
    assert outputs[0] is outputs.loss and outputs[:2] == (outputs.loss, outputs.logits)
    with pytest.raises(AttributeError, match="no attribute 'image_embedding'"):
        outputs.image_embedding  # noqa: B018
    torch.testing.assert_close(outputs.image_embeds.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(outputs.text_embeds.norm(dim=1), torch.ones(2))


def test_word_pieces_of_another_vocabulary_are_refused(small_model, inputs):
    known = small_model.text_model.config.vocab_size
    inputs["input_ids"][0, 1] = known
    with pytest.raises(ValueError, match=f"reach {known}, but this model knows {known} word"):
        small_model(**inputs)


def test_no_loss_unless_asked(small_model, inputs):
    assert small_model(**inputs).loss is None
    assert MedCLIPOutput().loss_value is None


def test_loss_reaches_every_weight_that_is_used(small_model, inputs):
    small_model(**inputs, return_loss=True).loss.backward()
    without = {n for n, p in small_model.named_parameters() if p.grad is None}
    # BERT's pooler is part of the published checkpoint, but MedCLIP pools hidden states itself.
    assert without == {"text_model.model.pooler.dense.weight", "text_model.model.pooler.dense.bias"}


def test_logit_scale_stays_within_1_and_100(small_model):
    embeds = torch.eye(2)
    for value, expected in [(10.0, 100.0), (-1.0, 1.0)]:
        small_model.logit_scale.data.fill_(value)
        assert small_model.compute_logits(embeds, embeds)[0, 0].item() == pytest.approx(expected)


def test_padding_is_part_of_a_text_embedding(small_model, standin_processor):
    """The published pooling averages over padding too; the docstring says so, and so it is."""
    ids = standin_processor(text=["no edema"])
    padded = standin_processor(text=["no edema"], padding="max_length", max_length=20)
    short, long = (small_model.encode_text(**x) for x in (ids, padded))
    assert (short - long).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("backbone", "kwargs"),
    [("test_resnet", {}), ("test_resnet", {"in_chans": 1}), ("swin_tiny_patch4_window7_224", {})],
)
def test_projected_mean_of_the_feature_map_is_the_embedding(backbone, kwargs):
    encoder = MedCLIPVisionEncoder(backbone, **kwargs).eval()
    pixel_values = torch.randn(2, 1, 224, 224)
    features = encoder.forward_features(pixel_values)
    torch.testing.assert_close(
        encoder.projection_head(features.mean((2, 3))), encoder(pixel_values), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(encoder(pixel_values.expand(-1, 3, -1, -1)), encoder(pixel_values))


def test_bad_pixel_values_and_backbones_without_positions():
    with pytest.raises(ValueError, match=r"got \(1, 2, 64, 64\)"):
        MedCLIPVisionEncoder("test_resnet")(torch.zeros(1, 2, 64, 64))
    encoder = MedCLIPVisionEncoder("test_vit")
    with pytest.raises(ValueError, match="'test_vit' ends in shape"):
        encoder.forward_features(torch.zeros(1, 3, 160, 160))


def test_vision_class_or_ready_encoder():
    text = MedCLIPTextModel.__new__(MedCLIPTextModel)
    torch.nn.Module.__init__(text)
    encoder = MedCLIPVisionEncoder("test_resnet")
    assert MedCLIPModel(encoder, text).vision_model is encoder
    assert "Untrained" in MedCLIPModel(encoder, text).note


def test_processor_inputs(standin_processor):
    with pytest.raises(ValueError, match="expected text, images or both"):
        standin_processor()
    with pytest.raises(ValueError, match="non-empty list"):
        standin_processor(text=[])
    with pytest.raises(ValueError, match="images is empty"):
        standin_processor(images=[])
    with pytest.raises(ValueError, match="only 'pt'"):
        standin_processor(text="edema", return_tensors="np")
    long = standin_processor(text="edema " * 200)
    assert long["input_ids"].shape == (1, 77)
    assert standin_processor(images=PARITY / "image.png")["pixel_values"].shape == (1, 1, 224, 224)


def test_images_need_no_tokenizer():
    processor = MedCLIPProcessor(mirror="http://127.0.0.1:9")
    assert "input_ids" not in processor(images=PARITY / "image.png")


def test_import_is_light():
    heavy = [
        "torch",
        "transformers",
        "timm",
        "matplotlib",
        "ipywidgets",
        "sklearn",
        "pandas",
        "nltk",
    ]
    code = f"import sys, medclip_helpers; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_every_public_name_is_there():
    for name in medclip_helpers.__all__:
        assert getattr(medclip_helpers, name).__name__ == name
    with pytest.raises(AttributeError, match="No medclip_helpers attribute MedCLIP"):
        medclip_helpers.MedCLIP  # noqa: B018


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_inputs_move_to_the_models_device(small_model, inputs):
    assert small_model.cuda()(**inputs).logits.device.type == "cuda"


@pytest.mark.parametrize("how", [torch.bfloat16, torch.float16, torch.float64, "autocast"], ids=str)
def test_scores_are_float32_whatever_the_weights_are(how, small_model, standin_processor):
    texts, image = ["mild pulmonary edema", "cardiac silhouette enlarged"], PARITY / "image.png"
    inputs = standin_processor(text=texts, images=image)
    expected = small_model(**inputs).logits_per_image
    model, context = small_model, nullcontext()
    if how == "autocast":
        context = torch.autocast("cpu", torch.bfloat16)
    else:
        model = small_model.to(how)
    with context:
        outputs = model(**inputs)
        terms = similarity_map(model, inputs["pixel_values"], outputs.text_embeds)
        table = classify_images(model, standin_processor, [image], {t: [t] for t in texts})
        embeds = encode_texts(model, standin_processor, texts)
    for tensor in (*outputs.to_tuple(), terms, embeds):
        assert tensor.dtype == torch.float32
    torch.testing.assert_close(outputs.logits_per_image, expected, atol=0.15, rtol=0.02)
    cosine = outputs.image_embeds @ outputs.text_embeds.T
    torch.testing.assert_close(terms.sum(dim=(2, 3)), cosine.detach(), atol=0.02, rtol=0)
    torch.testing.assert_close(
        torch.tensor(table[texts].to_numpy(float), dtype=torch.float32),
        expected.detach(), atol=0.15, rtol=0.02,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("backbone", "settings"),
    [
        ("mobilenetv3_small_050", {}),
        ("ghostnet_050", {}),
        ("mobilenetv4_conv_small_050", {}),
        ("test_resnet", {"global_pool": "catavgmax"}),
        ("test_efficientnet", {"in_chans": 1}),
    ],
)
def test_backbones_that_pool_to_another_width(backbone, settings):
    if backbone not in timm.list_models():
        pytest.skip(f"timm {timm.__version__} has no {backbone}")
    encoder = MedCLIPVisionEncoder(backbone, projection_dim=8, **settings).eval()
    assert encoder(torch.zeros(2, 1, 64, 64)).shape == (2, 8)
