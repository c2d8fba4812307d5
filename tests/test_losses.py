"""The losses against hand-made cases, the document's formula and the recorded published numbers."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributed_loss import loss_and_gradients
from torch.nn import functional as F

from medclip_helpers.losses import (
    ImageTextContrastiveLoss,
    gather_across_processes,
    info_nce_loss,
    label_similarity,
    semantic_contrastive_loss,
    semantic_matching_loss,
)

ROOT = Path(__file__).parent.parent


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_semantic_contrastive_loss_is_the_documents_formula():
    image, text, matrix = random(5, 8, seed=1), random(7, 8, seed=2), random(5, 7, seed=3)
    logits = 100 * (image / image.norm(dim=1, keepdim=True)) @ (text / text.norm(dim=1)[:, None]).T
    targets = matrix.exp() / matrix.exp().sum(1, keepdim=True)
    expected = -(targets * (logits - logits.logsumexp(1, keepdim=True))).sum(1).mean()
    torch.testing.assert_close(semantic_contrastive_loss(image, text, matrix), expected)


def test_semantic_contrastive_loss_is_least_where_the_ranking_agrees():
    embeds = torch.eye(4)
    agree = semantic_contrastive_loss(embeds, embeds, 20 * torch.eye(4))
    shifted = semantic_contrastive_loss(embeds, embeds.roll(1, 0), 20 * torch.eye(4))
    assert agree < 1e-6
    assert shifted > 99


def test_info_nce_by_hand():
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    rows = (math.log(1 + math.exp(-2)) + math.log(2)) / 2
    assert info_nce_loss(logits).item() == pytest.approx(rows)  # symmetric: columns give the same
    assert info_nce_loss(torch.zeros(9, 9)).item() == pytest.approx(math.log(9))


def test_info_nce_leaves_false_negatives_out_by_hand():
    logits = torch.tensor([[1.0, 3.0, 0.0], [0.5, 2.0, 0.0], [0.0, 0.0, 0.0]])
    false_negatives = torch.tensor([[True, True, False], [False] * 3, [False] * 3])

    def nats(right, *wrong):
        return math.log(sum(math.exp(x) for x in (right, *wrong))) - right

    rows = nats(1, 0) + nats(2, 0.5, 0) + nats(0, 0, 0)  # the 3 of the first row is left out
    columns = nats(1, 0.5, 0) + nats(2, 0) + nats(0, 0, 0)  # and of the second column
    found = info_nce_loss(logits, false_negatives).item()
    assert found == pytest.approx((rows + columns) / 6)
    assert info_nce_loss(logits, torch.eye(3).bool()).item() == info_nce_loss(logits).item()


def test_nothing_pushes_false_negatives_apart():
    logits = torch.zeros(3, 3, requires_grad=True)
    masked = torch.tensor([[False, True, False], [False] * 3, [False] * 3])
    info_nce_loss(logits, masked).backward()
    assert logits.grad[0, 1] == 0 and logits.grad[0, 2] > 0 > logits.grad[0, 0]


def test_info_nce_takes_both_directions():
    logits = random(6, 6)
    target = torch.arange(6)
    both = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(info_nce_loss(logits), both)
    assert not torch.isclose(F.cross_entropy(logits, target), both)


def test_label_similarity_by_hand():
    image = torch.tensor([[1.0, 1, 0], [0, 0, 0], [0, 0, -1]])
    text = torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0, 2]])
    half = 1 / math.sqrt(2)
    cosine = torch.tensor([[half, 0, 0], [0, 0, 0], [0, 0, -1]])
    torch.testing.assert_close(label_similarity(image, text), cosine)
    dot = torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0, -2]])
    torch.testing.assert_close(label_similarity(image, text, kind="dot"), dot)


def test_a_label_that_is_not_mentioned_counts_as_zero():
    image = torch.tensor([[1.0, math.nan, math.nan]])
    text = torch.tensor([[1.0, 0.0, 0.0], [math.nan, 1.0, 0.0], [math.nan] * 3])
    for kind in ("cosine", "dot"):
        assert label_similarity(image, text, kind).tolist() == [[1, 0, 0]]


def test_semantic_matching_reduces_to_info_nce_for_sharp_identity_targets():
    logits = 5 * random(6, 6)
    sharp = semantic_matching_loss(logits, torch.eye(6), temperature=1e-3)
    torch.testing.assert_close(sharp, info_nce_loss(logits))


def test_temperature_sharpens_the_targets():
    """The loss is least where the logits equal similarity / temperature, as the targets do."""
    similarity = label_similarity(random(5, 14, seed=1), random(5, 14, seed=2))
    for temperature in (1.0, 0.1):
        at = {
            tau: semantic_matching_loss(similarity / tau, similarity, temperature)
            for tau in (1.0, 0.1)
        }
        assert min(at, key=at.get) == temperature


def test_more_images_than_texts():
    logits, similarity = random(4, 3), random(4, 3, seed=5)
    rows = -(similarity.softmax(1) * logits.log_softmax(1)).sum(1).mean()
    columns = -(similarity.softmax(0) * logits.log_softmax(0)).sum(0).mean()
    torch.testing.assert_close(semantic_matching_loss(logits, similarity), (rows + columns) / 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite(dtype):
    image, text = random(8, 16, seed=1).to(dtype), random(8, 16, seed=2).to(dtype)
    image.requires_grad_()
    logits = 100 * F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
    labels = torch.zeros(8, 14, dtype=dtype)
    losses = [
        semantic_contrastive_loss(image, text, logits.detach()),
        info_nce_loss(logits),
        semantic_matching_loss(logits, label_similarity(labels, labels), temperature=1e-3),
    ]
    (gradient,) = torch.autograd.grad(sum(losses), image)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: info_nce_loss(torch.zeros(3, 4)), ["logits_per_image", "(3, 4)", "(3, 3)"]),
        (lambda: label_similarity(torch.zeros(2, 14), torch.zeros(2, 13)), ["(2, 13)"]),
        (lambda: label_similarity(torch.zeros(2, 3), torch.zeros(2, 3), "l2"), ["'l2'", "cosine"]),
        (
            lambda: semantic_matching_loss(torch.zeros(2, 3), torch.zeros(3, 2)),
            ["similarity", "(3, 2)", "(2, 3)"],
        ),
        (
            lambda: semantic_matching_loss(torch.zeros(2, 2), torch.zeros(2, 2), 0),
            ["temperature", "positive"],
        ),
        (
            lambda: semantic_contrastive_loss(
                torch.zeros(2, 5), torch.zeros(3, 5), torch.zeros(2, 2)
            ),
            ["semantic_similarity_matrix", "(2, 2)", "(2, 3)"],
        ),
    ],
)
def test_errors_name_the_value_and_what_was_expected(call, words):
    with pytest.raises(ValueError) as error:
        call()
    assert all(word in str(error.value) for word in words)


class Embeddings(torch.nn.Module):
    """Stands for a model whose encoders return what they are given."""

    def encode_image(self, pixel_values):
        return pixel_values

    def encode_text(self, input_ids, attention_mask=None):
        return input_ids

    def compute_logits(self, image_embeds, text_embeds):
        return image_embeds @ text_embeds.T / 0.07


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_the_published_module_gives_the_published_losses(golden, name):
    record = golden[name]
    loss_of = ImageTextContrastiveLoss(Embeddings())
    images, texts = record["batch_img_embeds"], record["text_embeds"]
    hard = loss_of(texts, images[:3])["loss_value"]
    soft = loss_of(texts, images, None, golden["img_labels"], golden["text_labels"])["loss_value"]
    torch.testing.assert_close(hard, record["hard_loss"], rtol=0, atol=1e-5)
    torch.testing.assert_close(soft, record["soft_loss"], rtol=0, atol=1e-5)


def test_the_collators_names_and_the_published_ones_mean_the_same(golden):
    record = golden["vit"]
    loss_of = ImageTextContrastiveLoss(Embeddings())
    batch = {"input_ids": record["text_embeds"], "pixel_values": record["batch_img_embeds"]}
    labels = {"text_labels": golden["text_labels"]}
    published = loss_of(**batch, **labels, img_labels=golden["img_labels"])["loss_value"]
    ours = loss_of(**batch, **labels, image_labels=golden["img_labels"])["loss_value"]
    assert ours.equal(published)
    with pytest.raises(ValueError, match="img_labels and image_labels are the same"):
        loss_of(**batch, img_labels=golden["img_labels"], image_labels=golden["img_labels"])


def test_labels_of_one_side_alone_or_under_another_name_are_an_error(golden):
    loss_of = ImageTextContrastiveLoss(Embeddings())
    batch = [golden["vit"]["text_embeds"], golden["vit"]["batch_img_embeds"][:3]]
    with pytest.raises(ValueError, match="text_labels missing: expected labels of images and"):
        loss_of(*batch, image_labels=golden["img_labels"][:3])
    with pytest.raises(ValueError, match="image_labels missing"):
        loss_of(*batch, text_labels=golden["text_labels"])
    with pytest.raises(TypeError, match="image_label"):
        loss_of(*batch, image_label=golden["img_labels"][:3], text_labels=golden["text_labels"])


def test_the_module_hands_on_the_mask_and_the_temperature(golden):
    class Masked(Embeddings):
        def encode_text(self, input_ids, attention_mask=None):
            return input_ids * attention_mask

    texts, images = golden["vit"]["text_embeds"], golden["vit"]["batch_img_embeds"]
    mask = torch.ones_like(texts)
    mask[:, ::2] = 0
    labels = {"image_labels": golden["img_labels"], "text_labels": golden["text_labels"]}
    loss_of = ImageTextContrastiveLoss(Masked(), temperature=0.3)
    found = loss_of(texts, images, mask, **labels, aug_input_ids=texts, aug_attention_mask=1 - mask)
    similarity = label_similarity(golden["img_labels"], golden["text_labels"], kind="dot")
    each = [
        semantic_matching_loss(images @ (texts * m).T / 0.07, similarity, 0.3)
        for m in (mask, 1 - mask)
    ]
    assert abs(each[0] - each[1]) > 0.01
    torch.testing.assert_close(found["loss_value"], sum(each) / 2)


def test_augmented_texts_count_as_much_as_the_texts_themselves(golden):
    record = golden["vit"]
    loss_of = ImageTextContrastiveLoss(Embeddings())
    images, texts = record["batch_img_embeds"], record["text_embeds"]
    labels = {"image_labels": golden["img_labels"], "text_labels": golden["text_labels"]}
    own = loss_of(texts, images, **labels)["loss_value"]
    other = loss_of(texts.flip(1), images, **labels)["loss_value"]
    both = loss_of(texts, images, **labels, aug_input_ids=texts.flip(1))["loss_value"]
    torch.testing.assert_close(both, (own + other) / 2)
    assert not own.equal(other)


def test_gathering_without_processes_is_the_identity():
    tensor = random(3, 2)
    assert gather_across_processes(tensor) is tensor


def test_two_processes_of_eight_equal_one_of_sixteen(tmp_path):
    """Through torchrun and DistributedDataParallel, with labels and without, loss and gradients."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    output = tmp_path / "two.pt"
    subprocess.run(
        [*command, str(ROOT / "tests" / "distributed_loss.py"), str(output)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=180,
    )
    two = torch.load(output, weights_only=True)
    for labels in (True, False):
        one = loss_and_gradients(labels, rank=0, world=1)
        torch.testing.assert_close(two[labels]["loss"], one["loss"], rtol=0, atol=1e-5)
        assert two[labels]["gradients"].keys() == one["gradients"].keys() != set()
        for name, gradient in one["gradients"].items():
            torch.testing.assert_close(
                two[labels]["gradients"][name], gradient, rtol=0, atol=1e-5, msg=name
            )
        assert one["gradients"]["model.logit_scale"].abs() > 1e-4
        assert one["gradients"]["model.vision_model.projection_head.weight"].norm() > 1e-3
