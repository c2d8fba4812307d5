"""What every figure here is made of: a figure that notebooks show, its colours, names and images.

Every function of this room takes arrays and names and returns a `matplotlib.figure.Figure`; none
touches pyplot, so nothing leaks between cells and a widget callback can draw. Colours are Okabe and
Ito's ("Color Universal Design", 2008), which colour-blind readers can tell apart. Paper and ink
follow matplotlib's rcParams: black on opaque white unless you say otherwise, readable in Colab's
dark theme too.

Every function has `note`: a line drawn small at the foot, for what a picture must not be shown
without ("Demo model, trained on drawings: not a clinical result"). A figure's `caption`, which
notebooks show under it, says what to see, from its numbers; its `alt` says in words what is drawn.

One grammar: a finding has one colour everywhere (`finding_colors`), scales of shares start at zero,
what speaks for is warm and what speaks against is blue, what wins is in colour and the rest grey.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable, Sequence
from io import BytesIO
from itertools import cycle

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import CenteredNorm, LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from PIL import Image

from ..constants import CHEXPERT_COMPETITION
from ..radiographs import read_radiograph

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
FOR, AGAINST, OTHER, REFERENCE = "#E69F00", "#0072B2", "#C8D3DC", "#777777"
FOR_AND_AGAINST = LinearSegmentedColormap.from_list("for and against", [AGAINST, "white", FOR])
DPI = 100  # figures are as many pixels wide as notebooks show them
HALO = [withStroke(linewidth=3, foreground="white")]  # around words that stand on lines
SHARPNESS = 2  # and have twice as many, for today's screens


def finding_colors(names: Iterable[str]) -> dict[str, str]:
    """Name -> colour: the five competition findings always have the same, others share the rest."""
    fixed = dict(zip(CHEXPERT_COMPETITION, COLORS, strict=False))
    others = cycle(COLORS[len(fixed) :])
    return {name: fixed.get(name) or next(others) for name in dict.fromkeys(names)}


class NotebookFigure(Figure):
    """A figure that a notebook shows when it is the last line of a cell.

    IPython learns to draw a plain `Figure` only when pyplot is imported; this one brings its own
    picture, so that it shows in any kernel, and once: it is in no list of open figures. Under the
    picture stands `caption`, one sentence; the picture's alternative text is caption and `alt`.
    """

    alt = ""
    caption = ""  # that of a figure which has its sentence drawn in is empty

    def _repr_png_(self) -> tuple[bytes, dict[str, int | str]]:
        width, height = map(round, self.get_size_inches() * DPI)
        words = {"alt": f"{self.caption} {self.alt}".strip(), "caption": self.caption}
        return figure_png(self), {"width": width, "height": height, **words}

    def _ipython_display_(self) -> None:
        from IPython.display import HTML, Image, display

        png, metadata = self._repr_png_()
        display(Image(png, format="png", metadata=metadata))
        if self.caption:  # text of the page: it wraps, can be read aloud, copied and zoomed
            display(HTML(f'<p class="medclip-caption">{html.escape(self.caption)}</p>'))


def figure_png(figure: Figure) -> bytes:
    """The figure as PNG bytes, with SHARPNESS times the pixels that it is shown at."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=SHARPNESS * DPI)
    return buffer.getvalue()


def new_figure(
    width: float, height: float, note: str | None, layout="constrained"
) -> NotebookFigure:
    """An empty figure, sizes in inches; `note` goes to the foot and keeps its space."""
    figure = NotebookFigure(figsize=(width, height), dpi=DPI, layout=layout)
    if note:
        text = wrap(note, int(width * 14), 3)
        figure.supxlabel(text, x=0.01, ha="left", fontsize=9, style="italic", parse_math=False)
    return figure


def listed(names: Iterable, values: Iterable) -> str:
    """“a 0.50; b 0.20”, for an alternative text."""
    return "; ".join(f"{name} {number(value)}" for name, value in zip(names, values, strict=True))


def ranking(names: Sequence[str], values: Sequence[float]) -> str:
    """What leads, by how much, and what comes last; the highest first."""
    said = f"{names[0]} scores highest ({number(values[0])})"
    if len(names) > 1:
        ahead = number(values[0] - values[1])
        said += f", level with {names[1]}" if ahead == "0.00" else f", {ahead} above {names[1]}"
    if len(names) > 2:
        said += f"; {names[-1]} scores lowest ({number(values[-1])})"
    return f"{said}."


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
    axes.set_title(wrap(title or "", letters, 5), fontsize=fontsize, parse_math=False)


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


def label_lines(axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names of lines to the right of the axis, each at its line's end or as near as there is room.

    ends: (y, name, colour) of each line. The axis' limits are to be as they stay.
    """
    low, high = axes.get_ylim()
    room = 0.15 * (high - low) / axes.get_position().height / axes.figure.get_figheight()
    ranked = sorted(ends)
    places = np.array([y for y, _, _ in ranked], float)
    for _ in range(200):  # neighbours that are too near push each other apart
        gaps = room * 1.1 - np.diff(places)
        if (gaps < 1e-9).all():
            break
        push = np.clip(gaps, 0, None) / 2
        places[:-1] -= push
        places[1:] += push
    for place, (_, name, color) in zip(places, ranked, strict=True):
        axes.annotate(
            name, (1.02, place), xycoords=axes.get_yaxis_transform(), color=color, fontsize=9,
            va="center", parse_math=False, annotation_clip=False,
        )  # fmt: skip


def tidy(axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def check_shape(name: str, array: np.ndarray, shape: tuple[int, ...], meaning: str) -> None:
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, expected {shape} ({meaning})")


def number(value: float) -> str:
    """Two digits and a true minus; adding 0.0 turns -0.00 into 0.00."""
    return f"{round(float(value), 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")


def outline(axes, mask, width: float = 1.8) -> bool:
    """A dashed line around where a finding is known to be; mask: (h, w), of the axes' picture.

    Returns whether there is one: not without a mask, nor for an empty one.
    """
    if mask is None or not np.any(mask):
        return False
    mask = np.asarray(mask, float)
    y, x = (
        (np.arange(count) + 0.5) * side / count
        for count, side in zip(mask.shape, axes.images[0].get_size(), strict=True)
    )
    for color, style, points in (("black", "solid", 1.9 * width), ("white", (0, (3, 2)), width)):
        axes.contour(x, y, mask, [0.5], colors=color, linestyles=[style], linewidths=points)
    return True


def draw_cells(axes, contributions, side: float, largest: float) -> ScalarMappable:
    """What each position adds, over a square picture: warm for, blue against, clear for zero.

    contributions: (h, w). largest: the value of the deepest hue, either way.
    """
    mesh = ScalarMappable(CenteredNorm(halfrange=largest), FOR_AND_AGAINST)
    share = np.clip(np.abs(contributions) / largest, 0, 1)
    cells = np.empty((*share.shape, 4))  # one hue either way, so that grey below stays grey
    cells[..., :3] = np.where(contributions[..., None] > 0, to_rgb(FOR), to_rgb(AGAINST))
    cells[..., 3] = 0.6 * share
    axes.imshow(cells, extent=(0, side, side, 0), interpolation="nearest")
    return mesh
