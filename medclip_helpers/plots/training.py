"""Figures around training: the images it sees, its course, the space that comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .style import COLORS, check_shape, new_figure, show_image, tidy, to_array, wrap


def plot_gallery(
    images, titles: Sequence[str] | None = None, *, columns: int = 5, title=None, note=None
) -> Figure:
    """A contact sheet: images in rows of `columns`, each under its title."""
    if not len(images):
        raise ValueError("images is empty: expected at least one")
    titles = [""] * len(images) if titles is None else titles
    if len(titles) != len(images):
        raise ValueError(f"{len(titles)} titles for {len(images)} images: expected as many")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    lines = max(wrap(name, 24).count("\n") + 1 for name in titles)
    figure = new_figure(1.9 * columns, (1.95 + 0.15 * lines) * rows + (0.3 if title else 0), note)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for panel, image, name in zip(panels, images, titles, strict=False):
        show_image(panel, image, name, letters=24, fontsize=8)
    for panel in panels[len(images) :]:
        panel.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def plot_training_curve(
    history, *, metrics: Sequence[str] = ("zero_shot_accuracy",), title=None, note=None
) -> Figure:
    """Loss over steps, and below it each of `metrics` that the history holds.

    history: DataFrame or list of dicts with "step", "loss" and perhaps metrics; gaps are skipped.
    """
    import pandas as pd

    history = pd.DataFrame(history)
    for column in ("step", "loss"):
        if column not in history:
            raise ValueError(f"history has columns {list(history)}, expected {column!r} among them")
    shown = ["loss", *(name for name in metrics if name in history)]
    figure = new_figure(7.5, 1.2 + 2.1 * len(shown), note)
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name, color in zip(panels, shown, COLORS, strict=False):
        values = history[["step", name]].dropna()
        dots = "o" if len(values) <= 40 else None
        axes.plot(values["step"], values[name], color=color, marker=dots, markersize=3)
        axes.set_ylabel(wrap(name.replace("_", " "), 18))
        axes.grid(alpha=0.3)
        tidy(axes)
    panels[0].set_title(title or "", parse_math=False)
    panels[-1].set_xlabel("step")
    return figure


def plot_embedding_map(
    image_embeds, text_embeds, image_labels, text_labels, *, title=None, note=None
) -> Figure:
    """Image and text embeddings in the plane of their principal components, coloured by finding.

    image_embeds: (images, dim), drawn as circles. text_embeds: (texts, dim), as crosses.
    image_labels, text_labels: a name each. title: over the plane.
    """
    from sklearn.decomposition import PCA

    image_embeds, text_embeds = to_array(image_embeds), to_array(text_embeds)
    check_shape("image_labels", np.asarray(image_labels), image_embeds.shape[:1], "one an image")
    check_shape("text_labels", np.asarray(text_labels), text_embeds.shape[:1], "one a text")
    pca = PCA(2, svd_solver="full").fit(np.concatenate([image_embeds, text_embeds]))
    names = list(dict.fromkeys([*image_labels, *text_labels]))
    colors = {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}
    circle: dict[str, Any] = dict(marker="o", s=22, alpha=0.75, linewidths=0.6)
    cross: dict[str, Any] = dict(marker="X", s=80, edgecolor="black", linewidths=0.6)
    figure = new_figure(8, 5, note)
    axes = figure.subplots()
    for embeds, labels, style in (
        (image_embeds, image_labels, circle),
        (text_embeds, text_labels, cross),
    ):
        x, y = pca.transform(embeds).T
        axes.scatter(x, y, c=[colors[name] for name in labels], **style)
    for name, color in colors.items():
        axes.scatter([], [], marker="s", color=color, label=wrap(name, 24))
    axes.scatter([], [], color="gray", label="image", **circle)
    axes.scatter([], [], color="gray", label="text", **cross)
    shares = [f"{share:.0%} of the variance" for share in pca.explained_variance_ratio_]
    axes.set(xlabel=f"component 1 ({shares[0]})", ylabel=f"component 2 ({shares[1]})")
    axes.set_title(title or "", parse_math=False)
    legend = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a "$" in a name is a dollar
    tidy(axes)
    return figure
