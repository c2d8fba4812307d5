"""Read DICOM files through pydicom, as a viewer shows them; `pixels` makes images of that."""

from __future__ import annotations

import math
import struct
import zlib
from functools import partial

import numpy as np
import pydicom
from PIL import Image
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset
from pydicom.pixels import (
    apply_color_lut,
    apply_modality_lut,
    apply_voi_lut,
    get_decoder,
    pixel_array,
)
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    RLELossless,
)

from .finding import has_no_preamble
from .pixels import Reading, by_value, check_size

# Many anonymisers leave these blank, which pydicom cannot apply; without them its defaults hold.
BLANKABLE = (
    "NumberOfFrames", "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth"
)  # fmt: skip
# What changes the greys of stored values, besides MONOCHROME1.
TRANSFORMS = (
    "ModalityLUTSequence", "RescaleSlope", "VOILUTSequence", "WindowCenter", "PixelPaddingValue"
)  # fmt: skip
# Markers that begin a JPEG frame header, and JPEG-LS's.
JPEG_FRAME_HEADERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC} | {0xF7}


def read_dicom(file, reading: Reading) -> np.ndarray:
    """The first frame of an open file as a viewer shows it: (height, width), or with 3 channels.

    Its 8-bit values are shown as they are, any others scaled by their range.

    Raises ValueError, or whatever pydicom and its decoders raise for a damaged file.
    """
    bare = has_no_preamble(file.read(132))
    reading.wait_if_large(file.seek(0, 2) // 2)  # bytes, of which 16-bit pixels take two
    _refuse_inflation(file, 0 if bare else 132)
    dataset = pydicom.dcmread(file, force=bare)
    if bare and "TransferSyntaxUID" not in dataset.file_meta:
        implicit, _ = dataset.original_encoding
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = syntax
    for tag in BLANKABLE:
        if tag in dataset and dataset[tag].is_empty:
            del dataset[tag]
    _check_pixels(dataset, reading)
    frames = int(dataset.get("NumberOfFrames", 1))
    if frames > 1:
        reading.notes.append(f"holds {frames} frames: only the first is read")
    # libjpeg, which pydicom prefers where it is installed, differs from it by a grey level or two.
    jpeg = dataset.file_meta.TransferSyntaxUID in (JPEGBaseline8Bit, JPEGExtended12Bit)
    plugin = "pillow" if jpeg and dataset.BitsAllocated == 8 else ""
    try:
        stored = pixel_array(dataset, index=0, view_only=True, decoding_plugin=plugin)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # pylibjpeg-rle's, from Rust, is no Exception
            raise
        stored = pixel_array(dataset, index=0, view_only=True, decoding_plugin="pydicom")
    meaning = dataset.get("PhotometricInterpretation")
    if meaning == "PALETTE COLOR":
        return apply_color_lut(stored, dataset)
    if stored.ndim != 2:
        return stored
    changed = any(tag in dataset for tag in TRANSFORMS)
    inverted = meaning == "MONOCHROME1" and stored.dtype != np.uint8
    # Pixel by pixel, in float64, it takes longer than all else where the file is not compressed.
    if (changed or inverted) and stored.dtype.itemsize <= 2:
        return by_value(partial(_shown, dataset), stored)
    return _shown(dataset, stored)


def _shown(dataset, stored: np.ndarray) -> np.ndarray:
    """What a viewer shows for stored values of any shape."""
    pixels = apply_voi_lut(apply_modality_lut(stored, dataset), dataset)
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        kept = pixels.dtype == np.uint8
        pixels = 255 - pixels if kept else pixels.max() - pixels.astype(np.float64)
    padding = _padding(dataset, stored)
    if padding.any() and not padding.all():
        pixels = np.where(padding, pixels[~padding].min(), pixels)
    return pixels


def _padding(dataset, stored: np.ndarray) -> np.ndarray:
    """Which stored values fill the frame around the image, and are not part of it.

    Source: DICOM PS3.3 C.7.5.1.1.2, Pixel Padding Value and Pixel Padding Range Limit.
    """
    first = dataset.get("PixelPaddingValue")
    if not isinstance(first, int):
        return np.zeros(stored.shape, bool)
    last = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((first, last if isinstance(last, int) else first))
    return (stored >= low) & (stored <= high)


def _check_pixels(dataset, reading: Reading) -> None:
    """Refuse what holds no image or a decompression bomb, or what no installed plugin decodes."""
    kinds = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
    if not any(dataset.get(kind) for kind in kinds):  # one without bytes holds none
        modality = dataset.get("Modality") or "unknown"
        raise ValueError(f"the DICOM file holds no image (modality {modality})")
    size = int(dataset.get("Columns") or 0), int(dataset.get("Rows") or 0)
    check_size(*size)
    reading.wait_if_large(math.prod(size))
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None or not syntax.is_compressed or syntax.is_deflated:
        return
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        raise ValueError(f"no decoder is known for its transfer syntax, {syntax.name}") from None
    if not available:
        raise ValueError(
            f"no decoder is installed for its transfer syntax, {syntax.name}: "
            'pip install "medclip-helpers[dicom]"'
        )
    if syntax != RLELossless:
        frames = int(dataset.get("NumberOfFrames", 1))
        coded = _coded_size(get_frame(dataset.PixelData, 0, number_of_frames=frames))
        if coded != size:
            raise ValueError(f"{size} columns and rows, but its frame is coded as {coded}")


def _coded_size(frame: bytes) -> tuple[int, int]:
    """(width, height) that a JPEG, JPEG-LS or JPEG 2000 stream claims; ValueError if it does not.

    Decoders believe it, and take gigabytes and minutes where it is wrong.
    Source: ITU-T T.81 B.2.2, T.87 C.2.2 and T.800 A.5.1.
    """
    siz = frame.find(b"\xff\x4f\xff\x51")
    if siz >= 0:  # the grid's far and near corner
        right, bottom, left, top = struct.unpack_from(">4I", frame, siz + 8)
        return right - left, bottom - top
    at = 2
    while at + 9 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker in JPEG_FRAME_HEADERS:
            height, width = struct.unpack_from(">2H", frame, at + 5)
            return width, height
        at += 1 if marker == 0xFF else 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    raise ValueError("its compressed frame has no header that gives its size")


def _refuse_inflation(file, start: int) -> None:
    """Stop a deflated DICOM file that would not fit in memory: pydicom inflates without bound."""
    file.seek(start)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        limit = 4 * (Image.MAX_IMAGE_PIXELS or 0)  # bytes: RGBA or 32 bits a pixel
        inflator = zlib.decompressobj(-zlib.MAX_WBITS)
        inflator.decompress(file.read(), limit)
        if limit and inflator.unconsumed_tail:
            raise ValueError(f"deflated data of more than {limit / 1e6:.0f} MB")
    file.seek(0)
