"""Read chest radiographs from the formats that they come in, as 8-bit grey images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, UnidentifiedImageError

from .finding import is_dicom
from .pixels import Reading, from_array, from_picture
from .telling import warn_user

# Pillow knows more; some of those start programs (EPS runs Ghostscript), none holds radiographs.
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "JPEG2000", "PPM", "GIF")


def read_radiograph(source) -> Image.Image:
    """A radiograph as a PIL image of mode "L" (8-bit grey, air dark).

    source: path of a PNG, JPEG, TIFF, WebP, BMP or DICOM file, an open binary file, a PIL image, a
        NumPy array or a tensor. Arrays and tensors are (height, width), with 1, 3 or 4 channels in
        front or behind, and may have more axes of size 1 in front.

    8-bit values are kept, floating-point values from 0 to 1 are multiplied by 255; everything else
    is scaled so that the darkest is 0 and the brightest 255. What is transparent becomes black;
    alpha is full at 1, 255, 65535 or its type's maximum, the first that no value exceeds. DICOM:
    modality and display (VOI) transforms are applied before that, and MONOCHROME1 is inverted; of
    several frames the first is read, with a warning. A JPEG's EXIF orientation is applied. A colour
    picture is read, with a warning; a mere tint is not one.

    Raises FileNotFoundError for a missing file, ValueError naming the source and the reason for one
    that cannot be read, has a side under MIN_SIDE pixels, is over MAX_ASPECT times as long as wide,
    or has more pixels than Pillow calls safe (`Image.MAX_IMAGE_PIXELS`, 89 million).
    """
    with open_radiograph(source) as image:
        return image


@contextmanager
def open_radiograph(source, line: tuple[str, int] | None = None) -> Iterator[Image.Image]:
    """`read_radiograph`'s image, to make a smaller one from in the block: threads take turns.

    Only one thread at a time decodes and has an image of more than LARGE pixels, others wait for
    the end of its block; smaller images do not wait. line: where warnings point, as for
    `warn_user`.
    """
    name = _name(source)
    with Reading() as reading:
        image = _read_named(source, name, reading)
        for note in reading.notes:
            warn_user(f"{name} {note}", line)
        yield image


def _read_named(source, name: str, reading: Reading) -> Image.Image:
    """As `_read`; errors name the source."""
    is_path = isinstance(source, (str, os.PathLike))
    if is_path and not os.path.isfile(os.path.expanduser(source)):
        if os.path.isdir(os.path.expanduser(source)):
            raise FileNotFoundError(f"{source} is a folder: `find_radiographs` lists its images")
        raise FileNotFoundError(f"no image file at {source}")
    try:
        if not is_path:
            return _read(source, reading)
        with open(os.path.expanduser(source), "rb") as file:
            return _read(file, reading)
    except UnidentifiedImageError as error:
        raise ValueError(
            f"cannot read {name} as a radiograph: not a PNG, JPEG, TIFF, WebP, BMP or DICOM file"
        ) from error
    except Exception as error:  # decoders raise many kinds for a damaged file
        reason = str(error) or type(error).__name__
        raise ValueError(f"cannot read {name} as a radiograph: {reason}") from error


def _name(source) -> str:
    """What an error or a warning calls a source."""
    if isinstance(source, (str, os.PathLike)):
        return str(source)
    return str(getattr(source, "filename", None) or getattr(source, "name", None) or "the image")


def _read(source, reading: Reading) -> Image.Image:
    if isinstance(source, Image.Image):
        return from_picture(source, reading)
    if isinstance(source, np.ndarray):
        return from_array(source, reading)
    if hasattr(source, "detach") and hasattr(source, "cpu"):  # a tensor, without importing torch
        tensor = source.detach().cpu()
        values = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        return from_array(values, reading, channels_first=True)
    if not hasattr(source, "read"):
        raise ValueError(
            "expected a path, an open binary file, a PIL image, an array or a tensor, "
            f"got {type(source).__name__}"
        )
    if is_dicom(source):
        from .dicom import read_dicom

        return from_array(read_dicom(source, reading), reading, unit=False)
    if not source.read(1):
        raise ValueError("the file is empty")
    source.seek(0)
    with Image.open(source, formats=FORMATS) as picture:
        deep = picture.mode.startswith("RGB") and ";16" in str(picture.tile)
        image = from_picture(picture, reading)
    if deep and np.asarray(image).max() < 128:
        raise ValueError(
            "16 bits per channel, of which Pillow keeps the upper 8, and these are nearly empty "
            f"(brightest {image.getextrema()[1]} of 255): save it as 16-bit grey"
        )
    return image
