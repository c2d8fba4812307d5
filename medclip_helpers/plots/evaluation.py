"""Figures of how right a model is: its probabilities against what was, values with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from .style import COLORS, OTHER, Rows, check_shape, new_figure, tidy, to_array


def plot_reliability(labels, probabilities, *, bins: int = 10, title=None, note=None) -> Figure:
    """Share of positives against mean predicted probability, with the number of images below.

    labels: (images,) 0 or 1. probabilities: (images,). bins: of equal width.
    Raises ValueError for a probability outside [0, 1].
    """
    from sklearn.calibration import calibration_curve

    labels, probabilities = to_array(labels).astype(float), to_array(probabilities).astype(float)
    check_shape("probabilities", probabilities, labels.shape, "one an image, as labels")
    observed, predicted = calibration_curve(labels, probabilities, pos_label=1, n_bins=bins)
    figure = new_figure(5.5, 5, note)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    top.plot([0, 1], [0, 1], color="gray", linestyle=":", label="perfectly calibrated")
    top.plot(predicted, observed, color=COLORS[0], marker="o", label="observed", clip_on=False)
    top.set(ylabel="share of positives", ylim=(-0.03, 1.03))
    top.set_title(title or "", parse_math=False)
    top.legend(fontsize=9, frameon=False)
    bottom.hist(probabilities, bins, range=(0, 1), color=OTHER, edgecolor="white")
    bottom.set(xlabel="predicted probability", ylabel="images", xlim=(0, 1))
    tidy(top)
    tidy(bottom)
    return figure


def plot_intervals(
    table, names: Sequence[str], *, published: Mapping | None = None,
    chance: float | None = None, title=None, xlabel="accuracy", note=None,
) -> Figure:  # fmt: skip
    """Figures with their intervals: a row each, in the order of the table, the first on top.

    table: DataFrame with `value`, `low`, `high` (ends may be missing). names: one a row.
    published: name -> the value that was reported for it, drawn as a diamond.
    """
    values = table[["value", "low", "high"]].to_numpy(float)
    check_shape("names", np.asarray(names), (len(values),), "one a row of the table")
    rows = Rows(names, 24, gap=0.3)
    figure = new_figure(7.8, max(2.4, rows.height + 1.2), note)
    axes = figure.subplots()
    if chance is not None:
        axes.axvline(chance, color="gray", linewidth=0.8, linestyle=":", label="chance")
    reported = published or {}
    known = [
        (y, reported[name]) for y, name in zip(rows.centres, names, strict=True) if name in reported
    ]
    if known:
        y, x = zip(*known, strict=True)
        axes.scatter(x, y, label="published", s=46, marker="D", color=COLORS[1], zorder=4)
    ends = np.nan_to_num(np.abs(values[:, 1:] - values[:, :1])).T
    axes.errorbar(
        values[:, 0], rows.centres, xerr=ends, fmt="o", color=COLORS[0], capsize=3, zorder=3,
        label="measured, with interval",
    )  # fmt: skip
    axes.grid(axis="x", alpha=0.3)
    rows.draw(axes)
    axes.set_xlabel(xlabel)
    axes.set_title(title or "", fontsize=10, pad=26 if title else None, parse_math=False)
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, frameon=False)
    tidy(axes)
    return figure
