"""Figures of how right a model is: confusion, reliability, values with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from .style import (
    COLORS,
    LINES,
    OTHER,
    SEQUENTIAL,
    Rows,
    check_shape,
    literal,
    name_rows,
    names_width,
    new_figure,
    tidy,
    to_array,
    wrap,
    write_cells,
)


def plot_roc(labels, scores, class_names: Sequence[str], *, title=None, note=None) -> Figure:
    """One ROC curve a class, its area in the legend, which also names classes without both kinds.

    labels: (images, classes), 1 present, 0 absent, others ignored; or (images,) class indices.
    scores: (images, classes), higher is more likely.
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    labels, scores = to_array(labels), to_array(scores).astype(float)
    if labels.ndim == 1:
        labels = labels[:, None] == np.arange(len(class_names))
    check_shape("scores", scores, (len(labels), len(class_names)), "images, classes")
    check_shape("labels", labels, scores.shape, "images, classes")
    figure = new_figure(8, 4.8, note)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="gray", linewidth=0.8, linestyle=":")
    for i, name in enumerate(class_names):
        known = np.isin(labels[:, i], (0, 1))
        truth, score = labels[known, i].astype(int), scores[known, i]
        style = dict(color=COLORS[i % len(COLORS)], linestyle=LINES[i // len(COLORS) % 4])
        if len(set(truth)) < 2:
            axes.plot([], [], label=f"{name}: one kind only, no curve", **style)
            continue
        false_positive, true_positive, _ = roc_curve(truth, score)
        label = f"{name}: {roc_auc_score(truth, score):.3f} ({truth.sum()} of {len(truth)})"
        axes.plot(false_positive, true_positive, label=label, **style)
    axes.set(
        xlabel="false positive rate", ylabel="true positive rate", title=title or "", aspect="equal"
    )
    legend = axes.legend(
        loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=9, frameon=False,
        title="area under the curve (positives of all)", title_fontsize=9,
    )  # fmt: skip
    literal(legend)
    tidy(axes)
    return figure


def plot_confusion(matrix, class_names: Sequence[str], *, title=None, note=None) -> Figure:
    """Counts of true class (rows) against predicted class (columns), coloured by share of the row.

    matrix: (classes, classes) counts.
    """
    matrix = to_array(matrix)
    check_shape("matrix", matrix, (len(class_names),) * 2, "true class, predicted class")
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    size = 0.85 * len(class_names)
    figure = new_figure(
        size + names_width(class_names, 18) + 1.5, size + names_width(class_names, 14) + 0.9, note
    )
    axes = figure.subplots()
    mesh = axes.imshow(share, cmap=SEQUENTIAL, vmin=0, vmax=1)
    cells = [
        [f"{n:g}\n{s:.0%}" for n, s in zip(*row, strict=True)]
        for row in zip(matrix, share, strict=True)
    ]
    write_cells(axes, share, mesh, cells)
    ticks = [wrap(name, 14) for name in class_names]
    axes.set_xticks(range(len(ticks)), ticks, rotation=90, fontsize=9, parse_math=False)
    name_rows(axes, class_names, 18)
    axes.set(ylim=(len(ticks) - 0.5, -0.5), xlabel="predicted", ylabel="true", title=title or "")
    figure.colorbar(mesh, ax=axes, label="share of the true class", shrink=0.8, panchor=False)
    return figure


def plot_reliability(labels, probabilities, *, bins: int = 10, title=None, note=None) -> Figure:
    """Share of positives against predicted probability, with the number of images below.

    labels: (images,) 0 or 1. probabilities: (images,) in [0, 1].
    """
    labels, probabilities = to_array(labels).astype(float), to_array(probabilities).astype(float)
    check_shape("probabilities", probabilities, labels.shape, "one an image, as labels")
    edges = np.linspace(0, 1, bins + 1)
    at = np.clip(np.digitize(probabilities, edges) - 1, 0, bins - 1)
    used = np.unique(at)
    figure = new_figure(5.5, 5, note)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    top.plot([0, 1], [0, 1], color="gray", linestyle=":", label="perfectly calibrated")
    means = [[v[at == b].mean() for b in used] for v in (probabilities, labels)]
    top.plot(*means, color=COLORS[0], marker="o", label="observed", clip_on=False)
    top.set(ylabel="share of positives", title=title or "", ylim=(-0.03, 1.03))
    top.legend(fontsize=9, frameon=False)
    bottom.hist(probabilities, edges, color=OTHER, edgecolor="white")
    bottom.set(xlabel="predicted probability", ylabel="images", xlim=(0, 1))
    for axes in (top, bottom):
        tidy(axes)
    return figure


def plot_intervals(
    table, names: Sequence[str], *, single: Mapping | None = None, published: Mapping | None = None,
    chance: float | None = None, title=None, xlabel="accuracy", note=None,
) -> Figure:  # fmt: skip
    """Figures with their intervals: a row each, in the order of the table, the first on top.

    table: DataFrame with `value`, `low`, `high` (ends may be missing). names: one a row.
    single: name -> values that the row's value is the mean of, drawn as dots.
    published: name -> the value that was reported for it, drawn as a diamond.
    """
    values = table[["value", "low", "high"]].to_numpy(float)
    check_shape("names", np.asarray(names), (len(values),), "one a row of the table")
    rows = Rows(names, 24, gap=0.3)
    figure = new_figure(7.8, max(2.4, rows.height + 1.2), note)
    axes = figure.subplots()
    if chance is not None:
        axes.axvline(chance, color="gray", linewidth=0.8, linestyle=":", label="chance")
    for kind, places, style in (
        ("one choice of prompts", single, dict(s=14, color=OTHER)),
        ("published", published, dict(s=46, marker="D", color=COLORS[1], zorder=4)),
    ):
        label = kind
        for y, name in zip(rows.centres, names, strict=True):
            if places and name in places:
                x = np.atleast_1d(places[name])
                # Several fan out a little, so that they can be counted.
                spread = np.linspace(-0.12, 0.12, len(x)) if len(x) > 1 else 0.0
                axes.scatter(x, np.full(len(x), y) + spread, label=label, **style)
                label = None
    ends = np.nan_to_num(np.abs(values[:, 1:] - values[:, :1])).T
    axes.errorbar(
        values[:, 0], rows.centres, xerr=ends, fmt="o", color=COLORS[0], capsize=3, zorder=3,
        label="measured, with interval",
    )  # fmt: skip
    axes.grid(axis="x", alpha=0.3)
    rows.draw(axes)
    axes.set_ylim(rows.height, 0)  # dots need no more room than their rows, as bars do
    axes.set_xlabel(xlabel)
    axes.set_title(title or "", fontsize=10, pad=26 if title else None, parse_math=False)
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, frameon=False)
    tidy(axes)
    return figure
