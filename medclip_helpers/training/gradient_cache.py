"""Gradients of a batch that does not fit in memory, exactly those of the whole batch.

Contrastive losses compare all of a batch with all of it, so accumulating gradients over smaller
batches trains with another loss. Instead (Gao et al. 2021, GradCache): embed the batch in chunks
without a graph, take the loss over all embeddings and its gradient at them, then embed each chunk
again with a graph and backpropagate that gradient. One more forward pass is the price.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ..losses import ImageTextContrastiveLoss


def check_model(model: nn.Module) -> None:
    """ValueError where a chunk's embeddings depend on what else is in it."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ValueError(
                f"chunk_size is for encoders without batch normalisation: its statistics would be "
                f"those of a chunk: {name} is a {type(module).__name__} (Swin has none)"
            )


class _Random:
    """The state of dropout's generators, so that a chunk is embedded the same twice."""

    def __init__(self, device: torch.device):
        self.device, self.cpu = device, torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)


def backward_in_chunks(
    loss: ImageTextContrastiveLoss,
    batch: Mapping[str, Tensor],
    chunk_size: int,
    forward: Callable,
    backward: Callable[[Tensor], None],
) -> Tensor:
    """The loss of a batch, detached, whose gradients were added to the parameters.

    batch: as `loss` takes it. chunk_size: images, or texts, embedded at once.
    forward: () -> context in which embeddings and loss are computed (autocast). backward: of a
        scalar, with whatever scales it.
    """
    parts = [(loss.model.encode_image, [batch["pixel_values"]])]
    for prefix in ("", "aug_"):
        if f"{prefix}input_ids" in batch:
            names = f"{prefix}input_ids", f"{prefix}attention_mask"
            parts.append((loss.model.encode_text, [batch[name] for name in names]))
    chunks = [
        [(encode, chunk) for chunk in zip(*(x.split(chunk_size) for x in tensors), strict=True)]
        for encode, tensors in parts
    ]
    states, leaves = [], []
    with torch.no_grad(), forward():
        for part in chunks:
            embeds = []
            for encode, chunk in part:
                states.append(_Random(chunk[0].device))
                embeds.append(encode(*chunk))
            leaves.append(torch.cat(embeds).requires_grad_())
    image_embeds, *text_embeds = leaves
    with forward():
        found = loss.of_embeds(
            image_embeds, text_embeds, batch.get("image_labels"), batch.get("text_labels")
        )
    backward(found)
    after = _Random(image_embeds.device)
    remembered = iter(states)
    for part, leaf in zip(chunks, leaves, strict=True):
        assert leaf.grad is not None
        for (encode, chunk), gradient in zip(part, leaf.grad.split(chunk_size), strict=True):
            next(remembered).restore()
            with forward():
                embeds = encode(*chunk)
            embeds.backward(gradient)  # scaled already, where the loss was
    after.restore()
    return found.detach()
