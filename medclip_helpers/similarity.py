"""Embeddings of images and texts, and where in the image a similarity comes from, exactly.

A text's embedding depends on how far it is padded (see `MedCLIPTextModel`), so wherever a score is
shown one of two rules holds: the prompts of a class are padded to the longest of them, as published
(`PromptClassifier`, the zero-shot protocol); everywhere else a text is encoded by itself, unpadded
(`encode_texts`), and has one embedding, whatever else is encoded.

Both published encoders end in a mean over positions p and a projection W without bias, so
with features f, unit text embedding t and v = W mean_p(f_p):

    cos(image, text) = v.t / |v| = sum over p of (W f_p).t / (n |v|),    n positions.

The map shows these n terms. Nothing is approximated: they add up to the score. They say what the
last layer adds up, not what the layers before it looked at: a position sees its surroundings.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from operator import length_hint
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from .constants import MAX_TEXT_TOKENS
from .model import MedCLIPModel
from .processor import MedCLIPProcessor, read_batches

TEXT_BATCH_SIZE = 16


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in eval mode; afterwards each part in the mode that it was in."""
    modes = {part: part.training for part in model.modules()}  # one part may be frozen
    model.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


class EncodedBatch(NamedTuple):
    """images: as they were given. errors: {place: why it could not be read}.
    blank: places of images of uniform brightness. embeds: (images without an error, dim), unit
    length, float32, on the CPU.
    """

    images: list
    errors: dict[int, Exception]
    blank: set[int]
    embeds: Tensor


@torch.no_grad()
def encode_batches(
    model: MedCLIPModel,
    processor: MedCLIPProcessor,
    images: Iterable,
    batch_size: int | None = None,
) -> Generator[EncodedBatch]:
    """Embeddings of images, a batch at a time; one that cannot be read affects only itself.

    images, batch_size: as for `processor.read_batches`, which also says how they are read.
    """
    reading = closing(read_batches(processor, images, model.device, batch_size))
    with eval_mode(model), reading as batches:
        for batch in batches:
            pixel_values: list[Tensor] = []
            errors: dict[int, Exception] = {}
            blank = set()
            for place, (_, inputs) in enumerate(batch):
                try:
                    pixel_values.append(inputs.result()["pixel_values"])
                    if inputs.result()["blank"]:
                        blank.add(place)
                except (OSError, ValueError) as error:
                    errors[place] = error
            embeds = torch.empty(0, 0)
            if pixel_values:
                embeds = model.encode_image(torch.cat(pixel_values)).float().cpu()
            yield EncodedBatch([image for image, _ in batch], errors, blank, embeds)


def encode_images(
    model: MedCLIPModel,
    processor: MedCLIPProcessor,
    images: Iterable,
    *,
    batch_size: int | None = None,
    progress: bool = True,
) -> Tensor:
    """(images, dim), unit length, float32, on the CPU.

    images: what `read_radiograph` takes. batch_size: see `processor.read_batches`.

    Raises what `read_radiograph` raises, naming the image, and ValueError where there are none.
    """
    embeds = []
    total = length_hint(images, 0) or None
    bar = tqdm(total=total, desc="encoding images", unit="image", disable=not progress)
    with bar, closing(encode_batches(model, processor, images, batch_size)) as batches:
        for batch in batches:
            for error in batch.errors.values():
                raise error
            embeds.append(batch.embeds)
            bar.update(len(batch.images))
    if not embeds:
        raise ValueError("images is empty: expected at least one radiograph")
    return torch.cat(embeds)


@torch.no_grad()
def encode_texts(
    model: MedCLIPModel,
    processor: MedCLIPProcessor,
    texts: str | Sequence[str],
    *,
    truncation: bool = False,
) -> Tensor:
    """(texts, dim), unit length, float32, on the CPU; each text by itself, without padding.

    texts: a list; one text is a list of one.
    truncation: cut a text of more than 77 word pieces there, instead of refusing it.

    Raises ValueError for no text, and for one that is too long.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    inputs = processor(text=texts, truncation="longest_first" if truncation else False)
    input_ids, lengths = inputs["input_ids"], inputs["attention_mask"].sum(1)
    if lengths.max() > MAX_TEXT_TOKENS:
        longest = int(lengths.argmax())
        raise ValueError(
            f"text of {lengths[longest]} word pieces, expected at most {MAX_TEXT_TOKENS}: "
            f"“{texts[longest][:60]}…”"
        )
    embeds = [torch.empty(0)] * len(texts)
    with eval_mode(model):
        for length in lengths.unique().tolist():  # texts of one length need no padding
            for rows in (lengths == length).nonzero()[:, 0].split(TEXT_BATCH_SIZE):
                pieces = input_ids[rows, :length]
                encoded = model.encode_text(pieces, torch.ones_like(pieces)).float().cpu()
                for row, embed in zip(rows.tolist(), encoded, strict=True):
                    embeds[row] = embed
    return torch.stack(embeds)


@torch.no_grad()
def similarity_map(model, pixel_values: Tensor, text_embeds: Tensor) -> Tensor:
    """Contributions of positions to the cosine between each image and each text.

    pixel_values: (images, 1 or 3, height, width). text_embeds: (texts, dim).
    Returns (images, texts, h, w) on the model's device; its sum over h and w is the cosine.

    Raises ValueError where the texts have another dimension than the projection, or the encoder's
    embedding is not the projected mean of its feature map (a backbone with attention pooling, say).
    """
    encoder = model.vision_model
    pixel_values = pixel_values.to(model.device, encoder.projection_head.weight.dtype)
    text_embeds = F.normalize(text_embeds.to(model.device, torch.float32), dim=-1)
    weight = encoder.projection_head.weight.float()  # (dim, features)
    if text_embeds.dim() != 2 or text_embeds.shape[1] != weight.shape[0]:
        raise ValueError(
            f"text_embeds has shape {tuple(text_embeds.shape)}, expected (texts, {weight.shape[0]})"
        )
    with eval_mode(model), model.autocast():
        features = encoder.forward_features(pixel_values)  # (images, features, h, w)
        own = features.permute(0, 2, 3, 1) if encoder.channels_last else features
        pooled = encoder.backbone.forward_head(own)  # what the encoder projects
    near = 1e-4 if features.dtype == torch.float32 else 3e-2
    mean = features.mean(dim=(2, 3))
    if pooled.shape != mean.shape or not torch.allclose(pooled, mean, atol=near, rtol=near):
        raise ValueError(
            f"{encoder.config['backbone']!r} does not embed an image as the projected mean over "
            "its positions, so its similarity is not a sum over them"
        )
    with torch.autocast(features.device.type, enabled=False):
        projected = torch.einsum("ifhw,df->idhw", features.float(), weight)  # no TF32 in a product
        terms = torch.einsum("idhw,td->ithw", projected, text_embeds)
    length = projected.mean(dim=(2, 3)).norm(dim=1).clamp_min(1e-12)  # as in `F.normalize`
    return terms / (projected[0, 0].numel() * length[:, None, None, None])
