"""Read chest radiographs from the formats that they come in, as 8-bit grey images."""

from __future__ import annotations

from glob import glob, has_magic
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

SUFFIXES = {".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".tif", ".tiff", ".bmp"}


def read_radiograph(source) -> Image.Image:
    """A radiograph as a PIL image of mode "L" (8-bit grey, air dark).

    source: path of a PNG, JPEG, TIFF, BMP or DICOM file, an open binary file, a PIL image, or a
        NumPy array (height, width) or (height, width, 3 or 4).

    8-bit values are kept; 16-bit, integer and floating-point values are scaled so that the darkest
    is 0 and the brightest 255. DICOM: modality and display (VOI) transforms are applied before
    that, and MONOCHROME1 is inverted.

    Raises FileNotFoundError for a missing file, ValueError naming the source for an unreadable one.
    """
    if isinstance(source, Image.Image):
        return _grey(source)
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, (str, Path)) and not Path(source).expanduser().is_file():
        raise FileNotFoundError(f"no image file at {source}")
    name = source if isinstance(source, (str, Path)) else getattr(source, "name", "upload")
    try:
        file = open(Path(source).expanduser(), "rb") if isinstance(source, (str, Path)) else source
        try:
            if _is_dicom(file):
                return _read_dicom(file)
            with Image.open(file) as image:
                return _grey(ImageOps.exif_transpose(image))
        finally:
            if file is not source:
                file.close()
    except UnidentifiedImageError as error:
        raise ValueError(
            f"cannot read {name} as a radiograph: not a PNG, JPEG or DICOM file"
        ) from error
    except Exception as error:  # decoders raise many kinds for a damaged file
        raise ValueError(f"cannot read {name} as a radiograph: {error}") from error


def find_radiographs(source: str | Path) -> list[Path]:
    """The image files that a file, a folder (not its subfolders) or a glob pattern means, sorted.

    In a folder these are the files with an image suffix and those without any suffix (DICOM
    exports often have none). Raises FileNotFoundError where there are none.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        found = [
            p for p in path.iterdir()
            if p.is_file() and not p.name.startswith(".")
            and (p.suffix.lower() in SUFFIXES or _is_suffixless_dicom(p))
        ]  # fmt: skip
    elif path.exists():
        found = [path]
    elif has_magic(str(path)):
        found = [Path(p) for p in glob(str(path), recursive=True) if Path(p).is_file()]
    else:
        raise FileNotFoundError(f"no image file, folder or pattern at {source}")
    if not found:
        kinds = ", ".join(sorted(SUFFIXES))
        raise FileNotFoundError(f"no radiographs in {source}: expected files ending in {kinds}")
    return sorted(found)


def _is_dicom(file) -> bool:
    file.seek(0)
    head = file.read(132)
    file.seek(0)
    return head[128:] == b"DICM"


def _is_suffixless_dicom(path: Path) -> bool:
    if path.suffix:
        return False
    with open(path, "rb") as file:
        return _is_dicom(file)


def _grey(image: Image.Image) -> Image.Image:
    if image.mode == "L":
        return image.copy()
    if image.mode.startswith("I") or image.mode == "F":
        return _from_array(np.asarray(image))
    # An alpha channel would leave whatever colour stands under it: put the image on black.
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return image.convert("L")


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype == np.uint8:
        return _grey(Image.fromarray(array))
    if array.ndim != 2 or array.size == 0:
        raise ValueError(
            "expected an array (height, width), or (height, width, 3 or 4) of uint8, "
            f"got shape {array.shape} of {array.dtype}"
        )
    if array.dtype == np.uint8:
        return Image.fromarray(array)
    values = array.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("image holds NaN or infinite values")
    low, high = values.min(), values.max()
    scaled = (values - low) * (255 / (high - low) if high > low else 0)
    return Image.fromarray(scaled.round().astype(np.uint8))


def _read_dicom(file) -> Image.Image:
    import pydicom
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    dataset = pydicom.dcmread(file)
    pixels = dataset.pixel_array
    if dataset.get("SamplesPerPixel", 1) != 1 or pixels.ndim != 2:
        raise ValueError(f"expected one grey frame, got an array of shape {pixels.shape}")
    pixels = apply_voi_lut(apply_modality_lut(pixels, dataset), dataset)
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        pixels = pixels.max() - pixels.astype(np.float64)
    return _from_array(pixels)
