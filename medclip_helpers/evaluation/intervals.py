"""The bootstrap, from resampling counts: what 1,000 resamples of the images say about a metric."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..radiographs import warn_user

_BLOCK = 2**20  # resampling counts in memory at once
# Computes statistics, (resamples, statistics), from counts, (resamples, images).
CountStatistic = Callable[[np.ndarray], np.ndarray]


def finite(name: str, values: ArrayLike) -> np.ndarray:
    """`values` as numbers; ValueError that names them where they are not, or not finite."""
    try:
        numbers = np.asarray(values, float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} are not numbers: {error}") from error
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} are not all finite: expected numbers without NaN and infinity")
    return numbers


def bootstrap(
    statistic: CountStatistic,
    images: int,
    *,
    resamples: int = 1000,
    seed: int = 0,
    groups: ArrayLike | None = None,
) -> np.ndarray:
    """Statistics of resamples with replacement, (resamples, statistics).

    statistic: counts, how often each image was drawn, (block of resamples, images) float32 ->
        (block, statistics).
    groups: (images,), e.g. patient numbers: groups are drawn instead of images, which is right
        where the images of one patient resemble each other. An image whose group is blank counts
        as a group of its own, with a warning; where all are blank there are no groups. Of a single
        group or image the statistics are NaN.

    Raises ValueError for no resamples, for groups that differ in number from the images, and for
    group names of several types.
    """
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}, expected at least 1")
    member = np.arange(images) if groups is None else _members(groups, images)
    units = member.max() + 1
    if units < 2:  # every resample would be the sample
        if images > 1:
            warn_user("all images are of one group: there is no interval")
        return np.full_like(statistic(np.ones((resamples, images), np.float32)), np.nan)
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // units)
    parts = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(units, size=(size, units)) + units * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * units).reshape(size, units)
        counts = counts.astype(np.float32)
        parts.append(statistic(counts if groups is None else counts[:, member]))
    return np.concatenate(parts)


def _members(groups: ArrayLike, images: int) -> np.ndarray:
    """(images,) the number of each image's group; one without a name has a group of its own."""
    names = pd.Series(np.asarray(groups, object).ravel())
    if len(names) != images:
        raise ValueError(f"groups has {len(names)} entries, expected one for each of {images}")
    blank = (names.isna() | (names.astype(str).str.strip() == "")).to_numpy()
    member = np.arange(images)
    if not blank.all():
        try:
            _, member[~blank] = np.unique(names[~blank].to_numpy(), return_inverse=True)
        except TypeError as error:  # names of several types have no order
            raise ValueError(f"group names are of several types: {error}") from error
        member[blank] = member[~blank].max() + 1 + np.arange(blank.sum())
        if blank.any():
            warn_user(
                f"{blank.sum()} of {images} images have no group: each counts as one of its own"
            )
    return member


def bootstrap_means(values: np.ndarray, **resampling) -> np.ndarray:
    """Means of columns, (images, columns) -> (resamples, columns); `resampling` as `bootstrap`."""
    values = values.astype(np.float32)

    def means(counts: np.ndarray) -> np.ndarray:
        return counts @ values / counts.sum(axis=1, keepdims=True)

    return bootstrap(means, len(values), **resampling)


def percentile_interval(samples: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end for each column of `samples`; a resample without a value is skipped.

    NaN where no resample has a value. An observed 0 or 1 gives an interval of no width: the
    bootstrap cannot see what it never drew.
    """
    ends = np.full((2, samples.shape[1]), np.nan)
    known = ~np.isnan(samples).all(axis=0)
    tails = [(1 - level) / 2, (1 + level) / 2]
    ends[:, known] = np.nanquantile(samples[:, known], tails, axis=0)
    return ends[0], ends[1]
