"""MedCLIP's losses, as free functions on tensors.

Wang et al. (EMNLP 2022), section 3.3: an image and a sentence that share findings are a match,
whoever they come from. Cosines of their label vectors become soft targets, and the softmax over a
batch's similarities is pulled towards them.

Half-precision logits are converted to float32 before a softmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F


def _check_matrix(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}, expected {shape} (images, texts)"
        )


def semantic_contrastive_loss(
    img_embeds: Tensor, text_embeds: Tensor, semantic_similarity_matrix: Tensor
) -> Tensor:
    """Cross-entropy of scaled cosines against the row softmax of a given similarity.

    img_embeds: (images, dim), text_embeds: (texts, dim), of any length; they are normalised here.
    semantic_similarity_matrix: (images, texts).

    Returns a scalar, averaged over images. Logits are cosine times 100, a fixed temperature of
    0.01; `semantic_matching_loss` uses the model's own temperature and both directions.
    """
    shape = (len(img_embeds), len(text_embeds))
    _check_matrix("semantic_similarity_matrix", semantic_similarity_matrix, shape)
    image, text = F.normalize(img_embeds.float(), dim=-1), F.normalize(text_embeds.float(), dim=-1)
    targets = semantic_similarity_matrix.float().softmax(dim=-1)
    return F.cross_entropy(100 * image @ text.T, targets)


def info_nce_loss(logits_per_image: Tensor, false_negatives: Tensor | None = None) -> Tensor:
    """CLIP's symmetric loss: image i belongs to text i and to no other.

    logits_per_image: (pairs, pairs), scaled cosine similarities. Returns a scalar.
    false_negatives: (pairs, pairs), bool: left out of both softmaxes, so that nothing pushes these
        apart; the diagonal stays. Source: Radford et al. 2021, figure 3, but for these.
    """
    pairs = len(logits_per_image)
    _check_matrix("logits_per_image", logits_per_image, (pairs, pairs))
    logits = logits_per_image.float()
    target = torch.arange(pairs, device=logits.device)
    if false_negatives is not None:
        _check_matrix("false_negatives", false_negatives, (pairs, pairs))
        logits = logits.masked_fill(false_negatives & (target[:, None] != target), -torch.inf)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def label_similarity(image_labels: Tensor, text_labels: Tensor, kind: str = "cosine") -> Tensor:
    """How much the findings of each image and each text agree.

    image_labels: (images, labels), text_labels: (texts, labels); NaN, not mentioned, counts as 0.
    kind: "cosine", the paper's, in [-1, 1], where a vector of zeros is similar to nothing (0); or
        "dot", the raw product that the published code uses.

    Returns (images, texts), float32.
    """
    if image_labels.shape[1:] != text_labels.shape[1:] or image_labels.dim() != 2:
        raise ValueError(
            f"image_labels {tuple(image_labels.shape)} and text_labels {tuple(text_labels.shape)}: "
            "expected (images, labels) and (texts, labels)"
        )
    if kind not in ("cosine", "dot"):
        raise ValueError(f"unknown kind of label similarity {kind!r}: expected 'cosine' or 'dot'")
    image_labels, text_labels = (x.float().nan_to_num(0) for x in (image_labels, text_labels))
    if kind == "cosine":
        # normalize divides by at least 1e-12, so that zeros stay zeros.
        image_labels, text_labels = (F.normalize(x, dim=1) for x in (image_labels, text_labels))
    return image_labels @ text_labels.T


def semantic_matching_loss(
    logits_per_image: Tensor, similarity: Tensor, temperature: float = 1.0
) -> Tensor:
    """Soft cross-entropy in both directions (the paper's equations 5 to 8), averaged.

    logits_per_image: (images, texts), scaled cosine similarities.
    similarity: (images, texts), from `label_similarity`.
    temperature: divides the similarity before its softmax. At 1, the published value, targets over
        cosines are almost flat in a large batch; smaller values sharpen them.

    Returns a scalar. With kind="dot" and temperature 1 it equals the published package's.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, expected a positive number")
    _check_matrix("similarity", similarity, tuple(logits_per_image.shape))
    logits, similarity = logits_per_image.float(), similarity.float() / temperature
    per_image = F.cross_entropy(logits, similarity.softmax(dim=1))
    per_text = F.cross_entropy(logits.T, similarity.T.softmax(dim=1))
    return (per_image + per_text) / 2


def gather_across_processes(tensor: Tensor) -> Tensor:
    """(rows, ...) of each process -> (processes x rows, ...), by rank, with gradients.

    All processes must hold the same number of rows. Outside torch.distributed the tensor itself.

    A loss over gathered tensors is the same in each process, and each row's gradient arrives summed
    over the processes: times their number. DistributedDataParallel divides by that number when it
    averages, so weights receive the gradient of one process with the whole batch.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return tensor
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(tensor.contiguous()))


class ImageTextContrastiveLoss(nn.Module):
    """The published module around `semantic_matching_loss`.

    model: a `MedCLIPModel`. kind, temperature: as in `label_similarity` and
    `semantic_matching_loss`; the defaults are the published ones.
    """

    model: Any  # a module with three methods, which nn.Module does not have

    def __init__(self, model: nn.Module, kind: str = "dot", temperature: float = 1.0):
        super().__init__()
        self.model, self.kind, self.temperature = model, kind, temperature

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        img_labels: Tensor | None = None,
        text_labels: Tensor | None = None,
        aug_input_ids: Tensor | None = None,
        aug_attention_mask: Tensor | None = None,
        *,
        image_labels: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """{"loss_value": scalar} over all processes' images and texts.

        input_ids, attention_mask: (texts, tokens). pixel_values: (images, channels, height, width).
        image_labels: (images, labels) and text_labels: (texts, labels); without both, InfoNCE,
            which takes image i and text i as a pair. img_labels: published name of image_labels.
        aug_input_ids, aug_attention_mask: other wordings of the same texts; the loss is then the
            mean of the two losses, as published.
        token_type_ids: accepted and not used, as by the model.

        Raises ValueError for labels of one side alone, and for image labels under both names.
        """
        if image_labels is None:
            image_labels = img_labels
        elif img_labels is not None:
            raise ValueError("img_labels and image_labels are the same: expected one of them")
        if (image_labels is None) != (text_labels is None):
            missing = "image_labels" if image_labels is None else "text_labels"
            raise ValueError(f"{missing} missing: expected labels of images and of texts, or none")
        wordings = [(input_ids, attention_mask)]
        if aug_input_ids is not None:
            wordings.append((aug_input_ids, aug_attention_mask))
        image_embeds = self.model.encode_image(pixel_values)
        text_embeds = [self.model.encode_text(*wording) for wording in wordings]
        return {"loss_value": self.of_embeds(image_embeds, text_embeds, image_labels, text_labels)}

    def of_embeds(
        self,
        image_embeds: Tensor,
        text_embeds: Sequence[Tensor],
        image_labels: Tensor | None = None,
        text_labels: Tensor | None = None,
    ) -> Tensor:
        """The loss, a scalar, from (images, dim) and (texts, dim) for each wording of the texts."""
        image_embeds = gather_across_processes(image_embeds)
        texts = map(gather_across_processes, text_embeds)
        logits = [self.model.compute_logits(image_embeds, embeds) for embeds in texts]
        if image_labels is None or text_labels is None:
            return torch.stack([info_nce_loss(each) for each in logits]).mean()
        similarity = label_similarity(
            gather_across_processes(image_labels.to(image_embeds.device)),
            gather_across_processes(text_labels.to(image_embeds.device)),
            self.kind,
        )
        losses = [semantic_matching_loss(each, similarity, self.temperature) for each in logits]
        return torch.stack(losses).mean()
