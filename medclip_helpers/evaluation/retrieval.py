"""Retrieval of texts for images, at k, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from .intervals import bootstrap_means, finite, percentile_interval


def _mean_table(per_image: dict[str, np.ndarray], **resampling) -> pd.DataFrame:
    """Means of columns (images,) with their intervals; `groups` and others as for `bootstrap`."""
    values = np.stack(list(per_image.values()), axis=1).astype(np.float32)
    level = resampling.pop("level", 0.95)
    low, high = percentile_interval(bootstrap_means(values, **resampling), level)
    table = pd.DataFrame({"metric": list(per_image), "value": values.mean(axis=0)})
    return table.assign(low=low, high=high, images=len(values))


def _similarity(
    image_embeds: ArrayLike, text_embeds: ArrayLike, given: tuple[int, ...], what: str
) -> np.ndarray:
    """(images, texts). given: the numbers of images and texts that have `what`."""
    images = finite("image_embeds", image_embeds).astype(np.float32)
    texts = finite("text_embeds", text_embeds).astype(np.float32)
    if images.ndim != 2 or texts.ndim != 2 or images.shape[1] != texts.shape[1]:
        raise ValueError(
            f"embeddings have shapes {images.shape} and {texts.shape}, expected (images, dim) and "
            "(texts, dim)"
        )
    if given != (len(images), len(texts)):
        raise ValueError(
            f"{what} for {given[0]} images and {given[1]} texts, expected {len(images)} and "
            f"{len(texts)}, one for each embedding"
        )
    if not len(images):
        raise ValueError("image_embeds is empty: expected at least one image")
    return np.round(images @ texts.T, 5)  # so that equal texts are, in whatever batch they were


def precision_at_k(
    image_embeds: ArrayLike, text_embeds: ArrayLike, image_classes: ArrayLike,
    text_classes: ArrayLike, ks: Sequence[int] = (1, 2, 5, 10), **resampling,
) -> pd.DataFrame:  # fmt: skip
    """How many of an image's k nearest texts are about its finding (paper, section 4.5).

    image_embeds (images, dim), text_embeds (texts, dim): unit length. image_classes (images,),
    text_classes (texts,): names or numbers. resampling: as for `bootstrap`, and `level`.

    Of texts of equal similarity those of another finding come first, so that constant
    scores gain nothing. Rows `P@k` with `value`, `low`, `high`, `images`. Raises ValueError for
    embeddings and classes that do not fit, and for a k above the number of texts.
    """
    relevant = np.asarray(image_classes)[:, None] == np.asarray(text_classes)[None]
    similarity = _similarity(image_embeds, text_embeds, relevant.shape, "classes")
    if min(ks) < 1 or max(ks) > similarity.shape[1]:
        raise ValueError(f"ks are {[*ks]}, expected 1 to the {similarity.shape[1]} texts")
    if not relevant.any():
        raise ValueError("no class of an image is among those of the texts")
    order = np.lexsort((relevant, -similarity), axis=1)[:, : max(ks)]
    hits = np.take_along_axis(relevant, order, axis=1)
    return _mean_table({f"P@{k}": hits[:, :k].mean(axis=1) for k in ks}, **resampling)


def recall_at_k(
    image_embeds: ArrayLike, text_embeds: ArrayLike, image_texts: Sequence[str],
    texts: Sequence[str], ks: Sequence[int] = (1, 5, 10), **resampling,
) -> pd.DataFrame:  # fmt: skip
    """How often an image's own text is among its k nearest, texts of the same words merged.

    image_embeds (images, dim); text_embeds (texts, dim) of `texts`; image_texts: each image's own,
    one of `texts`. Two reports of the same words are one text: no model could tell them apart.

    A tie is a miss. Rows `R@k` with `value`, `low`, `high`, `images`; and `median rank`. Raises
    ValueError for embeddings and texts that do not fit.
    """
    given = (len(image_texts), len(texts))
    similarity = _similarity(image_embeds, text_embeds, given, "texts")
    places = {text: place for place, text in enumerate(texts)}  # each text once
    if unknown := [text for text in image_texts if text not in places]:
        raise ValueError(f"image_texts holds {unknown[0]!r}, which is not among texts")
    own = similarity[np.arange(len(similarity)), [places[text] for text in image_texts]]
    rank = (similarity[:, list(places.values())] >= own[:, None]).sum(axis=1)
    table = _mean_table({f"R@{k}": rank <= k for k in ks}, **resampling)
    median = {"metric": "median rank", "value": np.median(rank), "images": len(rank)}
    return pd.concat([table, pd.DataFrame([median])], ignore_index=True)
