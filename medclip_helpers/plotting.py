"""Figures of images, texts and the scores between them.

Every function takes arrays and names and returns a `matplotlib.figure.Figure`; none touches pyplot,
so nothing leaks between cells and a widget callback can draw. Colours are Okabe and Ito's ("Color
Universal Design", 2008), which colour-blind readers can tell apart. Paper and ink follow
matplotlib's rcParams: black on opaque white unless you say otherwise, readable in Colab's dark
theme too.

Every function has `note`: a line drawn small at the foot, for what a picture must not be shown
without ("Demo model, trained on drawings: not a clinical result").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure

from .figures import (
    BEST,
    COLORS,
    DIVERGING,
    LINES,
    OTHER,
    SEQUENTIAL,
    Rows,
    check_shape,
    frame,
    literal,
    name_rows,
    names_width,
    new_figure,
    number,
    show_image,
    tidy,
    to_array,
    to_radiograph,
    wrap,
    write_cells,
)
from .radiograph import read_radiograph, to_square


def plot_similarities(
    image, texts: Sequence[str], scores, *, title=None, xlabel="cosine similarity", note=None
) -> Figure:
    """One image beside horizontal bars, one a text, best on top.

    image: path, PIL image, array (h, w) or tensor (1, h, w). scores: (texts,).
    title: over the image. xlabel: what the scores are.
    """
    scores = to_array(scores).astype(float).reshape(-1)
    if not texts:
        raise ValueError("texts is empty: expected at least one text")
    check_shape("scores", scores, (len(texts),), "one a text")
    order = np.argsort(-scores, kind="stable")
    names = [texts[i] for i in order]
    rows = Rows(names)
    figure = new_figure(7.8, max(3, rows.height + 0.9), note)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.6])
    show_image(left, image, title)
    colors = [BEST] + [OTHER] * (len(names) - 1)
    bars = right.barh(rows.centres, scores[order], color=colors, height=0.2)
    right.bar_label(bars, [number(s) for s in scores[order]], padding=3, fontsize=9)
    rows.draw(right)
    right.axvline(0, color=right.spines["left"].get_edgecolor(), linewidth=0.8)
    right.margins(x=0.18)
    right.locator_params(axis="x", nbins=6)
    right.set_xlabel(wrap(xlabel, 46), parse_math=False)
    tidy(right)
    return figure


def visualize_image_text_similarity(model, processor, image_path, texts, note=None) -> Figure:
    """Cosine similarity of one radiograph with each text, as `plot_similarities` draws it.

    image_path: path, PIL image or array. texts: a list; they are padded together, as in the
    processor's own batches. note: by default what the model says of its weights.
    """
    import torch

    image = read_radiograph(image_path)
    inputs = processor(text=list(texts), images=image, return_tensors="pt", padding=True)
    model.eval()
    with torch.inference_mode():
        image_embeds = model.encode_image(inputs["pixel_values"])
        text_embeds = model.encode_text(inputs["input_ids"], inputs["attention_mask"])
    scores = (image_embeds @ text_embeds.T)[0]
    note = getattr(model, "note", None) if note is None else note
    return plot_similarities(image, list(texts), scores, note=note)


def plot_similarity_matrix(
    similarity, images, texts, labels=None, *, title="cosine similarity", note=None, selected=None
) -> Figure:
    """All images against all texts: a column an image (thumbnail on top), a row a text.

    similarity: (images, texts). labels: frames the pairs that belong together: "diagonal", an
    index of a text for each image (-1 for none), or a boolean array (images, texts).
    selected: index of an image whose thumbnail is framed.
    """
    similarity = to_array(similarity).astype(float)
    check_shape("similarity", similarity, (len(images), len(texts)), "images, texts")
    rows, columns = len(texts), len(images)
    cell = min(0.8, max(0.34, 6 / columns))
    lines = max(1, int((cell - 0.04) / 0.15))
    letters = 32 if lines > 2 else 44
    width = max(4, names_width(texts, letters) + cell * columns + 1.2)
    figure = new_figure(width, cell * (rows + 1) + 1, note)
    axes = figure.subplots()
    mesh = axes.imshow(similarity.T, cmap=SEQUENTIAL)
    for column, image in enumerate(images):
        extent = (column - 0.46, column + 0.46, -0.56, -1.48)
        square = to_square(to_radiograph(image, 128))
        axes.imshow(square, cmap="gray", vmin=0, vmax=255, extent=extent)
    if selected is not None:
        axes.add_patch(frame(selected - 0.48, -1.5, 0.96, COLORS[1]))
    if cell > 0.5:
        write_cells(axes, similarity.T, mesh)
    for i, j in _pairs(labels, similarity.shape):
        axes.add_patch(frame(i - 0.46, j - 0.46, 0.92, COLORS[1]))
    name_rows(axes, texts, letters, lines)
    axes.set(xlim=(-0.55, columns - 0.45), ylim=(rows - 0.45, -1.55), xticks=[])
    axes.spines[:].set_visible(False)
    axes.set_title(wrap(title, int(9 * figure.get_figwidth())), fontsize=10, parse_math=False)
    figure.colorbar(mesh, ax=axes, shrink=0.7, panchor=False)
    return figure


def _pairs(labels, shape) -> list[tuple[int, int]]:
    """(image, text) pairs that `labels` of `plot_similarity_matrix` means."""
    if labels is None:
        return []
    if isinstance(labels, str):
        if labels != "diagonal":
            raise ValueError(f"labels={labels!r}: expected 'diagonal', indices or a boolean array")
        return [(i, i) for i in range(min(shape))]
    labels = to_array(labels)
    if labels.ndim == 2:
        check_shape("labels", labels, shape, "images, texts")
        return [(int(i), int(j)) for i, j in np.argwhere(labels)]
    check_shape("labels", labels, shape[:1], "one index of a text for each image")
    return [(i, int(j)) for i, j in enumerate(labels) if j >= 0]


def plot_class_scores(
    image, prompt_scores: Mapping[str, Sequence[float]], *, title=None,
    xlabel="cosine similarity", note=None,
) -> Figure:  # fmt: skip
    """A classifier's scores: a row a class, a dot a prompt, a bar at the mean, best class on top.

    prompt_scores: class -> (prompts,) scores; or a DataFrame, a column a class.
    """
    if not len(prompt_scores):
        raise ValueError("prompt_scores is empty: expected at least one class")
    scores = {
        str(name): to_array(prompt_scores[name]).astype(float).reshape(-1) for name in prompt_scores
    }
    scores = {name: values[np.isfinite(values)] for name, values in scores.items()}
    names = sorted(scores, key=lambda name: -scores[name].mean())
    rows = Rows(names, 24, gap=0.3)
    figure = new_figure(7.8, max(3, rows.height + 1.1), note)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.6])
    show_image(left, image, title)
    for y, name in zip(rows.centres, names, strict=True):
        values = scores[name]
        # Dots of one class fan out a little, so that equal scores can be counted.
        spread = np.linspace(-0.09, 0.09, len(values)) if len(values) > 1 else [0.0]
        right.scatter(values, y + np.asarray(spread), s=22, color=OTHER, zorder=2)
        right.plot(
            [values.mean()] * 2, [y - 0.14, y + 0.14], color=COLORS[1], linewidth=3, zorder=3
        )
    right.plot([], [], color=COLORS[1], linewidth=3, label="mean of the class")
    right.scatter([], [], s=22, color=OTHER, label="one prompt")
    right.grid(axis="x", alpha=0.3)
    rows.draw(right)
    right.set_xlabel(wrap(xlabel, 46), parse_math=False)
    right.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    tidy(right)
    return figure


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


def plot_similarity_map(image, contributions, text: str, *, note=None) -> Figure:
    """What each position adds to the cosine between an image and a text, over the radiograph.

    image: the radiograph; one that is not square is shown as the processor pads it, on black.
    contributions: (h, w), whose sum is the cosine; `similarity.similarity_map` gives them.
    Cells are drawn as they are, unsmoothed; where nothing is contributed the radiograph shows.
    """
    contributions = to_array(contributions).astype(float)
    if contributions.ndim != 2:
        raise ValueError(f"contributions has shape {contributions.shape}, expected (h, w)")
    figure = new_figure(7.8, 4.1, note)
    figure.suptitle(
        f"{wrap(text, 74, 3)}\ncosine similarity {contributions.sum():+.3f}: the sum of all cells",
        fontsize=11, parse_math=False,
    )  # fmt: skip
    left, right = figure.subplots(1, 2)
    square = to_square(to_radiograph(image))
    show_image(left, square)
    extent = (0, square.width, square.height, 0)
    right.imshow(square, cmap="gray", vmin=0, vmax=255)
    strength = np.abs(contributions) / max(np.abs(contributions).max(), 1e-9)
    norm = CenteredNorm(halfrange=max(np.abs(contributions).max(), 1e-9))
    scale = colormaps[DIVERGING]
    # The fainter a contribution, the more of the radiograph shows through.
    cells = scale(norm(contributions))
    cells[..., 3] = 0.75 * strength**0.7
    right.imshow(cells, extent=extent)
    mesh = ScalarMappable(norm, scale)
    right.set_axis_off()
    right.set_anchor("N")
    label = "contribution to the cosine"
    figure.colorbar(mesh, ax=right, label=label, shrink=0.85, panchor=False)
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
