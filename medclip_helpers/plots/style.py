"""What every figure here is made of: a figure that notebooks show, its colours, names and images.

The functions that draw a particular thing are in `plotting`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from ..radiographs import read_radiograph

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
BEST, OTHER = "#0072B2", "#8FBBD9"
LINES = ("-", "--", "-.", ":")
SEQUENTIAL, DIVERGING = "Blues", "RdBu_r"


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


def new_figure(width: float, height: float, note: str | None) -> Figure:
    """An empty figure, sizes in inches; `note` goes to the foot and keeps its space."""
    figure = NotebookFigure(figsize=(width, height), dpi=100, layout="constrained")
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


def show_image(axes, image, title: str | None = None) -> None:
    axes.imshow(to_radiograph(image), cmap="gray", vmin=0, vmax=255)
    axes.set_axis_off()
    axes.set_anchor("N")
    if title:
        axes.set_title(wrap(title, 32), fontsize=10, parse_math=False)


def name_rows(axes, names: Sequence[str], width: int = 34, lines: int = 4) -> None:
    """Names of equally high rows 0, 1, ... on the y axis; they wrap."""
    labels = [wrap(name, width, lines) for name in names]
    axes.set_yticks(range(len(names)), labels, fontsize=9, parse_math=False)
    axes.tick_params(axis="y", length=0)
    # Constrained layout measures names before square cells shrink the axes; this corner stays put.
    axes.set_anchor("SW")


def names_width(names: Sequence[str], width: int) -> float:
    """Inches that wrapped names take: 9 point letters are about 0.075 inches wide."""
    return 0.075 * max(len(line) for name in names for line in wrap(name, width).split("\n"))


class Rows:
    """Rows as high as their wrapped names need, first on top; unit of the y axis: inches."""

    def __init__(self, names: Sequence[str], width: int = 34, gap: float = 0.17):
        self.labels = [wrap(name, width) for name in names]
        heights = [gap + 0.14 * (label.count("\n") + 1) for label in self.labels]
        self.height = sum(heights)
        self.centres = np.cumsum(heights) - np.asarray(heights) / 2

    def draw(self, axes) -> None:
        axes.set_yticks(self.centres, self.labels, fontsize=9, parse_math=False)
        axes.set_ylim(max(self.height, 2.0), 0)  # a single bar stays a bar, not a wall
        axes.tick_params(axis="y", length=0)


def tidy(axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def check_shape(name: str, array: np.ndarray, shape: tuple[int, ...], meaning: str) -> None:
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, expected {shape} ({meaning})")


def frame(x: float, y: float, side: float, color: str) -> Rectangle:
    return Rectangle((x, y), side, side, fill=False, edgecolor=color, linewidth=2.5, clip_on=False)


def number(value: float) -> str:
    return f"{round(float(value), 2) + 0.0:.2f}"  # adding 0.0 turns -0.00 into 0.00


def write_cells(axes, values: np.ndarray, mesh, texts=None) -> None:
    """Numbers, or `texts`, into the cells of an image plot, dark on light and light on dark."""
    for row, column in np.ndindex(values.shape):
        red, green, blue, _ = mesh.cmap(mesh.norm(values[row, column]))
        ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
        text = texts[row][column] if texts is not None else number(values[row, column])
        axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=8)


def literal(legend) -> None:
    for text in legend.get_texts():
        text.set_parse_math(False)  # a "$" in a name is a dollar
