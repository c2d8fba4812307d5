"""Figures of how right a model is: its probabilities against what was, values with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .style import (
    COLORS,
    OTHER,
    REFERENCE,
    NotebookFigure,
    Rows,
    check_shape,
    label_lines,
    listed,
    new_figure,
    number,
    tidy,
    to_array,
)


def plot_reliability(
    labels, probabilities, *, bins: int = 10, title=None, note=None
) -> NotebookFigure:
    """Share of positives against mean predicted value, with the number of images below.

    labels: (images,) 0 or 1. probabilities: (images,), or {title: (images,)} to stand side by side;
        whether they are any is what the figure shows.
    bins: of equal width; each with its 95 % interval (Wilson's). title: of a single panel.
    Raises ValueError for a probability outside [0, 1] and for another label.
    """
    from scipy.stats import binomtest

    several = probabilities if isinstance(probabilities, Mapping) else {title or "": probabilities}
    labels = to_array(labels).astype(float)
    if not np.isin(labels, [0, 1]).all():
        raise ValueError("labels are not all 0 or 1")
    figure = new_figure(max(4.5, 3.5 * len(several)), 4.4, note)
    panels = figure.subplots(
        2, len(several), sharex=True, sharey="row", height_ratios=[3, 1], squeeze=False
    )
    for (top, bottom), (name, given) in zip(panels.T, several.items(), strict=True):
        values = to_array(given).astype(float)
        check_shape("probabilities", values, labels.shape, "one per image, as labels")
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError("probabilities are not all in [0, 1]")
        places = np.minimum((values * bins).astype(int), bins - 1)
        top.plot([0, 1], [0, 1], color=REFERENCE, linestyle=":", label="perfectly calibrated")
        means = []
        for k in np.unique(places):
            here = places == k
            positives, images = int(labels[here].sum()), int(here.sum())
            means.append((values[here].mean(), positives / images))
            ends = binomtest(positives, images).proportion_ci(method="wilson")
            top.plot([means[-1][0]] * 2, ends, color=COLORS[0], linewidth=1)
        top.plot(
            *zip(*means, strict=True), color=COLORS[0], marker="o", label="observed, 95 % interval"
        )
        top.set(ylim=(-0.03, 1.03))
        top.set_title(name, fontsize=10, parse_math=False)
        bottom.hist(values, bins, range=(0, 1), color=OTHER, edgecolor="white")
        bottom.set(xlabel="predicted value", xlim=(-0.03, 1.03))
        tidy(top)
        tidy(bottom)
    panels[0, 0].set_ylabel("share of positives")
    panels[1, 0].set_ylabel("images")
    panels[0, 0].legend(fontsize=9, frameon=False, loc="upper left")
    average = [to_array(given).mean() for given in several.values()]
    names = [name or "this model" for name in several]
    figure.caption = (
        f"{labels.mean():.0%} are positive; mean predicted value: {listed(names, average)}."
    )
    figure.alt = f"Share of positives against predicted value: {', '.join(names)}."
    return figure


def plot_lines(
    table, x: str, y: str, *, by: str, xlabel=None, ylabel=None,
    references: Mapping[str, float] | None = None, log: bool = False, title=None, note=None,
) -> NotebookFigure:  # fmt: skip
    """`y` against `x`: a dot per row, and for each value of `by` a line through the means, named.

    table: DataFrame. references: name -> a value of y, e.g. chance, drawn as a dotted line.
    log: a logarithmic x axis, with a tick at each value that there is.

    Raises ValueError for a table without a finite value.
    """
    figure = new_figure(7, 3.6, note)
    axes = figure.subplots()
    ends, said = [], []
    for k, (name, rows) in enumerate(table.groupby(by, sort=False)):
        color = COLORS[k % (len(COLORS) - 1)]
        means = rows.groupby(x)[y].mean().dropna()
        if means.empty:
            continue
        axes.plot(rows[x], rows[y], ".", color=color, alpha=0.35)
        axes.plot(means.index, means, color=color, marker="o")
        ends.append((means.iloc[-1], str(name), color))
        said.append(f"from {number(means.iloc[0])} to {number(means.iloc[-1])} for “{name}”")
    if not ends:
        raise ValueError(f"table has no row with a finite {y!r}")
    said = [", ".join(said)]
    for name, value in (references or {}).items():
        axes.axhline(value, color=REFERENCE, linestyle=":", zorder=0)
        ends.append((value, name, REFERENCE))
        said.append(f"{name} is {number(value)}")
    if log:
        axes.set_xscale("log")
        axes.set_xticks(values := sorted(table[x].unique()), [f"{value:g}" for value in values])
        axes.minorticks_off()
    axes.set(xlabel=xlabel or x, ylabel=ylabel or y)
    axes.set_title(title or "", fontsize=10, parse_math=False)
    axes.grid(alpha=0.3)
    tidy(axes)
    label_lines(axes, ends)
    figure.caption = f"From left to right, {axes.get_ylabel()} goes {'; '.join(said)}."
    names = ", ".join(name for _, name, _ in ends)
    figure.alt = f"{axes.get_ylabel()} against {axes.get_xlabel()}, a line for each of {names}."
    return figure


def plot_intervals(
    table, names: Sequence[str], *, published: Mapping | None = None,
    chance: float | None = None, title=None, xlabel="accuracy", note=None,
) -> NotebookFigure:  # fmt: skip
    """Values with their intervals: one row each, in the order of the table, the first on top.

    table: DataFrame with `value`, `low`, `high` (ends may be missing). names: one per row.
    published: name -> the value that was reported for it, drawn as a diamond.
    """
    values = table[["value", "low", "high"]].to_numpy(float)
    check_shape("names", np.asarray(names), (len(values),), "one per row of the table")
    rows = Rows(names, 24, gap=0.3)
    figure = new_figure(7, max(2.4, rows.height + 1.2), note)
    axes = figure.subplots()
    if chance is not None:
        axes.axvline(chance, color=REFERENCE, linestyle=":", label="chance")
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
    axes.legend(fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, frameon=False)
    tidy(axes)
    undefined = ~np.isfinite(values[:, 0])
    said = []
    if not undefined.all():
        for i in map(int, (np.nanargmax(values[:, 0]), np.nanargmin(values[:, 0]))):
            value, *interval = map(number, values[i])
            between = f" ({' to '.join(interval)})" if np.isfinite(values[i]).all() else ""
            said.append(f"{names[i]}, {value}{between}")
        said = [f"Highest {xlabel}: {said[0]}", f"lowest: {said[1]}"]
    if undefined.any():
        said.append(f"undefined: {', '.join(np.asarray(names, object)[undefined])}")
    if chance is not None:
        said.append(f"chance: {number(chance)}")
    figure.caption = f"{'; '.join(said)}."
    figure.alt = f"{xlabel}: {listed(names, values[:, 0])}."
    return figure
