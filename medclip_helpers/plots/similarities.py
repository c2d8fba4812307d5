"""Figures of one image: its similarity with texts, its classes' scores, a similarity's map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..demo import Phantom
from ..radiographs import read_radiograph, to_square
from .style import (
    COLORS,
    HALO,
    OTHER,
    REFERENCE,
    NotebookFigure,
    Rows,
    check_shape,
    draw_cells,
    fan_out,
    listed,
    new_figure,
    number,
    outline,
    ranking,
    show_image,
    tidy,
    to_array,
    to_radiograph,
    wrap,
)

if TYPE_CHECKING:
    from ..model import MedCLIPModel
    from ..processor import MedCLIPProcessor

# One plain sentence for each competition finding, to look at pictures with; none is the paper's.
FINDING_SENTENCES: dict[str, str] = {
    "Atelectasis": "There is atelectasis at the lung base.",
    "Cardiomegaly": "The heart is enlarged.",
    "Consolidation": "There is a consolidation.",
    "Edema": "There is pulmonary edema.",
    "Pleural Effusion": "There is a pleural effusion.",
}


def _beside_rows(image, rows: Rows, title, xlabel, note, *, top: float = 0) -> NotebookFigure:
    """An image, and to its right an axis with a row for each name; `top`: inches free above it."""
    figure = new_figure(7, max(3, rows.height + top + 0.9), note)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.6])
    show_image(left, image, title)
    rows.draw(right, least=2)  # a single bar stays a bar, not a wall
    right.set_xlabel(wrap(xlabel, 46), parse_math=False)
    tidy(right)
    return figure


def plot_similarities(
    image, texts: str | Sequence[str], scores, *, title=None, xlabel="cosine similarity", note=None
) -> NotebookFigure:
    """One image beside horizontal bars, one per text, best on top.

    image: path, PIL image, array (h, w) or tensor (1, h, w). scores: (texts,).
    title: over the image. xlabel: what the scores are.
    """
    scores = to_array(scores).astype(float).reshape(-1)
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts:
        raise ValueError("texts is empty: expected at least one text")
    check_shape("scores", scores, (len(texts),), "one per text")
    order = np.argsort(-scores, kind="stable")
    rows = Rows([texts[i] for i in order])
    figure = _beside_rows(image, rows, title, xlabel, note)
    axes = figure.axes[1]
    colors = [COLORS[0]] + [OTHER] * (len(texts) - 1)
    bars = axes.barh(rows.centres, scores[order], color=colors, height=0.2)
    axes.bar_label(bars, fmt=number, padding=3, fontsize=9)
    axes.axvline(0, color=axes.spines["left"].get_edgecolor(), linewidth=0.8)
    axes.margins(x=0.26)
    axes.locator_params(axis="x", nbins=6)
    figure.caption = ranking([f"“{texts[i]}”" for i in order], scores[order])
    figure.alt = f"Texts by {xlabel}: {listed([texts[i] for i in order], scores[order])}."
    return figure


def visualize_image_text_similarity(
    model: MedCLIPModel,
    processor: MedCLIPProcessor,
    image_path,
    texts: Sequence[str],
    note: str | None = None,
) -> NotebookFigure:
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
    image, prompt_scores: Mapping[str, Sequence[float]], *,
    prompts: Mapping[str, Sequence[str]] | None = None, title=None, xlabel="cosine similarity",
    note=None,
) -> NotebookFigure:  # fmt: skip
    """A classifier's scores: a row per class, a dot per prompt, a bar at the mean, best on top.

    prompt_scores: class -> (prompts,) scores; or a DataFrame, a column per class.
    prompts: class -> their wording; that of the dot farthest from the mean stands beneath each row.
    """
    if not len(prompt_scores):
        raise ValueError("prompt_scores is empty: expected at least one class")
    scores = {
        str(name): to_array(prompt_scores[name]).astype(float).reshape(-1) for name in prompt_scores
    }
    scores = {name: values[np.isfinite(values)] for name, values in scores.items()}
    if empty := [name for name, values in scores.items() if not len(values)]:
        raise ValueError(f"prompt_scores[{empty[0]!r}] has no finite score")
    names = sorted(scores, key=lambda name: -scores[name].mean())
    rows = Rows(names, 24, gap=0.3 if prompts is None else 0.45)
    figure = _beside_rows(image, rows, title, xlabel, note, top=0.2)
    axes = figure.axes[1]
    for y, name in zip(rows.centres, names, strict=True):
        values = scores[name]
        color = COLORS[0] if name == names[0] else REFERENCE
        axes.scatter(values, fan_out(y, len(values)), s=20, color=color, alpha=0.5, lw=0, zorder=2)
        axes.plot([values.mean()] * 2, [y - 0.14, y + 0.14], color=color, lw=3, zorder=3)
        if prompts is not None:
            given = to_array(prompt_scores[name]).astype(float)
            odd = int(np.nanargmax(np.abs(given - values.mean())))
            words = wrap(f"{number(given[odd])}: {prompts[name][odd]}", 52, 1)
            axes.annotate(words, (0, y + 0.27), (4, 0), xycoords=axes.get_yaxis_transform(),
                          textcoords="offset points", fontsize=9, color="0.35", va="center",
                          parse_math=False, path_effects=HALO)  # fmt: skip
    axes.plot([], [], color=REFERENCE, lw=3, label="mean of the class")
    axes.scatter([], [], s=20, color=REFERENCE, alpha=0.5, label="one prompt")
    axes.grid(axis="x", alpha=0.3)
    if prompts is not None:
        axes.set_ylim(rows.height + 0.12, 0)
    means, best = [scores[name].mean() for name in names], scores[names[0]]
    figure.caption = (
        f"{ranking(names, means)} The prompts of {names[0]} reach from {number(best.min())} to "
        f"{number(best.max())}."
    )
    figure.alt = f"Means by class: {listed(names, means)}."
    axes.legend(fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    return figure


def plot_similarity_map(image, contributions, text: str, *, mask=None, note=None) -> NotebookFigure:
    """What each position adds to the cosine between an image and a text, over the radiograph.

    image: the radiograph; one that is not square is shown as the processor pads it, on black.
    contributions: (h, w), whose sum is the cosine; `similarity.similarity_map` gives them.
    mask: (h, w) bool, where the finding is known to be in the image; it is outlined.
    Cells are drawn as they are, unsmoothed; where nothing is contributed the radiograph shows.
    """
    contributions = _cells(contributions)
    figure = new_figure(7, 4, note)
    cosine = f"cosine similarity {number(contributions.sum())}"
    title = f"{wrap(text, 74, 3)}\n{cosine}: the sum of all cells"
    figure.suptitle(title, fontsize=11, parse_math=False)
    left, right = figure.subplots(1, 2)
    square = to_square(to_radiograph(image))
    for axes in (left, right):
        show_image(axes, square)
        known = outline(axes, _to_square(mask))
    largest = max(np.abs(contributions).max(), 1e-9)
    mesh = draw_cells(right, contributions, square.width, largest)
    label = "contribution to the cosine"
    figure.colorbar(mesh, ax=right, label=label, shrink=0.85, panchor=False)
    up, down = number(contributions.clip(0).sum()), number(-contributions.clip(None, 0).sum())
    figure.caption = (
        f"Orange cells raise the similarity with “{text}” by {up}, blue ones lower it by {down}."
    )
    figure.caption += " Dashed: where the finding is known to be." if known else ""
    figure.alt = f"A radiograph, and over it the {cosine} by position."
    return figure


def _to_square(mask) -> np.ndarray | None:
    """A mask of an image as one of its padded square."""
    if mask is None:
        return None
    return np.asarray(to_square(Image.fromarray(np.asarray(mask).astype(np.uint8))))


def _cells(contributions) -> np.ndarray:
    contributions = to_array(contributions).astype(float)
    if contributions.ndim != 2:
        raise ValueError(f"contributions has shape {contributions.shape}, expected (h, w)")
    return contributions


def plot_explanation(
    image, texts: str | Sequence[str], scores, contributions, *, mask=None, note=None
) -> NotebookFigure:
    """The whole idea in one picture: a radiograph, texts ranked by similarity, the map of the best.

    image: path, PIL image, array (h, w) or tensor (1, h, w). scores: (texts,) cosines.
    contributions: (h, w), of the best text. mask: (h, w) bool, where its finding is known to be in
    the image.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    scores, contributions = to_array(scores).astype(float).reshape(-1), _cells(contributions)
    if not texts:
        raise ValueError("texts is empty: expected at least one text")
    check_shape("scores", scores, (len(texts),), "one per text")
    order = np.argsort(-scores, kind="stable")
    figure = new_figure(7, 5.9, note)
    (film, ranks), (map_, words) = figure.subplots(2, 2, width_ratios=[1, 1.45])
    square = to_square(to_radiograph(image))
    for axes, title in ((film, "A radiograph …"), (map_, "… and the map shows where.")):
        show_image(axes, square)
        axes.set_title(title, fontsize=12, loc="left", fontweight="bold")
    ranks.set_title("… is compared with sentences …", fontsize=12, loc="left", fontweight="bold")
    best = texts[order[0]]
    colors = [COLORS[0]] + [OTHER] * (len(texts) - 1)
    bars = ranks.barh(range(len(texts)), scores[order], height=0.3, color=colors)
    labels = ranks.bar_label(bars, fmt=number, padding=4, fontsize=11)
    for place, (i, label) in enumerate(zip(order, labels, strict=True)):
        ink, weight = ("0.25", "normal") if place else (COLORS[0], "bold")
        label.set_color(ink)
        ranks.text(0, place - 0.24, wrap(texts[i], 40, 1), fontsize=11.5, color=ink,
                   fontweight=weight, va="bottom", parse_math=False)  # fmt: skip
    ranks.set(ylim=(len(texts) - 0.6, -0.75), xlim=(min(0, scores.min() * 1.25), None))
    ranks.axvline(0, color="0.5", linewidth=0.8)
    ranks.set_axis_off()
    draw_cells(map_, contributions, square.width, max(np.abs(contributions).max(), 1e-9))
    known = outline(map_, _to_square(mask))
    words.set_axis_off()
    said = (
        f"Nearest: “{wrap(best, 90, 1)}”, cosine {number(scores[order[0]])}. Orange squares are "
        "where that score comes from, blue ones lower it."
    )
    said += " Dashed: where the finding is known to be." if known else ""
    words.text(0.02, 0.5, wrap(said, 36, 9), fontsize=12, va="center", linespacing=1.5,
               parse_math=False, transform=words.transAxes)  # fmt: skip
    ranked = listed([texts[i] for i in order], scores[order])
    figure.alt = f"A radiograph, sentences ranked by similarity ({ranked}). {said}"
    return figure


def explain_similarity(
    model: MedCLIPModel,
    processor: MedCLIPProcessor,
    image,
    texts: str | Sequence[str] | None = None,
    *,
    note: str | None = None,
) -> NotebookFigure:
    """Which of some sentences a radiograph is nearest to and why, as `plot_explanation` draws it.

    image: what `read_radiograph` takes, or a `demo.Phantom`, whose finding is then outlined.
    texts: by default a sentence for each of the five competition findings.
    note: by default what the model says of its weights.

    Raises what `read_radiograph`, `encode_texts` and `similarity_map` raise.
    """
    from ..similarity import encode_texts, similarity_map  # loads torch, the other plots do not

    drawn, masks = image, {}
    if isinstance(image, Phantom):
        drawn, masks = image.image, image.masks
    radiograph = read_radiograph(drawn)
    if texts is None:
        texts = [*FINDING_SENTENCES.values()]
    texts = [texts] if isinstance(texts, str) else list(texts)
    maps = similarity_map(
        model, processor(images=radiograph)["pixel_values"], encode_texts(model, processor, texts)
    )[0].cpu()
    scores = maps.sum((1, 2))
    best = int(scores.argmax())
    note = getattr(model, "note", None) if note is None else note
    mask = np.any([*masks.values()], axis=0) if masks else None
    return plot_explanation(radiograph, texts, scores, maps[best], mask=mask, note=note)
