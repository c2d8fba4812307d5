"""Figures of what a model learns from and how: galleries, targets, curves, the embedding map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from .style import (
    COLORS,
    SEQUENTIAL,
    check_shape,
    literal,
    name_rows,
    names_width,
    new_figure,
    tidy,
    to_array,
    to_radiograph,
    wrap,
    write_cells,
)


def plot_embedding_map(
    image_embeds, text_embeds, image_labels, text_labels, *,
    method="pca", seed=0, title=None, note=None,
) -> Figure:  # fmt: skip
    """Image and text embeddings in one plane, coloured by finding; circles and crosses.

    image_embeds: (images, dim). text_embeds: (texts, dim). image_labels, text_labels: a name each.
    method: "pca", or "umap" (package umap-learn; its layout depends on `seed`).
    """
    image_embeds, text_embeds = to_array(image_embeds), to_array(text_embeds)
    check_shape("image_labels", np.asarray(image_labels), image_embeds.shape[:1], "one an image")
    check_shape("text_labels", np.asarray(text_labels), text_embeds.shape[:1], "one a text")
    points, axis_names = _project(np.concatenate([image_embeds, text_embeds]), method, seed)
    kinds = [
        (points[: len(image_embeds)], image_labels, "image", dict(marker="o", s=22, alpha=0.75))
    ]
    kinds += [
        (
            points[len(image_embeds) :],
            text_labels,
            "text",
            dict(marker="X", s=80, edgecolor="black"),
        )
    ]
    names = list(dict.fromkeys([*image_labels, *text_labels]))
    figure = new_figure(8, 5, note)
    axes = figure.subplots()
    for at, labels, _, style in kinds:
        for i, name in enumerate(names):
            chosen = np.asarray(labels) == name
            axes.scatter(*at[chosen].T, color=COLORS[i % len(COLORS)], linewidths=0.6, **style)
    for i, name in enumerate(names):
        axes.scatter([], [], marker="s", color=COLORS[i % len(COLORS)], label=wrap(name, 24))
    for _, _, kind, style in kinds:
        axes.scatter([], [], color="gray", label=kind, **style)
    axes.set(xlabel=axis_names[0], ylabel=axis_names[1], title=title or "")
    literal(axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9, frameon=False))
    tidy(axes)
    return figure


def _project(points: np.ndarray, method: str, seed: int) -> tuple[np.ndarray, tuple[str, str]]:
    """(n, dim) -> (n, 2) and the names of the two axes."""
    if method == "umap":
        try:
            from umap import UMAP
        except ImportError as error:
            raise ImportError(
                "method='umap' needs the package umap-learn; 'pca' needs none"
            ) from error
        neighbors = min(15, len(points) - 1)
        plane = UMAP(n_neighbors=neighbors, random_state=seed, n_jobs=1).fit_transform(points)
        return plane, ("UMAP 1", "UMAP 2")
    if method != "pca":
        raise ValueError(f"method={method!r}: expected 'pca' or 'umap'")
    from sklearn.decomposition import PCA

    pca = PCA(2, svd_solver="full")
    plane, share = pca.fit_transform(points), pca.explained_variance_ratio_
    names = tuple(f"component {i + 1} ({share[i]:.0%} of the variance)" for i in range(2))
    return plane, names


def plot_targets(
    targets: Mapping[str, np.ndarray], row_labels, column_labels, *, note=None
) -> Figure:
    """Target or similarity matrices side by side, on one scale, 0 to 1 unless values leave it.

    targets: title -> (rows, columns). row_labels, column_labels: names; columns wrap too.
    """
    rows, columns = len(row_labels), len(column_labels)
    cell = min(0.62, max(0.3, 4 / columns))
    width = names_width(row_labels, 22) + len(targets) * (cell * columns + 0.3) + 0.8
    height = names_width(column_labels, 22) + cell * rows + 0.5
    figure = new_figure(max(width, 4), height, note)
    panels = figure.subplots(1, len(targets), squeeze=False)[0]
    matrices = {title: to_array(values).astype(float) for title, values in targets.items()}
    for title, values in matrices.items():
        check_shape(f"targets[{title!r}]", values, (rows, columns), "rows, columns")
    low = min(0, *(values.min() for values in matrices.values()))
    high = max(1, *(values.max() for values in matrices.values()))
    ticks = [wrap(name, 22, 2) for name in column_labels]
    for panel, (title, values) in zip(panels, matrices.items(), strict=True):
        mesh = panel.imshow(values, cmap=SEQUENTIAL, vmin=low, vmax=high)
        if cell > 0.4:
            write_cells(panel, values, mesh)
        panel.set_xticks(range(columns), ticks, rotation=90, fontsize=8, parse_math=False)
        name_rows(panel, row_labels if panel is panels[0] else [""] * rows, 22)
        panel.set_ylim(rows - 0.5, -0.5)
        panel.set_title(
            wrap(title, max(12, int(cell * columns * 9))), fontsize=10, parse_math=False
        )
    figure.colorbar(mesh, ax=panels, shrink=0.6, panchor=False)
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
    for i, (axes, name) in enumerate(zip(panels, shown, strict=True)):
        values = history[["step", name]].dropna()
        dots = "o" if len(values) <= 40 else None
        axes.plot(values["step"], values[name], color=COLORS[i], marker=dots, markersize=3)
        axes.set_ylabel(wrap(name.replace("_", " "), 18))
        axes.grid(alpha=0.3)
        tidy(axes)
    panels[0].set_title(title or "", parse_math=False)
    panels[-1].set_xlabel("step")
    return figure


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
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels:
        panel.set_axis_off()
        panel.set_anchor("N")  # where the layout has measured the title
    for panel, image, name in zip(panels, images, titles, strict=False):
        panel.imshow(to_radiograph(image, 256), cmap="gray", vmin=0, vmax=255)
        panel.set_title(wrap(name, 24), fontsize=8, parse_math=False)
    if title:
        figure.suptitle(title, fontsize=11, parse_math=False)
    return figure
