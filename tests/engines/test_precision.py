"""In which precision an encoder computes, and that it stays an encoder's business."""

import copy

import pytest
import torch

from medclip_helpers import load_medclip, similarity_map
from medclip_helpers.engines import choose_precision, reduced_precision
from medclip_helpers.similarity import encode_images, encode_texts

IMAGE = torch.arange(64.0).view(8, 8)
TEXTS = ["Left lower lobe consolidation.", "No pleural effusion."]


def gpu(ampere: bool):
    """What torch says of a GPU: any that it knows emulates bfloat16, as a T4 does."""
    return lambda including_emulation=True: ampere or including_emulation


@pytest.mark.parametrize(
    ("device", "capabilities", "ampere", "expected"),
    [
        ("cpu", {"avx512_bf16": True}, False, "bfloat16"),
        ("cpu", {"amx_bf16": True}, False, "bfloat16"),
        ("cpu", {"avx512_f": True, "avx512_bf16": False}, True, "float32"),
        ("cpu", {}, True, "float32"),
        ("cuda", {"avx512_bf16": True}, True, "bfloat16"),
        ("cuda:1", {"avx512_bf16": True}, False, "float16"),
        ("mps", {"avx512_bf16": True}, False, "float32"),
    ],
)
def test_auto_is_what_the_hardware_has(device, capabilities, ampere, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", gpu(ampere))
    assert choose_precision("auto", device) == expected


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_emulated_is_done_and_said(device, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", gpu(ampere=False))
    with pytest.warns(UserWarning, match=f"bfloat16 is emulated on this {device.upper()}"):
        assert choose_precision("bfloat16", device) == "bfloat16"


def test_another_precision_is_refused():
    with pytest.raises(ValueError, match="precision is 'half', expected 'auto' or one of"):
        load_medclip("demo", precision="half")


def test_a_model_takes_no_other_precision():
    model, _ = load_medclip("demo", "cpu")
    for wrong in ("auto", "half", torch.float16):
        with pytest.raises(ValueError, match=r"precision is .*, expected one of \['float32'"):
            model.precision = wrong
    assert model.precision == "float32"


def test_float32_leaves_an_autocast_of_the_caller_be():
    with torch.autocast("cpu", torch.bfloat16), reduced_precision("float32", "cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_float32_is_no_tf32_on_a_gpu_and_what_was_set_comes_back(monkeypatch):
    cudnn = torch.backends.cudnn
    for before in (True, False):
        monkeypatch.setattr(cudnn, "allow_tf32", before)
        with reduced_precision("float32", "cuda"):
            assert cudnn.allow_tf32 is False
        assert cudnn.allow_tf32 is before


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_does_without_plans_for_each_length(precision):
    there = torch.backends.cuda.cudnn_sdp_enabled
    assert there()
    with reduced_precision(precision, "cpu"):
        assert not there() and torch.backends.cuda.flash_sdp_enabled()
    assert there()


def test_a_model_computes_in_its_precision_and_scores_in_float32():
    reference, processor = load_medclip("demo", "cpu")
    model = copy.deepcopy(reference)
    model.precision = "bfloat16"
    seen = []
    for encoder in (model.vision_model, model.text_model):
        encoder.projection_head.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    for encode, what in ((encode_images, [IMAGE]), (encode_texts, TEXTS)):
        exact, embeds = encode(reference, processor, what), encode(model, processor, what)
        assert embeds.dtype == torch.float32
        assert not torch.equal(embeds, exact)
        torch.testing.assert_close(embeds, exact, atol=0.02, rtol=0)
    assert seen == [torch.bfloat16] * 3  # an image, and two texts of different lengths
    assert all(weight.dtype == torch.float32 for weight in model.parameters())
    pixel_values = processor(images=IMAGE)["pixel_values"]
    terms = similarity_map(model, pixel_values, embeds)
    cosine = encode_images(model, processor, [IMAGE]) @ embeds.T
    torch.testing.assert_close(terms.sum(dim=(2, 3)), cosine, atol=0.02, rtol=0)
    assert not torch.equal(terms, similarity_map(reference, pixel_values, embeds))
    # training has a precision of its own
    torch.testing.assert_close(
        model.vision_model.train()(pixel_values), reference.vision_model.train()(pixel_values)
    )
    assert model.train().encode_image(pixel_values).requires_grad
    assert len(seen) == 6 and seen[-1] == torch.float32


def test_loading_says_which_was_chosen(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    assert load_medclip("demo", "cpu", precision="auto")[0].precision == "bfloat16"
    assert load_medclip("demo", "cpu")[0].precision == "float32"
