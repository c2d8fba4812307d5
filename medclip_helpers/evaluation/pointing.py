"""The pointing game: does a similarity map's maximum lie on the lesion?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from scipy.ndimage import binary_dilation

from ..demo import draw_phantom
from ..model import MedCLIPModel
from ..processor import MedCLIPProcessor
from ..similarity import encode_texts, similarity_map
from .intervals import finite


def pointing_hits(
    contributions: ArrayLike, masks: ArrayLike, reach: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each map's maximum lies on the lesion, or within `reach` cells of it.

    contributions: (images, h, w). masks: (images, height, width) boolean, True on the lesion; each
    over the same field as the map. A cell lies on the lesion if any of its pixels does.

    Returns `hits` (images,) boolean and `chance` (images,): the share of cells that would have hit.
    Raises ValueError for an empty mask or shapes that do not fit.
    """
    contributions, masks = finite("contributions", contributions), np.asarray(masks, dtype=bool)
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
            cells = binary_dilation(cells, np.ones((3, 3), bool), iterations=reach)
        hits[i] = cells.flat[values.argmax()]
        chance[i] = cells.mean()
    return hits, chance


def pointing_game(
    model: MedCLIPModel,
    processor: MedCLIPProcessor,
    texts: Mapping[str, str],
    *,
    count: int = 50,
    seed: int = 0,
) -> pd.DataFrame:
    """The pointing game on demo phantoms that show one finding each, by finding.

    texts: finding -> a text that says it is present. count: phantoms per finding.

    Returns `finding`, `phantoms`, and as shares in [0, 1]: `accuracy` and `chance` (on the lesion
    or within one cell of it), `strict_accuracy` and `strict_chance` (on the lesion).
    """
    rows = []
    for number, (finding, text) in enumerate(texts.items()):
        first = seed + number * count
        phantoms = [draw_phantom(first + i, {finding: 0.8}) for i in range(count)]
        pixel_values = processor(images=[p.image for p in phantoms])["pixel_values"]
        embeds = encode_texts(model, processor, text)
        batches = [similarity_map(model, batch, embeds) for batch in pixel_values.split(16)]
        maps = torch.cat(batches)[:, 0].cpu().numpy()
        masks = np.stack([p.masks[finding] for p in phantoms])
        shares = [x.mean() for reach in (1, 0) for x in pointing_hits(maps, masks, reach)]
        rows.append((finding, count, *shares))
    names = ["accuracy", "chance", "strict_accuracy", "strict_chance"]
    return pd.DataFrame(rows, columns=["finding", "phantoms", *names])
