"""What the explorer's page is made of: HTML and pictures, from names and numbers.

HTML so that a score is text, which a screen reader reads and a theme colours. A positive score is
never told from a negative one, nor an image from another, by colour alone.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image

from ..radiographs import to_square

SIDE = 336  # pixels of a picture on the page
INK, PALE, UNSURE = ("#0072B2", "#D55E00"), ("#5B93BB", "#D08A55"), "#888888"
WARM, COOL = (213, 94, 0), (0, 114, 178)  # what speaks for a text on a map, and against it

# Colab has colours of its own, the other front ends those of their widgets, which are inherited.
STYLE = """<style>
html[theme=dark] .medclip .jupyter-widgets {color: #d5d5d5}
.medclip .widget-html-content {line-height: 1.4; font-size: 13px}
.medclip-words {font-size: 16px}
.medclip-banner {background: #FFB347; color: #000; padding: 6px 10px; margin: 4px 0;
  border-left: 6px solid #D55E00}
.medclip-alert {background: #fdecea; color: #611a15; padding: 4px 8px;
  border-left: 4px solid #D55E00}
.medclip button.medclip-text {white-space: normal; height: auto; min-height: 28px; padding: 3px 8px;
  line-height: 1.25; text-align: left; overflow-wrap: anywhere}
.medclip button.medclip-text:disabled {opacity: 1; cursor: default}
.medclip button.medclip-text.mod-info {background: #0072B2; color: #fff}
.medclip-score {display: flex; gap: 8px; align-items: center}
.medclip-track {position: relative; flex: 1; min-width: 60px; height: 11px;
  background: rgba(128, 128, 128, .18)}
.medclip-track i {position: absolute; top: 0; bottom: 0}
.medclip-track i.zero {width: 1px; background: currentColor; top: -3px; bottom: -3px}
.medclip-number {min-width: 58px; font-variant-numeric: tabular-nums}
.medclip-pictures {display: flex; flex-wrap: wrap; gap: 8px}
.medclip-pictures figure {margin: 0; flex: 1 1 150px; max-width: 336px}
.medclip-pictures img {width: 100%; display: block; margin: 0}
.medclip-pictures figcaption {overflow-wrap: anywhere}
.medclip-matrix {overflow-x: auto}
.medclip-matrix th {overflow-wrap: break-word; vertical-align: top; font-size: .9em;
  font-weight: normal; padding: 2px 6px; min-width: 56px;
  max-width: 110px; text-align: center}
.medclip-matrix th[scope=row] {text-align: left; min-width: 90px; max-width: 240px}
.medclip-matrix td {padding: 4px 6px; text-align: center; font-variant-numeric: tabular-nums}
.medclip-matrix img {width: 48px; margin: 0 auto; display: block}
.medclip-matrix table {border-collapse: collapse}
.medclip-matrix caption {color: inherit}
</style>"""


def number(value: float) -> str:
    """Two decimals and a true minus, as everywhere on the page; never −0.00."""
    return f"{round(float(value), 2) + 0.0:.2f}".replace("-", "−")


def quoted(text: str) -> str:
    return f"“{html.escape(text)}”"


def score(
    values: Sequence[float], low: float, colours: Sequence[str], names: Sequence[str], note: str
) -> str:
    """Bars from zero, one per image, on an axis from `low` (-1 or 0) to 1, with their numbers.

    names: of the images, one letter each, or empty. note: shown under the bars.
    """
    zero, bars = 100 * -low / (1 - low), ""
    for value, colour, name in zip(values, colours, names, strict=True):
        end = 100 * (min(1, max(low, value)) - low) / (1 - low)
        bars += (
            "<div class='medclip-score'><div class='medclip-track' aria-hidden='true'>"
            f"<i style='left:{min(zero, end):.1f}%;width:{abs(end - zero):.1f}%;"
            f"background:{colour}'></i><i class='zero' style='left:{zero:.1f}%'></i></div>"
            f"<span class='medclip-number'>{name} {number(value)}</span></div>"
        )
    return bars + (f"<small>{html.escape(note)}</small>" if note else "")


def axis(low: int, label: str) -> str:
    """The ends of every bar's axis, and what it measures."""
    ends = f"<span>{low}</span>" + ("<span>0</span>" if low else "") + "<span>1</span>"
    return (
        f"<div class='medclip-score'><div aria-hidden='true' style='flex:1;display:flex;"
        f"justify-content:space-between'>{ends}</div><span class='medclip-number'></span></div>"
        f"<small>{html.escape(label)}</small>"
    )


def pictures(shown: Sequence[tuple[str, str, Image.Image]]) -> str:
    """(caption, what a screen reader is told, picture) side by side."""
    figures = (
        f"<figure><img alt='{html.escape(told, quote=True)}' src='{_png(picture)}'>"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for caption, told, picture in shown
    )
    return f"<div class='medclip-pictures'>{''.join(figures)}</div>"


def _png(picture: Image.Image) -> str:
    file = BytesIO()
    picture.save(file, format="PNG", compress_level=1)  # as fast as a person types
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def small(image: Image.Image) -> Image.Image:
    """As the model sees it, padded to a square, so that maps lie where they belong.

    Made once, when a picture is read: for a large one it takes longer than a whole edit.
    """
    return to_square(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def overlay(image: Image.Image, contributions: np.ndarray, largest: float) -> Image.Image:
    """The image, as of `small`, under its map: the weaker a contribution, the more of it shows.

    contributions: (h, w). largest: what is drawn strongest, the same for images to compare.
    """
    alpha = 0.7 * (np.minimum(np.abs(contributions) / max(largest, 1e-9), 1)) ** 0.7
    cells = np.where(contributions[..., None] > 0, np.array(WARM), np.array(COOL))
    mask = Image.fromarray((255 * alpha).astype(np.uint8)).resize((SIDE, SIDE), 0)
    colour = Image.fromarray(cells.astype(np.uint8)).resize((SIDE, SIDE), 0)
    return Image.composite(colour, image.convert("RGB"), mask)


def matrix(
    values: np.ndarray, images: dict[str, Image.Image], texts: Sequence[str], label: str
) -> str:
    """A table: a column per image with its name, a row per text; the best text of an image is bold.

    values: (images, texts). images: name -> picture as of `small`.
    """
    heads = "".join(
        f"<th scope='col'><img alt='' src='{_png(image.resize((48, 48)))}'>{html.escape(name)}</th>"
        for name, image in images.items()
    )
    best, rows = values.argmax(1), ""
    for row, text in enumerate(texts):
        rows += f"<tr><th scope='row'>{html.escape(text)}</th>"
        for column, value in enumerate(values[:, row]):
            paint = ",".join(map(str, WARM if value > 0 else COOL))
            shown = f"<b>{number(value)}</b>" if best[column] == row else number(value)
            share = 0.5 * min(1, abs(value))
            rows += f"<td style='background:rgba({paint},{share:.2f})'>{shown}</td>"
        rows += "</tr>"
    return (
        f"<div class='medclip-matrix' tabindex='0' role='region' aria-label='all images'><table>"
        f"<caption>{html.escape(label)}; bold: an image's best</caption>"
        f"<tr><td></td>{heads}</tr>{rows}</table></div>"
    )
