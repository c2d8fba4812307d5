"""What every figure here is made of: a figure that notebooks show, its colours, names and images.

Every function of this room takes arrays and names and returns a `matplotlib.figure.Figure`; none
touches pyplot, so nothing leaks between cells and a widget callback can draw. Colours are Okabe and
Ito's ("Color Universal Design", 2008), which colour-blind readers can tell apart. Paper and ink
follow matplotlib's rcParams: black on opaque white unless you say otherwise, readable in Colab's
dark theme too.

Every function has `note`: a line drawn small at the foot, for what a picture must not be shown
without ("Demo model, trained on drawings: not a clinical result").
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ..radiographs import read_radiograph

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
OTHER = "#8FBBD9"


class NotebookFigure(Figure):
    """A figure that a notebook shows when it is the last line of a cell.

    IPython learns to draw a plain `Figure` only when pyplot is imported; this one brings its own
    picture, so that it shows in any kernel, and once: it is in no list of open figures.
    """

    def _repr_png_(self) -> bytes:
        return figure_png(self)


def figure_png(figure: Figure) -> bytes:
    """The figure as PNG bytes, at its own size and resolution."""
    buffer = BytesIO()
    # Level 1 halves the time to a picture in the explorer and costs a tenth in size.
    figure.savefig(buffer, format="png", pil_kwargs={"compress_level": 1})
    return buffer.getvalue()


def new_figure(width: float, height: float, note: str | None, layout="constrained") -> Figure:
    """An empty figure, sizes in inches; `note` goes to the foot and keeps its space."""
    figure = NotebookFigure(figsize=(width, height), dpi=100, layout=layout)
    if note:
        text = wrap(note, int(width * 16), 3)
        figure.supxlabel(text, x=0.01, ha="left", fontsize=8, style="italic", parse_math=False)
    return figure


def wrap(text: str, width: int = 34, lines: int = 4) -> str:
    return textwrap.fill(str(text), width, max_lines=lines, placeholder=" …")


def to_array(values) -> np.ndarray:
    """Anything array-like, tensors on any device included."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def to_radiograph(image, limit: int = 512) -> Image.Image:
    """What `read_radiograph` takes, at most `limit` pixels a side."""
    image = read_radiograph(image)
    image.thumbnail((limit, limit))
    return image


def show_image(axes, image, title: str | None = None, letters: int = 32, fontsize=10) -> None:
    """A radiograph under its title, no larger than a screen needs, at the top of its place."""
    axes.imshow(to_radiograph(image), cmap="gray", vmin=0, vmax=255)
    axes.set_axis_off()
    axes.set_anchor("N")  # where the layout has measured the title
    axes.set_title(wrap(title or "", letters), fontsize=fontsize, parse_math=False)


class Rows:
    """Rows as high as their wrapped names need, first on top; unit of the y axis: inches."""

    def __init__(self, names: Sequence[str], letters: int = 34, gap: float = 0.17):
        self.labels = [wrap(name, letters) for name in names]
        heights = [gap + 0.14 * (label.count("\n") + 1) for label in self.labels]
        self.height = sum(heights)
        self.centres = np.cumsum(heights) - np.asarray(heights) / 2

    def draw(self, axes, least: float = 0) -> None:
        """least: height of the axis in inches, however few the rows."""
        axes.set_yticks(self.centres, self.labels, fontsize=9, parse_math=False)
        axes.set_ylim(max(self.height, least), 0)
        axes.tick_params(axis="y", length=0)


def fan_out(centre: float, count: int) -> np.ndarray:
    """Heights of `count` dots of one row: apart a little, so that equal ones can be counted."""
    return centre + 0.1 * np.linspace(-1, 1, count) * (count > 1)


def tidy(axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def check_shape(name: str, array: np.ndarray, shape: tuple[int, ...], meaning: str) -> None:
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, expected {shape} ({meaning})")


def number(value: float) -> str:
    return f"{round(float(value), 2) + 0.0:.2f}"  # adding 0.0 turns -0.00 into 0.00
