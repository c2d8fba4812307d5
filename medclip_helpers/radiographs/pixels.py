"""From pictures and arrays of any kind to 8-bit grey."""

from __future__ import annotations

import ctypes
import math
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
from PIL import Image, ImageOps

MIN_SIDE = 4  # pixels; less is an icon or a mistake
MAX_ASPECT = 8  # a strip is not a radiograph, and the processor pads every image to a square
# A picture counts as coloured if over a tenth of it differs by this much from its own tint.
COLOUR_DISTANCE, COLOUR_SHARE = 16, 0.1
# Pixels worked on at once: they stay in a core's cache, and of an image with as many pixels as are
# allowed a copy in float64 takes 0.7 GB.
_PART = 1 << 16
# Pictures of more pixels wait for each other: a batch of them would take gigabytes.
LARGE = 1 << 24
_ONE_LARGE = threading.RLock()


class Reading(ExitStack):
    """The reading of one source; until it is closed, no other thread has a large picture.

    notes: what its user must be told, each the end of a sentence that begins with its name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def wait_if_large(self, pixels: int) -> None:
        """Call it before decoding."""
        if pixels > LARGE:
            self.enter_context(_ONE_LARGE)
            _release_freed_memory()


def _release_freed_memory() -> None:
    # glibc keeps what a thread has freed for that thread, so that each would keep a large picture.
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def to_square(image: Image.Image, least: int = 0) -> Image.Image:
    """The image (mode "L") centred on a black square of `least` pixels a side, or more.

    An image that fills it is returned itself.
    """
    side = max(least, *image.size)
    if image.size == (side, side):
        return image
    square = Image.new("L", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def check_size(width: int, height: int) -> None:
    """ValueError for a size in pixels that no radiograph has; call it before decoding."""
    size, limit = f"{width} x {height} pixels", Image.MAX_IMAGE_PIXELS
    short, long = sorted((width, height))
    if short < MIN_SIDE:
        raise ValueError(f"{size}, expected {MIN_SIDE} or more a side")
    if long > MAX_ASPECT * short:
        raise ValueError(f"{size} is a strip, not a radiograph")
    if limit and width * height > limit:
        raise ValueError(
            f"{size}, expected at most {limit / 1e6:.0f} million (PIL.Image.MAX_IMAGE_PIXELS)"
        )


def from_picture(picture: Image.Image, reading: Reading) -> Image.Image:
    """The image of a PIL image of any mode."""
    check_size(*picture.size)  # Pillow only warns of up to twice as many pixels
    reading.wait_if_large(picture.width * picture.height)
    if (pages := getattr(picture, "n_frames", 1)) > 1:
        reading.notes.append(f"holds {pages} pages: only the first is read")
    # Pillow inverts 8-bit TIFFs whose zero is white, but not those of 16 bits.
    tags = getattr(picture, "tag_v2", {})
    inverted = picture.mode.startswith("I") and tags.get(262) == 0
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture)
        return from_array(values.max() - values if inverted else values, reading)
    return _grey(picture, reading)


def _grey(picture: Image.Image, reading: Reading) -> Image.Image:
    if picture.mode == "L":
        return picture
    # An alpha channel would leave whatever colour lies under it: put the image on black.
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture)
    if picture.mode != "RGB":
        picture = picture.convert("RGB")
    red, green, blue = picture.split()
    if red == green == blue:
        return red
    if _is_coloured(picture):
        reading.notes.append(
            "is a colour picture, not a grey radiograph: what a model says about it is "
            "meaningless, however high the score"
        )
    return picture.convert("L")


def _is_coloured(picture: Image.Image) -> bool:
    """Whether a picture (mode "RGB") has several hues.

    A tinted film has one, more or less of it; in a photograph objects have their own.
    """
    small = picture.resize((64, 64), Image.Resampling.BOX).convert("YCbCr")
    _, blue, red = np.asarray(small, np.float64).reshape(-1, 3).T - 128
    tint = np.hypot(blue.mean(), red.mean()) or 1
    beside = (blue * red.mean() - red * blue.mean()) / tint  # how far from the line of the tint
    return bool((abs(beside) > COLOUR_DISTANCE).mean() > COLOUR_SHARE)


def from_array(
    array: np.ndarray, reading: Reading, channels_first: bool = False, unit: bool = True
) -> Image.Image:
    """The image of an array; `unit` as for `_scaled`.

    channels_first: whether, where both could be, the first axis of 3 is the channels.
    """
    values = array
    while values.ndim > 2 and values.shape[0] == 1:
        values = values[0]
    if values.ndim == 3:
        first, last = values.shape[0] in (1, 3, 4), values.shape[2] in (1, 3, 4)
        values = values.transpose(1, 2, 0) if first and (channels_first or not last) else values
        values = values[..., 0] if values.shape[2] == 1 else values
    number = values.dtype.kind in "buif"
    if not number or not (values.ndim == 2 or values.ndim == 3 and values.shape[2] in (3, 4)):
        raise ValueError(
            "expected numbers (height, width), with 1, 3 or 4 channels in front or behind, "
            f"got shape {array.shape} of {array.dtype}"
        )
    check_size(values.shape[1], values.shape[0])
    # a copy, because the image shares the memory of its array
    return _grey(Image.fromarray(np.array(to_8_bit(values, unit), order="C")), reading)


def by_value(function: Callable[[np.ndarray], np.ndarray], array: np.ndarray) -> np.ndarray:
    """`to_8_bit(function(array))` of 8 or 16-bit integers, computed once per value that occurs.

    function: (values,) -> (values,), which depends only on a value and on which values occur.
    """
    codes = array.ravel().view(f"u{array.itemsize}")
    occurs = np.zeros(1 << 8 * array.itemsize, bool)
    for part in _parts(codes):
        occurs[codes[part].astype(np.intp)] = True  # NumPy's fast way: a line of its own integers
    values = np.flatnonzero(occurs).astype(codes.dtype).view(array.dtype)
    table = np.zeros(occurs.shape, np.uint8)
    table[occurs] = to_8_bit(function(values), unit=False)
    shown = np.empty(codes.shape, np.uint8)
    for part in _parts(codes):
        shown[part] = table.take(codes[part])
    return shown.reshape(array.shape)


def _parts(array: np.ndarray) -> Iterator[slice]:
    """Rows of an array, some `_PART` values at a time."""
    step = max(1, _PART // array[0].size)
    return (slice(start, start + step) for start in range(0, len(array), step))


def to_8_bit(array: np.ndarray, unit: bool) -> np.ndarray:
    """8-bit values of an array of numbers; `unit` as for `_scaled`."""
    if array.dtype == np.uint8:
        return array
    if array.ndim == 3 and array.shape[2] == 4:  # alpha has a scale of its own
        colour, alpha = array[..., :3], array[..., 3]
        return np.dstack([_scaled(colour, unit=unit), _scaled(alpha, _opaque(alpha))])
    return _scaled(array, unit=unit)


def _opaque(alpha: np.ndarray) -> int:
    """The value of full opacity: 1, 255, 65535 or the type's maximum, the first not exceeded.

    The type alone does not tell: arrays of 8-bit pictures are converted to wider integers and to
    floats, whose alpha then still ends at 255.
    """
    most = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "ui" else 65535
    high = alpha.max()
    return min(most, next((top for top in (1, 255, 65535) if high <= top), most))


def _scaled(array: np.ndarray, full: int | None = None, unit: bool = True) -> np.ndarray:
    """8-bit values of any numbers: by their range, or from 0 to `full`.

    unit: floating-point values that lie in 0 to 1 are taken as they are, 1 for white.
    """
    low, high = float(array.min()), float(array.max())
    if not math.isfinite(high - low):  # NaN is the minimum of whatever holds one
        raise ValueError("image holds NaN, infinite or too large values")
    if full:
        low, high = 0, full
    elif unit and array.dtype.kind in "bf" and 0 <= low and high <= 1:
        low, high = 0, 1
    scaled = np.empty(array.shape, np.uint8)
    for rows in _parts(array):
        part = array[rows].astype(np.float64)
        if full:  # an alpha below 0
            part.clip(low, high, out=part)
        part -= low
        part /= (high - low) or 1
        part *= 255
        scaled[rows] = part.round(out=part)
    return scaled
