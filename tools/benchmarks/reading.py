"""Where the time of one image goes on its way from a file to what the encoder is given."""

from __future__ import annotations

import io
import time
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image, ImageFile
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
    generate_uid,
)

from medclip_helpers import processor
from medclip_helpers.demo import draw_phantom
from medclip_helpers.radiographs import dicom

ALL = {
    "read": (processor, "read_radiograph"),
    "square": (processor, "to_square"),
    "resize": (Image.Image, "resize"),
}
PICTURE = {"open": (Image, "open"), "decode": (ImageFile.ImageFile, "load")}
DICOM = {"open": (dicom.pydicom, "dcmread"), "decode": (dicom, "pixel_array")}
DEEP = 12  # bits of what detectors give, in files of 16
PILLOW = {JPEGBaseline8Bit: ("JPEG", {}), JPEG2000Lossless: ("JPEG2000", {"no_jp2": True})}


def _write_dicom(path: Path, pixels: np.ndarray, syntax: UID) -> None:
    """A DICOM file; of 16 bits with the rescaling and the window that hospitals' files have."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = generate_uid()
    dataset.set_pixel_data(pixels, "MONOCHROME2", 8 if pixels.itemsize == 1 else DEEP)
    if pixels.itemsize == 2:
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
        dataset.WindowCenter, dataset.WindowWidth = 2048, 3500
    if syntax == RLELossless:
        dataset.compress(syntax)
    elif syntax in PILLOW:
        form, options = PILLOW[syntax]
        Image.fromarray(pixels).save(coded := io.BytesIO(), form, **options)
        dataset.PixelData = encapsulate([coded.getvalue()])
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path, enforce_file_format=True)


def write_files(folder: Path, side: int) -> dict[str, Path]:
    """One drawn radiograph of `side` pixels in every format: {what it is: its file}."""
    folder.mkdir(exist_ok=True)
    grey = draw_phantom(0, size=side).image
    noise = np.random.default_rng(0).integers(0, 1 << DEEP - 8, grey.shape, np.uint16)
    deep = (grey.astype(np.uint16) << DEEP - 8) + noise
    colour = np.repeat(grey[..., None], 3, axis=2)
    pictures = {
        "PNG, 8 bits": (grey, "png"), "PNG, 16 bits": (deep, "png"), "PNG, RGB": (colour, "png"),
        "JPEG": (grey, "jpg"), "JPEG, RGB": (colour, "jpg"),
    }  # fmt: skip
    dicoms = {
        "DICOM, 8 bits": (grey, ExplicitVRLittleEndian),
        "DICOM, 16 bits": (deep, ExplicitVRLittleEndian),
        "DICOM JPEG": (grey, JPEGBaseline8Bit),
        "DICOM JPEG 2000, 8 bits": (grey, JPEG2000Lossless),
        "DICOM JPEG 2000, 16 bits": (deep, JPEG2000Lossless),
        "DICOM RLE, 8 bits": (grey, RLELossless),
        "DICOM RLE, 16 bits": (deep, RLELossless),
    }
    files = {}
    for name, (pixels, suffix) in pictures.items():
        files[name] = folder / f"{name}, {side}.{suffix}"
        Image.fromarray(pixels).save(files[name])
    for name, (pixels, syntax) in dicoms.items():
        files[name] = folder / f"{name}, {side}.dcm"
        _write_dicom(files[name], pixels, syntax)
    return files


def _watched(function, stage: str, spent: dict[str, float]):
    def watched(*arguments, **settings):
        start = time.perf_counter()
        try:
            return function(*arguments, **settings)
        finally:
            spent[stage] += time.perf_counter() - start

    return watched


def _stages(prepare, path: Path) -> dict[str, float]:
    """Milliseconds of each stage of one file; "grey" is what reading does besides decoding."""
    watched = ALL | (DICOM if path.suffix == ".dcm" else PICTURE)
    spent = dict.fromkeys(watched, 0.0)
    with ExitStack() as stack:
        for stage, (owner, name) in watched.items():
            function = _watched(getattr(owner, name), stage, spent)
            stack.enter_context(patch.object(owner, name, function))
        start = time.perf_counter()
        prepare(path)
        whole = time.perf_counter() - start
    stages = {
        "open": spent["open"],
        "decode": spent["decode"],
        "grey": spent["read"] - spent["open"] - spent["decode"],
        "square": spent["square"],
        "resize": spent["resize"],
        "normalise": whole - spent["read"] - spent["square"] - spent["resize"],
    }
    return {stage: 1000 * seconds for stage, seconds in stages.items()}


def stages(world: Path, side: int):
    files = write_files(world / "reading", side)
    prepare = processor.MedCLIPImageProcessor()

    def call():
        spent = {name: _stages(prepare, path) for name, path in files.items()}
        return {f"{name}|{stage}": ms for name, each in spent.items() for stage, ms in each.items()}

    return call
