"""Chunks give the gradients of the whole batch."""

from contextlib import nullcontext

import pytest
import torch
from training_run import VOCABULARY, build, config, run

from medclip_helpers.losses import ImageTextContrastiveLoss
from medclip_helpers.training import build_model, gradient_cache


def small(dropout: float = 0.0):
    """A model without batch normalisation, and its processor."""
    vision = {"backbone": "test_vit", "projection_dim": 16, "img_size": 32}
    text = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), dropout)
    return build_model(vision, text | {"intermediate_size": 64}, VOCABULARY.parent, image_size=32)


def batch(labels: bool) -> dict[str, torch.Tensor]:
    """Seven images and texts, with another wording of each."""
    draw = torch.Generator().manual_seed(0)
    mask = torch.ones(7, 9, dtype=torch.long)
    given = {"pixel_values": torch.randn(7, 1, 32, 32, generator=draw)}
    for prefix in ("", "aug_"):
        given[f"{prefix}input_ids"] = torch.randint(5, 90, (7, 9), generator=draw)
        given[f"{prefix}attention_mask"] = mask
    if labels:
        for side in ("image", "text"):
            given[f"{side}_labels"] = torch.randint(0, 2, (7, 14), generator=draw).float()
    return given


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("chunk_size", [1, 3, 7, 100])
def test_gradients_are_those_of_the_whole_batch(labels, chunk_size):
    model = small()[0].train()
    loss, given = ImageTextContrastiveLoss(model), batch(labels)
    whole = loss(**given)["loss_value"]
    whole.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    found = gradient_cache.backward_in_chunks(
        loss, given, chunk_size, nullcontext, torch.Tensor.backward
    )
    assert found.item() == pytest.approx(whole.item(), abs=1e-5) and not found.requires_grad
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert grads.keys() == expected.keys()
    for name, gradient in grads.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5, msg=name)


def test_both_passes_drop_the_same():
    model = small(dropout=0.5)[0].train()
    passes: dict[bool, list] = {False: [], True: []}  # with a graph: the second
    encode = model.encode_text

    def encode_text(*inputs):
        embeds = encode(*inputs)
        passes[embeds.requires_grad].append(embeds.detach())
        return embeds

    model.encode_text = encode_text
    loss = ImageTextContrastiveLoss(model)
    gradient_cache.backward_in_chunks(loss, batch(True), 3, nullcontext, torch.Tensor.backward)
    first, second = passes.values()
    assert len(first) == len(second) == 6  # three chunks of two wordings
    assert all(map(torch.equal, first, second))
    again = encode(*(batch(True)[name][:3] for name in ("input_ids", "attention_mask")))
    assert not torch.equal(again, first[0])  # it does drop


def test_a_trained_run_is_the_same_in_chunks(tmp_path):
    weights = []
    for chunk_size in (None, 3):
        model, processor = small()
        settings = config(tmp_path / str(chunk_size), max_steps=3, chunk_size=chunk_size)
        run(model, processor, settings)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(*weights, rtol=0, atol=1e-4)


def test_batch_normalisation_is_refused(tmp_path):
    model, processor = build()
    with pytest.raises(ValueError, match="without batch normalisation.*BatchNorm.*Swin has none"):
        run(model, processor, config(tmp_path, chunk_size=2))
