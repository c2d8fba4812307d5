"""Figures of matrices, a coloured square a cell: images against texts, targets, confusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.patches import Rectangle

from ..radiographs import to_square
from .style import (
    COLORS,
    FOR_AND_AGAINST,
    NotebookFigure,
    check_shape,
    new_figure,
    number,
    to_array,
    to_radiograph,
    wrap,
)


def _heat_maps(
    matrices: Mapping[str, np.ndarray], row_names: Sequence[str], column_names: Sequence[str], *,
    most: float, least: float, top: int = 0, left: int = 0, texts=None, low=0.0, high=1.0,
    label=None, note=None,
) -> NotebookFigure:  # fmt: skip
    """Matrices of one shape side by side, under their titles, on one scale from `low` to `high`.

    matrices: title -> (rows, columns). column_names: may be empty. most, least: inches a side of a
    cell; between them what makes the figure 7 inches wide. top: rows kept free above; left: columns
    kept free in the first. texts: (rows, columns) to write in cells instead of their numbers, of
    which zeros are left out. A scale from below zero is white at zero.
    """
    colors = FOR_AND_AGAINST if low < 0 else "Blues"
    rows, columns = next(iter(matrices.values())).shape
    longest = max(len(str(name)) for name in row_names)
    free = 7 - 0.075 * min(32, longest) - 0.3 * len(matrices) - 0.9
    cell = min(most, max(least, free / (len(matrices) * columns + left)))
    lines = max(1, int((cell - 0.04) / 0.15))  # of a row's name that its cell is high enough for
    letters = 32 if lines > 2 else 44
    # Inches that names take, about; the compressed layout measures them and shares out the rest.
    names = 0.075 * min(letters, longest)
    foot = 0.073 * min(22, max((len(str(name)) for name in column_names), default=0))
    width = max(4, names + len(matrices) * (cell * columns + 0.3) + cell * left + 0.9)
    figure = new_figure(width, foot + cell * (rows + top) + 0.7, note, layout="compressed")
    shares = [columns + left, *[columns] * (len(matrices) - 1)]
    panels = figure.subplots(1, len(matrices), sharey=True, squeeze=False, width_ratios=shares)[0]
    for panel, (title, values) in zip(panels, matrices.items(), strict=True):
        mesh = panel.imshow(values, cmap=colors, vmin=low, vmax=high)
        if cell > (0.4 if low < 0 else 0.32):  # a minus takes room
            for (row, column), value in np.ndenumerate(values):
                if texts is None and abs(value) < 0.005:
                    continue
                text = number(value) if texts is None else texts[row, column]
                deep = mesh.norm(value) > 0.62 if low >= 0 else mesh.norm(value) < 0.15
                ink = "white" if deep else "black"
                panel.text(column, row, text, ha="center", va="center", color=ink, fontsize=9)
        ticks = [wrap(name, 22, 2) for name in column_names]
        panel.set_xticks(range(len(ticks)), ticks, rotation=90, fontsize=9, parse_math=False)
        panel.tick_params(length=0)
        panel.spines[:].set_visible(False)
        title = wrap(title, max(12, int(8 * (width - names) / len(matrices))))
        panel.set_title(title, fontsize=10, loc="left", parse_math=False)
    ticks = [wrap(name, letters, lines) for name in row_names]
    panels[0].set_yticks(range(rows), ticks, fontsize=9, parse_math=False)
    figure.colorbar(mesh, ax=panels, label=label, shrink=0.7)
    return figure


def plot_similarity_matrix(
    similarity, images, texts, labels=None, *, title="cosine similarity", note=None, names=()
) -> NotebookFigure:
    """All images against all texts: a column per image (thumbnail on top), a row per text.

    similarity: (images, texts). labels: frames the pairs that belong together: "diagonal", an
    index of a text for each image (-1 for none), or a boolean array (images, texts).
    names: of the images, to stand under their columns.
    """
    similarity = to_array(similarity).astype(float)
    check_shape("similarity", similarity, (len(images), len(texts)), "images, texts")
    largest = max(np.abs(similarity).max(), 1e-9)
    figure = _heat_maps(
        {title: similarity.T}, texts, names, most=0.8, least=0.34, top=1, high=largest,
        note=note, low=-largest if (similarity < 0).any() else 0.0,
    )  # fmt: skip
    axes = figure.axes[0]
    for column, image in enumerate(images):
        _thumbnail(axes, image, (column - 0.46, column + 0.46, -0.56, -1.48))
    pairs = _pairs(labels, similarity.shape)
    _frame(axes, pairs, "black")
    axes.set(xlim=(-0.55, len(images) - 0.45), ylim=(len(texts) - 0.45, -1.55))
    columns = names if len(names) else [f"image {i + 1}" for i in range(len(images))]
    nearest = similarity.argmax(1)
    right = sum((i, j) in pairs for i, j in enumerate(nearest))
    i, j = np.unravel_index(similarity.argmax(), similarity.shape)
    figure.caption = f"Highest: {columns[i]} and “{texts[j]}” ({number(similarity[i, j])})."
    if framed := len({i for i, _ in pairs}):
        which = "" if framed == len(images) else " that have one"
        figure.caption += (
            f" The highest text is a framed one for {right} of {framed} images{which}."
        )
    highest = (
        f"{name}: {texts[j]} {number(row[j])}"
        for name, row, j in zip(columns, similarity, nearest, strict=True)
    )
    figure.alt = f"{title}; highest of each image: {'; '.join(highest)}."
    return figure


def _thumbnail(axes, image, extent: tuple[float, float, float, float]) -> None:
    square = to_square(to_radiograph(image, 128))
    axes.imshow(square, cmap="gray", vmin=0, vmax=255, extent=extent)


def _frame(axes, cells, color: str) -> None:
    """Frames around cells, (column, row) each."""
    for x, y in cells:
        axes.add_patch(
            Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fill=False, ec=color, lw=2, clip_on=False)
        )


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
    if (labels >= shape[1]).any():
        raise ValueError(f"labels has {labels.max()}, expected an index of {shape[1]} texts, or -1")
    return [(i, int(j)) for i, j in enumerate(labels) if j >= 0]


def plot_targets(
    targets: Mapping[str, np.ndarray],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    *,
    images=(),
    framed=None,
    label: str | None = None,
    note=None,
    caption: str = "",
) -> NotebookFigure:
    """Target or similarity matrices side by side, on one scale, 0 to 1 unless values leave it.

    targets: title -> (rows, columns). row_labels, column_labels: names; columns wrap too.
    images: one for each row, to stand beside it. framed: (rows, columns) bool, the cells to frame.
    label: what the colour bar measures.
    caption: a sentence on what to see, which notebooks show under the figure.
    """
    matrices = {title: to_array(values).astype(float) for title, values in targets.items()}
    for title, values in matrices.items():
        shape = (len(row_labels), len(column_labels))
        check_shape(f"targets[{title!r}]", values, shape, "rows, columns")
    low = min(0, *(values.min() for values in matrices.values()))
    high = max(1, -low, *(values.max() for values in matrices.values()))
    figure = _heat_maps(
        matrices, row_labels, column_labels, most=0.62, least=0.17, label=label,
        low=-high if low < 0 else 0.0, high=high, left=int(len(images) > 0), note=note,
    )  # fmt: skip
    if len(images):
        check_shape("images", np.arange(len(images)), (len(row_labels),), "one per row")
        axes = figure.axes[0]
        for row, image in enumerate(images):
            _thumbnail(axes, image, (-1.48, -0.56, row + 0.46, row - 0.46))
        axes.set(xlim=(-1.55, len(column_labels) - 0.5), ylim=(len(row_labels) - 0.5, -0.5))
    if framed is not None:
        shape = (len(row_labels), len(column_labels))
        check_shape("framed", to_array(framed), shape, "rows, columns")
        for axes in figure.axes[: len(matrices)]:
            _frame(axes, [(x, y) for y, x in np.argwhere(to_array(framed))], COLORS[1])
    figure.caption = caption
    figure.alt = f"{len(row_labels)} by {len(column_labels)} matrices: {'; '.join(matrices)}."
    return figure


def plot_confusion(matrix, class_names: Sequence[str], *, title=None, note=None) -> NotebookFigure:
    """Counts of true class (rows) against predicted class (columns), coloured by share of the row.

    matrix: (classes, classes) counts.
    """
    matrix = to_array(matrix)
    check_shape("matrix", matrix, (len(class_names),) * 2, "true class, predicted class")
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    texts = np.vectorize("{:,.0f}\n{:.0%}".format)(matrix, share)
    figure = _heat_maps(
        {title or "": share}, class_names, class_names, most=0.8, least=0.8, texts=texts,
        label="share of the row", note=note,
    )  # fmt: skip
    figure.axes[0].set(xlabel="predicted", ylabel="true")
    figure.caption = f"{matrix.trace():,.0f} of {matrix.sum():,.0f} are predicted correctly"
    mistakes = matrix * (1 - np.eye(len(matrix)))
    if most := mistakes.max():
        true, taken = np.unravel_index(mistakes.argmax(), mistakes.shape)
        figure.caption += (
            f"; the most frequent mistake: {class_names[true]} taken for {class_names[taken]} "
            f"({most:,.0f})"
        )
    figure.caption += "."
    figure.alt = f"Counts of true against predicted class: {', '.join(class_names)}."
    return figure
