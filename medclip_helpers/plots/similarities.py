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

from ..radiographs import read_radiograph, to_square
from .style import (
    BEST,
    COLORS,
    DIVERGING,
    OTHER,
    SEQUENTIAL,
    Rows,
    check_shape,
    frame,
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
