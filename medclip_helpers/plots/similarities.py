"""Figures of one image: its similarity with texts, its classes' scores, a similarity's map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure

from ..radiographs import read_radiograph, to_square
from .style import (
    COLORS,
    OTHER,
    Rows,
    check_shape,
    fan_out,
    new_figure,
    number,
    show_image,
    tidy,
    to_array,
    to_radiograph,
    wrap,
)

if TYPE_CHECKING:
    from ..model import MedCLIPModel
    from ..processor import MedCLIPProcessor


def _beside_rows(image, rows: Rows, title, xlabel, note, *, top: float = 0) -> Figure:
    """An image, and to its right an axis with a row for each name; `top`: inches free above it."""
    figure = new_figure(7.8, max(3, rows.height + top + 0.9), note)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.6])
    show_image(left, image, title)
    rows.draw(right, least=2)  # a single bar stays a bar, not a wall
    right.set_xlabel(wrap(xlabel, 46), parse_math=False)
    tidy(right)
    return figure


def plot_similarities(
    image, texts: str | Sequence[str], scores, *, title=None, xlabel="cosine similarity", note=None
) -> Figure:
    """One image beside horizontal bars, one a text, best on top.

    image: path, PIL image, array (h, w) or tensor (1, h, w). scores: (texts,).
    title: over the image. xlabel: what the scores are.
    """
    scores = to_array(scores).astype(float).reshape(-1)
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts:
        raise ValueError("texts is empty: expected at least one text")
    check_shape("scores", scores, (len(texts),), "one a text")
    order = np.argsort(-scores, kind="stable")
    rows = Rows([texts[i] for i in order])
    figure = _beside_rows(image, rows, title, xlabel, note)
    axes = figure.axes[1]
    colors = [COLORS[0]] + [OTHER] * (len(texts) - 1)
    bars = axes.barh(rows.centres, scores[order], color=colors, height=0.2)
    axes.bar_label(bars, fmt=number, padding=3, fontsize=9)
    axes.axvline(0, color=axes.spines["left"].get_edgecolor(), linewidth=0.8)
    axes.margins(x=0.18)
    axes.locator_params(axis="x", nbins=6)
    return figure


def visualize_image_text_similarity(
    model: MedCLIPModel,
    processor: MedCLIPProcessor,
    image_path,
    texts: Sequence[str],
    note: str | None = None,
) -> Figure:
    """Cosine similarity of one radiograph with each text, as `plot_similarities` draws it.

    image_path: what `read_radiograph` takes: path, PIL image or array.
    texts: each is embedded by itself, unpadded (`similarity.encode_texts`), so that its score does
        not depend on the others; one of more than 77 word pieces is cut there.
    note: by default what the model says of its weights.
    """
    from ..similarity import encode_images, encode_texts  # loads torch, the other plots do not

    image = read_radiograph(image_path)
    image_embeds = encode_images(model, processor, [image], progress=False)
    text_embeds = encode_texts(model, processor, texts, truncation=True)
    note = getattr(model, "note", None) if note is None else note
    return plot_similarities(image, texts, image_embeds @ text_embeds.T, note=note)


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
    figure = _beside_rows(image, rows, title, xlabel, note, top=0.2)
    axes = figure.axes[1]
    for y, name in zip(rows.centres, names, strict=True):
        values = scores[name]
        axes.scatter(values, fan_out(y, len(values)), s=22, color=OTHER, zorder=2)
        axes.plot([values.mean()] * 2, [y - 0.14, y + 0.14], color=COLORS[1], lw=3, zorder=3)
    axes.plot([], [], color=COLORS[1], lw=3, label="mean of the class")
    axes.scatter([], [], s=22, color=OTHER, label="one prompt")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
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
    for axes in (left, right):
        show_image(axes, square)
    largest = max(np.abs(contributions).max(), 1e-9)
    mesh = ScalarMappable(CenteredNorm(halfrange=largest), colormaps["RdBu_r"])
    cells = mesh.to_rgba(contributions)
    # The fainter a contribution, the more of the radiograph shows through.
    cells[..., 3] = 0.75 * (np.abs(contributions) / largest) ** 0.7
    right.imshow(cells, extent=(0, square.width, square.height, 0))
    label = "contribution to the cosine"
    figure.colorbar(mesh, ax=right, label=label, shrink=0.85, panchor=False)
    return figure
