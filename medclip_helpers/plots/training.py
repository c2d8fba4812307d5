"""Figures around training: the images it sees, its course, the space that comes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .style import (
    COLORS,
    HALO,
    REFERENCE,
    NotebookFigure,
    check_shape,
    finding_colors,
    new_figure,
    number,
    outline,
    show_image,
    tidy,
    to_array,
    wrap,
)


def plot_gallery(
    images, titles: Sequence[str] | None = None, *, columns: int = 5, masks=None, title=None,
    note=None, caption: str = "",
) -> NotebookFigure:  # fmt: skip
    """A contact sheet: images in rows of `columns`, each under its title.

    masks: for each image (h, w) bool or None, where a finding is known to be; outlined.
    caption: a sentence on what to see, which notebooks show under the figure.
    """
    if not len(images):
        raise ValueError("images is empty: expected at least one")
    titles = [""] * len(images) if titles is None else [str(name) for name in titles]
    if len(titles) != len(images):
        raise ValueError(f"{len(titles)} titles for {len(images)} images: expected as many")
    masks = [None] * len(images) if masks is None else masks
    if len(masks) != len(images):
        raise ValueError(f"{len(masks)} masks for {len(images)} images: expected as many")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    side = 7 / columns if columns > 3 else 1.9
    letters = int(12 * side)
    lines = max(wrap(name, letters, 5).count("\n") + 1 for name in titles)
    figure = new_figure(
        side * columns, (side + 0.1 + 0.15 * lines) * rows + (0.3 if title else 0), note
    )
    panels = figure.subplots(rows, columns, squeeze=False).flat
    known = False
    for panel, image, name, mask in zip(panels, images, titles, masks, strict=False):
        show_image(panel, image, name, letters=letters, fontsize=9)
        if mask is not None:
            known |= outline(panel, mask, 0.9)
    for panel in panels[len(images) :]:
        panel.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=11, parse_math=False)
    dashed = "Dashed: where a finding is known to be." if known else ""
    figure.caption = f"{caption} {dashed}".strip()
    named = "; ".join(filter(None, titles))
    figure.alt = f"{len(images)} images{': ' if named else ''}{named}."
    return figure


def plot_training_curve(
    history, *, metrics: Sequence[str] = ("zero_shot_accuracy",),
    marks: Mapping[float, str] | None = None, chance: float | None = None, title=None, note=None,
) -> NotebookFigure:  # fmt: skip
    """Loss over steps, and below it each of `metrics` that the history holds.

    history: DataFrame or list of dicts with "step", "loss" and perhaps metrics; gaps are skipped.
    marks: {step: what happened there}, an upright line through all panels, named in the first.
    chance: of the first of `metrics`, drawn as a dotted line where the history holds that metric.
    """
    import pandas as pd

    history = pd.DataFrame(history)
    for column in ("step", "loss"):
        if column not in history:
            raise ValueError(f"history has columns {list(history)}, expected {column!r} among them")
    shown = ["loss", *(name for name in metrics if name in history)]
    figure = new_figure(7, 1.2 + 1.9 * len(shown), note)
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name, color in zip(panels, shown, COLORS, strict=False):
        values = history[["step", name]].dropna()
        dots = "o" if len(values) <= 40 else None
        axes.plot(values["step"], values[name], color=color, marker=dots, markersize=3)
        axes.set_ylabel(wrap(_spoken(name), 18))
        axes.grid(alpha=0.3)
        for step in marks or {}:
            axes.axvline(step, color=REFERENCE, linestyle="--", linewidth=1, zorder=0)
        tidy(axes)
    for line, (step, words) in enumerate((marks or {}).items()):  # one per line: they may be close
        panels[0].annotate(
            f" {words}", (step, 0.97 - 0.12 * line), xycoords=panels[0].get_xaxis_transform(),
            fontsize=9, va="top", color=REFERENCE, parse_math=False, path_effects=HALO,
        )  # fmt: skip
    if chance is not None and shown[1:2] == [*metrics[:1]]:
        panels[1].axhline(chance, color=REFERENCE, linestyle=":", zorder=0)
        panels[1].annotate("chance", (1, chance), xycoords=panels[1].get_yaxis_transform(),
                           fontsize=9, ha="right", va="bottom", color=REFERENCE)  # fmt: skip
    panels[0].set_title(title or "", parse_math=False)
    panels[-1].set_xlabel("step")
    ends = {name: history[name].dropna() for name in shown}
    changes = [
        f"{_spoken(name)} from {_value(values.iloc[0])} to {_value(values.iloc[-1])}"
        if len(values) else f"{_spoken(name)} is never a number"
        for name, values in ends.items()
    ]  # fmt: skip
    figure.caption = f"In {history['step'].max():,.0f} steps: {'; '.join(changes)}."
    figure.alt = f"A curve over steps for each of {', '.join(map(_spoken, shown))}."
    return figure


def _value(value: float) -> str:
    """As `number`; a learning rate keeps its digits."""
    return number(value) if value == 0 or abs(value) >= 0.005 else f"{value:.2g}"


def _spoken(column: str) -> str:
    return column.replace("zero_shot", "zero-shot").replace("auroc", "AUROC").replace("_", " ")


def plot_embedding_map(
    embeds: Mapping[str, tuple], image_labels, text_labels, *, note=None
) -> NotebookFigure:
    """Embeddings of images and texts, each centred on its own mean, in their principal plane.

    embeds: title -> (image_embeds (images, dim), text_embeds (texts, dim)), one panel each; images
        are circles and texts crosses, coloured by finding.
    image_labels, text_labels: a name each.

    Above each panel: how far the two means lie apart, and how many texts are nearer to the images
    of their own name than to those of any other, as they are plotted.
    """
    from sklearn.decomposition import PCA

    image_labels, text_labels = np.asarray(image_labels), np.asarray(text_labels)
    colors = finding_colors([*image_labels, *text_labels])
    figure = new_figure(7, 7 / len(embeds) + 1.4 if len(embeds) > 1 else 5.5, note)
    panels = figure.subplots(1, len(embeds), squeeze=False)[0]
    said = []
    for axes, (title, (images, texts)) in zip(panels, embeds.items(), strict=True):
        images, texts = to_array(images), to_array(texts)
        check_shape("image_labels", image_labels, images.shape[:1], "one per image")
        check_shape("text_labels", text_labels, texts.shape[:1], "one per text")
        apart = np.linalg.norm(images.mean(0) - texts.mean(0))
        centred = images - images.mean(0), texts - texts.mean(0)
        plane = PCA(2, svd_solver="full").fit(np.concatenate(centred))
        dots, crosses = map(plane.transform, centred)
        names = list(dict.fromkeys(image_labels))
        middles = np.stack([dots[image_labels == name].mean(0) for name in names])
        nearest = np.linalg.norm(crosses[:, None] - middles, axis=2).argmin(1)
        own = int((np.asarray(names)[nearest] == text_labels).sum())
        axes.scatter(*dots.T, c=[colors[name] for name in image_labels], s=18, alpha=0.5)
        axes.scatter(*crosses.T, c=[colors[name] for name in text_labels], s=60, marker="X",
                     edgecolor="black", linewidths=0.6)  # fmt: skip
        found = f"{own} of {len(texts)} texts nearest to their own images"
        said.append(f"{title} {own} of {len(texts)}")
        title = f"{title}\n{found},\nmeans {apart:.2f} apart before centring"
        axes.set_title(title, fontsize=9, parse_math=False)
        axes.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
        axes.margins(0.12)
    markers = [axes.scatter([], [], color=color, label=name) for name, color in colors.items()]
    markers += [axes.scatter([], [], color=REFERENCE, label="image")]
    markers += [axes.scatter([], [], color=REFERENCE, s=60, marker="X", label="text")]
    figure.legend(handles=markers, loc="outside upper center", ncols=4, fontsize=9, frameon=False)
    figure.caption = (
        "Texts nearest, in this plane, to the mean of their own finding's images: "
        f"{'; '.join(said)}; by chance 1 in {len(names)}."
    )
    figure.alt = f"Images (circles) and texts (crosses) of {', '.join(names)}, in a plane."
    return figure
