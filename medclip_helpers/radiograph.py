"""Read chest radiographs from the formats that they come in, as 8-bit grey images."""

from __future__ import annotations

import math
import os
import warnings
from glob import glob, has_magic
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

SUFFIXES = {".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".tif", ".tiff", ".bmp", ".webp", ".jp2"}
# Pillow knows more; some of those start programs (EPS runs Ghostscript), none holds radiographs.
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "JPEG2000", "PPM", "GIF")
MIN_SIDE = 4  # pixels; less is an icon or a mistake
MAX_ASPECT = 8  # a strip is no radiograph, and the processor pads every image to a square
# A picture counts as coloured if over a tenth of it differs by this much from its own tint.
COLOUR_DISTANCE, COLOUR_SHARE = 16, 0.1


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
    picture is read, with a warning; a tint alone is none.

    Raises FileNotFoundError for a missing file, ValueError naming the source and the reason for one
    that cannot be read, has a side under MIN_SIDE pixels, is over MAX_ASPECT times as long as wide,
    or has more pixels than Pillow calls safe (`Image.MAX_IMAGE_PIXELS`, 89 million).
    """
    is_path = isinstance(source, (str, os.PathLike))
    if is_path and not os.path.isfile(os.path.expanduser(source)):
        if os.path.isdir(os.path.expanduser(source)):
            raise FileNotFoundError(f"{source} is a folder: `find_radiographs` lists its images")
        raise FileNotFoundError(f"no image file at {source}")
    name = str(source) if is_path else _name(source)
    try:
        if not is_path:
            return _read(source, name)
        with open(os.path.expanduser(source), "rb") as file:
            return _read(file, name)
    except UnidentifiedImageError as error:
        raise ValueError(
            f"cannot read {name} as a radiograph: not a PNG, JPEG, TIFF, WebP, BMP or DICOM file"
        ) from error
    except Exception as error:  # decoders raise many kinds for a damaged file
        reason = str(error) or type(error).__name__
        raise ValueError(f"cannot read {name} as a radiograph: {reason}") from error


def to_square(image: Image.Image, least: int = 0) -> Image.Image:
    """The image (mode "L") centred on a black square of `least` pixels a side, or more."""
    side = max(least, *image.size)
    square = Image.new("L", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def find_radiographs(source: str | Path) -> list[Path]:
    """The image files that a file, a folder (not its subfolders) or a glob pattern means, sorted.

    In a folder these are the files with an image suffix, and the DICOM files without one: exports
    often name them "IM0001" or by their UID, "1.2.840.1". Raises FileNotFoundError where there are
    none.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        found = [
            p for p in path.iterdir()
            if p.is_file() and not p.name.startswith(".")
            and (p.suffix.lower() in SUFFIXES or _is_dicom_without_suffix(p))
        ]  # fmt: skip
    elif path.exists():
        found = [path]
    elif has_magic(str(path)):
        found = [Path(p) for p in glob(str(path), recursive=True) if Path(p).is_file()]
    else:
        raise FileNotFoundError(f"no image file, folder or pattern at {source}")
    if not found:
        kinds = ", ".join(sorted(SUFFIXES))
        raise FileNotFoundError(
            f"no radiographs in {source}: expected files ending in {kinds}, in the folder itself "
            f"(with its subfolders: {path / '**' / '*.png'})"
        )
    return sorted(found)


def _is_dicom(file) -> bool:
    file.seek(0)
    head = file.read(132)
    file.seek(0)
    return head[128:] == b"DICM"


def _is_dicom_without_suffix(path: Path) -> bool:
    if path.suffix and not path.suffix[1:].isdigit():  # the end of a UID is no suffix
        return False
    with open(path, "rb") as file:
        return _is_dicom(file)


# --- by kind of source ------------------------------------------------------------------------


def _name(source) -> str:
    """What an error calls a source that is no path."""
    return str(getattr(source, "filename", None) or getattr(source, "name", None) or "the image")


def _read(source, name: str) -> Image.Image:
    if isinstance(source, Image.Image):
        return _from_picture(source, name)
    if isinstance(source, np.ndarray):
        return _from_array(source, name)
    if hasattr(source, "detach") and hasattr(source, "cpu"):  # a tensor, without importing torch
        tensor = source.detach().cpu()
        values = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        return _from_array(values, name, channels_first=True)
    if not hasattr(source, "read"):
        raise ValueError(
            "expected a path, an open binary file, a PIL image, an array or a tensor, "
            f"got {type(source).__name__}"
        )
    if _is_dicom(source):
        from .dicom import read_dicom

        return _from_array(read_dicom(source, name), name)
    if not source.read(1):
        raise ValueError("the file is empty")
    source.seek(0)
    with Image.open(source, formats=FORMATS) as picture:
        deep = picture.mode.startswith("RGB") and ";16" in str(picture.tile)
        image = _from_picture(picture, name)
    if deep and image.getextrema()[1] < 128:
        raise ValueError(
            "16 bits a channel, of which Pillow keeps the upper 8, and these are nearly empty "
            f"(brightest {image.getextrema()[1]} of 255): save it as 16-bit grey"
        )
    return image


def check_size(width: int, height: int) -> None:
    """ValueError for a size in pixels that no radiograph has; ask before decoding."""
    size, limit = f"{width} x {height} pixels", Image.MAX_IMAGE_PIXELS
    short, long = sorted((width, height))
    if short < MIN_SIDE:
        raise ValueError(f"{size}, expected {MIN_SIDE} or more a side")
    if long > MAX_ASPECT * short:
        raise ValueError(f"{size} are a strip, not a radiograph")
    if limit and width * height > limit:
        raise ValueError(
            f"{size}, expected at most {limit / 1e6:.0f} million (PIL.Image.MAX_IMAGE_PIXELS)"
        )


# --- pictures and arrays ----------------------------------------------------------------------


def _from_picture(picture: Image.Image, name: str) -> Image.Image:
    check_size(*picture.size)  # Pillow only warns of up to twice as many pixels
    # Pillow inverts 8-bit TIFFs whose zero is white, but not those of 16 bits.
    tags = getattr(picture, "tag_v2", {})
    inverted = picture.mode.startswith("I") and tags.get(262) == 0
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture)
        return _from_array(values.max() - values if inverted else values, name)
    return _grey(picture, name)


def _grey(picture: Image.Image, name: str) -> Image.Image:
    if picture.mode == "L":
        return picture.copy()
    # An alpha channel would leave whatever colour stands under it: put the image on black.
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture)
    picture = picture.convert("RGB")
    if _is_coloured(picture):
        warnings.warn(
            f"{name} is a colour picture, not a grey radiograph: whatever a model says of it "
            "is nonsense, however sure it sounds",
            stacklevel=6,
        )
    return picture.convert("L")


def _is_coloured(picture: Image.Image) -> bool:
    """Whether colours (mode "RGB") differ between places that are equally bright.

    A tinted film has one colour for each brightness; in a photograph things have their own.
    """
    small = picture.resize((64, 64), Image.Resampling.BOX).convert("YCbCr")
    bright, *chroma = np.asarray(small, np.float64).reshape(-1, 3).T
    tint = np.vander(bright / 255, 3)
    distance = 0
    for values in chroma:
        distance += (values - tint @ np.linalg.lstsq(tint, values, rcond=None)[0]) ** 2
    return bool((distance > COLOUR_DISTANCE**2).mean() > COLOUR_SHARE)


def _from_array(array: np.ndarray, name: str, channels_first: bool = False) -> Image.Image:
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
    return _grey(Image.fromarray(np.ascontiguousarray(_to_8_bit(values))), name)


def _to_8_bit(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.ndim == 3 and array.shape[2] == 4:  # alpha has a scale of its own
        colour, alpha = array[..., :3], array[..., 3]
        return np.dstack([_scaled(colour), _scaled(alpha, _opaque(alpha))])
    return _scaled(array)


def _opaque(alpha: np.ndarray) -> int:
    """The value of full opacity: 1, 255, 65535 or the type's maximum, the first not exceeded.

    The type alone does not tell: arrays of 8-bit pictures are converted to wider integers and to
    floats, whose alpha then still ends at 255.
    """
    most = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "ui" else 65535
    high = alpha.max()
    return min(most, next((top for top in (1, 255, 65535) if high <= top), most))


def _scaled(array: np.ndarray, full: int | None = None) -> np.ndarray:
    """8-bit values of any numbers: by their range, or from 0 to `full`."""
    values = array.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if not math.isfinite(high - low):  # NaN is the minimum of whatever holds one
        raise ValueError("image holds NaN, infinite or too large values")
    if full:
        low, high = 0, full
        values.clip(0, full, out=values)
    elif array.dtype.kind in "bf" and 0 <= low and high <= 1:
        low, high = 0, 1
    # in place: of an image with as many pixels as are allowed, each copy takes 0.7 GB
    values -= low
    values /= (high - low) or 1
    values *= 255
    return values.round(out=values).astype(np.uint8)
