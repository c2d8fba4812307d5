"""Where in the image a similarity comes from, exactly; and embeddings of single images and texts.

Both published encoders end in a mean over positions p and a projection W without bias, so
with features f, unit text embedding t and v = W mean_p(f_p):

    cos(image, text) = v.t / |v| = sum over p of (W f_p).t / (n |v|),    n positions.

The map shows these n terms. Nothing is approximated: they add up to the score. They say what the
last layer adds up, not what the layers before it looked at: a position sees its surroundings.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import binary_dilation
from torch import Tensor
from torch.nn import functional as F

from .constants import MAX_TEXT_TOKENS


@torch.no_grad()
def similarity_map(model, pixel_values: Tensor, text_embeds: Tensor) -> Tensor:
    """Contributions of positions to the cosine between each image and each text.

    pixel_values: (images, 1 or 3, height, width). text_embeds: (texts, dim).
    Returns (images, texts, h, w) on the model's device; its sum over h and w is the cosine.

    Raises ValueError where the texts have another dimension than the projection, or the encoder's
    embedding is not the projected mean of its feature map (a backbone with attention pooling, say).
    """
    encoder = model.vision_model
    pixel_values = pixel_values.to(model.device)
    text_embeds = F.normalize(text_embeds.to(model.device, torch.float32), dim=-1)
    weight = encoder.projection_head.weight  # (dim, features)
    if text_embeds.dim() != 2 or text_embeds.shape[1] != weight.shape[0]:
        raise ValueError(
            f"text_embeds has shape {tuple(text_embeds.shape)}, expected (texts, {weight.shape[0]})"
        )
    features = encoder.forward_features(pixel_values)  # (images, features, h, w)
    projected = F.conv2d(features, weight[:, :, None, None])  # (images, dim, h, w)
    image_embeds = projected.mean(dim=(2, 3))
    channels_last = getattr(encoder.backbone, "output_fmt", "NCHW") == "NHWC"
    own = features.permute(0, 2, 3, 1) if channels_last else features
    pooled = encoder.backbone.forward_head(own)  # what the encoder projects
    if not torch.allclose(pooled, features.mean(dim=(2, 3)), atol=1e-4, rtol=1e-4):
        raise ValueError(
            f"{encoder.config['backbone']!r} does not embed an image as the projected mean over "
            "its positions, so its similarity is not a sum over them"
        )
    terms = torch.einsum("idhw,td->ithw", projected, text_embeds)
    length = image_embeds.norm(dim=1).clamp_min(1e-12)  # as `F.normalize` in `encode_image`
    return terms / (projected[0, 0].numel() * length[:, None, None, None])


class Embedder(NamedTuple):
    """What the explorer needs of a model: three functions and two facts, all in NumPy.

    images: list of PIL images -> (images, dim), unit length.
    texts: list of texts -> (texts, dim), unit length; ValueError for one that is too long.
    contributions: one PIL image and one text -> (h, w), whose sum is their cosine; or None.
    temperature: the model's own, by which cosines are divided before a softmax.
    note: what the weights are, for the foot of a figure.
    """

    images: Callable[[Sequence], np.ndarray]
    texts: Callable[[Sequence[str]], np.ndarray]
    contributions: Callable[[object, str], np.ndarray] | None = None
    temperature: float = 0.07
    note: str | None = None


def make_embedder(model, processor, batch_size: int = 16) -> Embedder:
    """An `Embedder` over a MedCLIP model.

    A text's embedding depends on how far its batch is padded (see `MedCLIPTextModel`). Here no text
    is ever padded: texts are batched with others of the same number of word pieces only. So a text
    has one embedding, whatever stands beside it; the prompt classifier, which pads each class to
    its longest prompt as published, gives slightly different numbers.
    """
    model.eval()

    @torch.inference_mode()
    def images(pictures: Sequence) -> np.ndarray:
        batches = [pictures[i : i + batch_size] for i in range(0, len(pictures), batch_size)]
        embeds = [model.encode_image(processor(images=list(b))["pixel_values"]) for b in batches]
        return torch.cat(embeds).cpu().numpy()

    @torch.inference_mode()
    def texts(lines: Sequence[str]) -> np.ndarray:
        ids = [processor.tokenizer(line)["input_ids"] for line in lines]
        groups = defaultdict(list)
        for i, pieces in enumerate(ids):
            if len(pieces) > MAX_TEXT_TOKENS:
                raise ValueError(
                    f"text of {len(pieces)} word pieces, expected at most {MAX_TEXT_TOKENS}: "
                    f"“{lines[i][:60]}…”"
                )
            groups[len(pieces)].append(i)
        embeds = {}
        for members in groups.values():
            for start in range(0, len(members), batch_size):
                batch = members[start : start + batch_size]
                input_ids = torch.tensor([ids[i] for i in batch])
                encoded = model.encode_text(input_ids, torch.ones_like(input_ids))
                embeds.update(zip(batch, encoded.cpu().numpy(), strict=True))
        return np.stack([embeds[i] for i in range(len(lines))])

    def contributions(picture, line: str) -> np.ndarray:
        pixel_values = processor(images=picture)["pixel_values"]
        return (
            similarity_map(model, pixel_values, torch.from_numpy(texts([line])))[0, 0].cpu().numpy()
        )

    one = torch.ones(1, 1, device=model.device)
    temperature = 1 / model.compute_logits(one, one).item()
    return Embedder(images, texts, contributions, temperature, getattr(model, "note", None))


def pointing_hits(contributions, masks, reach: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The pointing game: does a map's maximum lie on the lesion, or within `reach` cells of it?

    contributions: (images, h, w). masks: (images, height, width) boolean, True on the lesion; each
    over the same field as the map. A cell lies on the lesion if any of its pixels does.

    Returns `hits` (images,) boolean and `chance` (images,): the share of cells that would have hit.
    Raises ValueError for an empty mask or shapes that do not fit.
    """
    contributions, masks = np.asarray(contributions), np.asarray(masks, dtype=bool)
    if contributions.ndim != 3 or masks.ndim != 3 or len(contributions) != len(masks):
        raise ValueError(
            f"contributions {contributions.shape} and masks {masks.shape}: expected "
            "(images, h, w) and (images, height, width)"
        )
    count, h, w = contributions.shape
    rows = np.arange(masks.shape[1]) * h // masks.shape[1]
    columns = np.arange(masks.shape[2]) * w // masks.shape[2]
    hits, chance = np.zeros(count, bool), np.zeros(count)
    for i, (values, mask) in enumerate(zip(contributions, masks, strict=True)):
        if not mask.any():
            raise ValueError(f"masks[{i}] is empty: the pointing game needs a lesion")
        cells = np.zeros((h, w), bool)
        y, x = np.nonzero(mask)
        cells[rows[y], columns[x]] = True
        if reach:
            cells = binary_dilation(cells, np.ones((3, 3)), iterations=reach)
        hits[i] = cells.flat[values.argmax()]
        chance[i] = cells.mean()
    return hits, chance


def pointing_game(model, processor, texts, *, count: int = 50, seed: int = 0):
    """The pointing game on demo phantoms that show one finding each, by finding.

    texts: finding -> a text that says it is present. count: phantoms a finding.
    Returns a DataFrame: finding, phantoms, and as shares in [0, 1]: accuracy and chance (on the
    lesion or within one cell of it), strict_accuracy and strict_chance (on the lesion).
    """
    import pandas as pd

    from .demo.phantoms import draw_phantom

    embedder = make_embedder(model, processor)
    rows = []
    for number, (finding, text) in enumerate(texts.items()):
        seeds = seed + number * count + np.arange(count)
        phantoms = [draw_phantom(int(s), {finding: 0.8}) for s in seeds]
        pixel_values = processor(images=[p.image for p in phantoms])["pixel_values"]
        embeds = torch.from_numpy(embedder.texts([text]))
        maps = [
            similarity_map(model, batch, embeds)[:, 0].cpu() for batch in pixel_values.split(16)
        ]
        masks = [p.masks[finding] for p in phantoms]
        shares = [
            x.mean() for reach in (1, 0) for x in pointing_hits(torch.cat(maps), masks, reach)
        ]
        rows.append((finding, count, *shares))
    names = ["accuracy", "chance", "strict_accuracy", "strict_chance"]
    return pd.DataFrame(rows, columns=["finding", "phantoms", *names])
