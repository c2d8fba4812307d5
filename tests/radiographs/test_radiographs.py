"""Reading radiographs: formats, scaling, and what a reader is told about a bad file."""

import io
import struct
import threading
import time
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
import torch
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomFileLike
from pydicom.fileset import FileSet
from pydicom.filewriter import write_dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut, get_decoder, get_encoder
from pydicom.uid import (
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from medclip_helpers.processor import MedCLIPImageProcessor, MedCLIPProcessor, read_batches
from medclip_helpers.radiographs import dicom, find_radiographs, pixels, read_radiograph

PYDICOM_FILES = Path(pydicom.data.__file__).parent / "test_files"  # these ship with pydicom
RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def write_dicom(
    path,
    pixels: np.ndarray,
    photometric: str = "MONOCHROME2",
    syntax=ExplicitVRLittleEndian,
    encoded: bytes | list[bytes] | None = None,
    **attributes,
):
    """A DICOM file; `encoded` stands for the pixels, or each frame, where `syntax` compresses."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = 0
    for name, value in attributes.items():
        setattr(dataset, name, value)
    frames = [encoded] if isinstance(encoded, bytes) else encoded
    dataset.PixelData = encapsulate(frames) if frames else pixels.tobytes()
    if frames:
        dataset["PixelData"].VR = "OB"
    dataset.save_as(path, enforce_file_format=True)
    return path


def png(data: bytes, width: int, height: int, bits: int = 8, colour: int = 0) -> bytes:
    """A PNG file; `data` are its rows, each after its filter byte. Pillow writes fewer kinds."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def encode(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def no_unexpected_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)  # pydicom's, of a FileSet that is dropped
        yield


def same(image: Image.Image, expected: np.ndarray) -> bool:
    return image.mode == "L" and np.array_equal(np.asarray(image), expected)


def test_8_bit_values_are_kept(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    assert same(read_radiograph(tmp_path / "a.png"), RAMP)
    assert same(read_radiograph(str(tmp_path / "a.png")), RAMP)
    assert same(read_radiograph(RAMP), RAMP)
    assert same(read_radiograph(Image.fromarray(RAMP)), RAMP)
    assert same(read_radiograph(io.BytesIO((tmp_path / "a.png").read_bytes())), RAMP)


def test_what_is_read_is_no_view_of_its_source():
    array, picture = RAMP.copy(), Image.fromarray(RAMP)
    read = [read_radiograph(source) for source in (array, torch.from_numpy(array), picture)]
    array[:] = 7
    picture.paste(7, (0, 0, 16, 16))
    assert all(same(image, RAMP) for image in read)


def test_16_bit_png_is_scaled_by_its_range(tmp_path):
    Image.fromarray(RAMP.astype(np.uint16) * 100 + 7).save(tmp_path / "a.png")
    assert same(read_radiograph(tmp_path / "a.png"), RAMP)


@pytest.mark.parametrize(
    "dtype",
    ["int16", "int32", "int64", "uint16", "uint32", "uint64", "float16", "float32", "float64"]
    + [">i2", ">u4", ">f4", ">f8"],
)
def test_arrays_are_scaled_by_their_range(dtype):
    assert same(read_radiograph((RAMP.astype(np.int32) * 3 + 11).astype(dtype)), RAMP)


def test_arrays_of_narrow_types_are_scaled_too():
    assert same(read_radiograph((RAMP.astype(int) - 128).astype(np.int8)), RAMP)
    assert same(read_radiograph(RAMP > 100), np.where(RAMP > 100, 255, 0))
    assert same(read_radiograph(RAMP >= 0), np.full_like(RAMP, 255))


def test_a_constant_image_is_black():
    assert same(read_radiograph(np.full((4, 4), 1000, np.uint16)), np.zeros((4, 4), np.uint8))


def test_colour_and_transparency_become_grey():
    colour = np.repeat(RAMP[..., None], 3, axis=2)
    assert same(read_radiograph(colour), RAMP)
    clear = np.dstack([np.full_like(RAMP, 255)] * 3 + [np.zeros_like(RAMP)])  # white, invisible
    assert same(read_radiograph(clear), np.zeros_like(RAMP))


def test_dicom(tmp_path):
    pixels = RAMP.astype(np.uint16) * 16
    assert same(read_radiograph(write_dicom(tmp_path / "a.dcm", pixels)), RAMP)
    inverted = write_dicom(tmp_path / "b.dcm", pixels, "MONOCHROME1")
    assert same(read_radiograph(inverted), 255 - RAMP)


def test_dicom_display_window_is_applied(tmp_path):
    file = write_dicom(tmp_path / "a.dcm", RAMP.astype(np.uint16), WindowCenter=128, WindowWidth=2)
    values = np.asarray(read_radiograph(file))
    assert (values[RAMP < 127] == 0).all() and (values[RAMP > 128] == 255).all()


def test_dicom_is_known_by_its_content_not_its_name(tmp_path):
    file = write_dicom(tmp_path / "IM0001", RAMP.astype(np.uint16))
    assert same(read_radiograph(file), RAMP)
    assert find_radiographs(tmp_path) == [file]


def test_real_radiographs(shared):
    folder = shared / "xrays"
    for name, size in [
        ("nih-00000001_000.png", (512, 512)),
        ("covid-19-pneumonia-58-prior.jpg", (2373, 2373)),
        ("rsna-1517875201.850819.dcm", (1024, 1024)),
    ]:
        image = read_radiograph(folder / name)
        assert (image.mode, image.size) == ("L", size)
        assert np.asarray(image).std() > 20  # a picture, not a flat field
    assert len(find_radiographs(folder / "hannover")) == 40


def test_find(tmp_path):
    for name in ("b.PNG", "a.jpg", "notes.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "c.png").write_bytes(b"x")
    for name in ("IM0001", "1.2.840.113619.2.55.3", "scan.bak"):  # two names of exports, and none
        (tmp_path / name).write_bytes(bytes(128) + b"DICM")
    (tmp_path / "README").write_text("no DICOM")
    names = [p.name for p in find_radiographs(tmp_path)]
    assert names == ["1.2.840.113619.2.55.3", "IM0001", "a.jpg", "b.PNG"]
    assert find_radiographs(tmp_path / "a.jpg") == [tmp_path / "a.jpg"]
    assert find_radiographs(str(tmp_path / "**" / "*.png"))[-1].name == "c.png"


@pytest.mark.parametrize("source", ["missing.png", "*.dcm", "empty"])
def test_nothing_found_is_an_error_that_names_the_source(source, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=source.replace("*", r"\*")):
        find_radiographs(tmp_path / source)


# --- picture formats ----------------------------------------------------------------------------

DARK = RAMP // 2 + 20  # a ramp whose ends are not those of the scale: stretching would show


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP", "WEBP", "JPEG2000", "PPM"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_lossless_formats_keep_8_bit_values(form, mode):
    options = {"lossless": True} if form == "WEBP" else {}
    data = encode(Image.fromarray(DARK).convert(mode), form, **options)
    assert same(read_radiograph(io.BytesIO(data)), DARK)


@pytest.mark.parametrize("mode", ["P", "LA", "RGBA", "CMYK"])
def test_other_modes_become_the_same_grey(mode):
    form = "TIFF" if mode == "CMYK" else "PNG"
    picture = Image.fromarray(DARK)
    picture = picture.convert("RGB").convert(mode) if mode == "CMYK" else picture.convert(mode)
    assert same(read_radiograph(io.BytesIO(encode(picture, form))), DARK)


def test_one_bit_becomes_black_and_white():
    data = encode(Image.fromarray(RAMP > 100), "PNG")
    assert same(read_radiograph(io.BytesIO(data)), np.where(RAMP > 100, 255, 0))


def test_cmyk_jpeg_is_not_inverted():
    data = encode(Image.fromarray(DARK).convert("RGB").convert("CMYK"), "JPEG", quality=100)
    assert abs(np.asarray(read_radiograph(io.BytesIO(data)), int) - DARK).max() < 6


def test_transparent_palette_becomes_black():
    picture = Image.fromarray(np.zeros((8, 8), np.uint8)).convert("P")
    picture.putpalette([255, 255, 255] * 256)
    assert np.asarray(read_radiograph(picture)).min() == 255
    picture.info["transparency"] = 0
    assert np.asarray(read_radiograph(picture)).max() == 0


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_12_bits_in_a_16_bit_file_use_the_whole_range(form):
    data = encode(Image.fromarray(RAMP.astype(np.uint16) * 16 + 5), form)
    assert same(read_radiograph(io.BytesIO(data)), RAMP)


@pytest.mark.parametrize(("channels", "colour"), [(3, 2), (2, 4), (4, 6)])
def test_12_bits_in_16_bit_channels_are_not_read_as_black(channels, colour):
    def deep_png(factor):
        values = np.full((16, 16, channels), 65535, ">u2")
        values[..., : 3 if channels > 2 else 1] = RAMP[..., None].astype(">u2") * factor
        return png(b"".join(b"\0" + row.tobytes() for row in values), 16, 16, 16, colour)

    assert same(read_radiograph(io.BytesIO(deep_png(257))), RAMP)
    with pytest.raises(ValueError, match=r"nearly empty \(brightest 15 of 255\)"):
        read_radiograph(io.BytesIO(deep_png(16)))


def test_tiff_whose_zero_is_white_is_inverted_at_16_bits_too():
    for picture in (Image.fromarray(RAMP), Image.fromarray(RAMP.astype(np.uint16) * 257)):
        # Pillow inverts 8-bit values when it writes, and 16-bit values never
        data = encode(picture, "TIFF", tiffinfo={262: 0})
        expected = RAMP if picture.mode == "L" else 255 - RAMP
        assert same(read_radiograph(io.BytesIO(data)), expected), picture.mode


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # turned: to be rotated by 270 degrees
    Image.fromarray(RAMP).save(tmp_path / "a.png", exif=exif)
    turned = np.rot90(RAMP, -1)
    assert same(read_radiograph(tmp_path / "a.png"), turned)
    with Image.open(tmp_path / "a.png") as opened:  # and so where the caller opened it
        assert same(read_radiograph(opened), turned)


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda a: a),
        (2, np.fliplr),
        (3, lambda a: np.rot90(a, 2)),
        (4, np.flipud),
        (5, np.transpose),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).T),
        (8, np.rot90),
    ],
)
def test_every_exif_orientation_of_a_jpeg_is_applied(orientation, turn):
    blocks = np.arange(20, 20 + 12 * 18, 18, np.uint8).reshape(3, 4).repeat(8, 0).repeat(8, 1)
    exif = Image.Exif()
    exif[274] = orientation
    data = encode(Image.fromarray(blocks), "JPEG", quality=100, exif=exif)
    image, expected = read_radiograph(io.BytesIO(data)), turn(blocks)
    assert (image.mode, image.size) == ("L", expected.shape[::-1])
    assert abs(np.asarray(image, int) - expected).max() <= 6


def test_a_colour_photograph_is_read_with_a_warning(tmp_path):
    x, y = np.meshgrid(np.arange(64), np.arange(64))
    photo = np.stack([x * 4, y * 4, 255 - x * 2 - y * 2], axis=2).astype(np.uint8)
    Image.fromarray(photo).save(tmp_path / "holiday.jpg")
    for source in (tmp_path / "holiday.jpg", photo, torch.from_numpy(photo).permute(2, 0, 1)):
        with pytest.warns(UserWarning, match="colour picture, not a grey radiograph"):
            image = read_radiograph(source)
        assert (image.mode, image.size) == ("L", (64, 64))


def test_a_tint_and_coloured_marks_are_no_photograph():
    grey = np.asarray(Image.fromarray(RAMP).resize((128, 128)), float)[..., None]
    blue = (grey * [0.7, 0.85, 1]).astype(np.uint8)
    sepia = (grey * [1, 0.85, 0.6] + [0, 0, 20]).astype(np.uint8)
    marked = np.repeat(grey, 3, axis=2).astype(np.uint8)
    marked[4:20, 4:40] = [255, 0, 0]  # a red letter in the corner
    for picture in (blue, sepia, marked):
        read_radiograph(picture)  # the fixture turns a warning into an error


def test_no_real_radiograph_is_taken_for_a_photograph(shared):
    files = [f for f in (shared / "xrays").rglob("*") if f.suffix in (".png", ".jpg", ".dcm")]
    assert len(files) == 43
    for file in files:
        read_radiograph(file)


# --- arrays and tensors -------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 16), (1, 16, 16), (16, 16, 1), (1, 1, 16, 16)])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_one_channel_anywhere(shape, kind):
    assert same(read_radiograph(kind(DARK.reshape(shape))), DARK)
    assert same(read_radiograph(kind(DARK.reshape(shape).astype(np.float32) / 255)), DARK)


@pytest.mark.parametrize(
    ("grey", "opaque", "expected"),
    [
        (DARK, 255, DARK),
        (RAMP.astype(np.uint16) * 16, 65535, RAMP),  # 12 bits
        (RAMP.astype(np.float32) / 2, 1, RAMP),
        (RAMP.astype(np.int64), 255, RAMP),  # 8 bits in a wider type
        (RAMP.astype(np.int16) * 100 - 9, 32767, RAMP),
    ],
    ids=["uint8", "uint16", "float32", "int64", "int16"],
)
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_colour_channels_in_front_or_behind(channels, kind, grey, opaque, expected):
    stack = np.stack([grey] * 3 + [np.full_like(grey, opaque)] * (channels - 3))
    for array in (stack, stack[None], stack.transpose(1, 2, 0).copy()):
        assert same(read_radiograph(kind(array)), expected)


@pytest.mark.parametrize(
    ("dtype", "opaque"),
    [("uint8", 255), ("uint16", 65535), ("uint32", 2**32 - 1), ("float32", 1), ("float64", 255)],
)
def test_half_transparent_is_half_as_bright(dtype, opaque):
    array = np.dstack([RAMP * (opaque / 255)] * 3 + [np.full(RAMP.shape, opaque)]).astype(dtype)
    array[:8, :, 3] = opaque / 2
    expected = np.where(np.arange(16)[:, None] < 8, RAMP / 2, RAMP)
    assert abs(np.asarray(read_radiograph(array), int) - expected).max() <= 1
    array[..., 3] = 0
    assert same(read_radiograph(array), np.zeros_like(RAMP))


@pytest.mark.parametrize(
    "dtype",
    ["int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"]
    + ["float16", "bfloat16", "float32", "float64"],
)
def test_tensors_of_every_dtype(dtype):
    lowest = 100 if dtype.startswith("uint") else -100
    values = torch.arange(16).repeat(16, 1) * 8 + lowest  # exact even in bfloat16
    expected = (np.arange(16) * 17).astype(np.uint8)[None].repeat(16, 0)
    assert same(read_radiograph(values.to(getattr(torch, dtype))), expected)


def test_tensor_that_records_gradients_and_booleans():
    image = torch.from_numpy(DARK / 255).requires_grad_()
    assert same(read_radiograph(image), DARK)
    assert same(read_radiograph(torch.ones(8, 8, dtype=torch.bool)), np.full((8, 8), 255))


def test_an_array_is_one_image_for_the_processor():
    processor = MedCLIPImageProcessor(size=32)
    expected = processor(Image.fromarray(DARK))
    colour = np.repeat(DARK[..., None], 3, axis=2)
    for images in (DARK, colour, torch.from_numpy(colour).permute(2, 0, 1), colour[None]):
        assert processor(images).equal(expected)
    batch = torch.from_numpy(DARK).repeat(5, 1, 1, 1)
    assert processor(batch).equal(expected.repeat(5, 1, 1, 1))
    assert processor(io.BytesIO(encode(Image.fromarray(DARK), "PNG"))).equal(expected)


# --- DICOM --------------------------------------------------------------------------------------


def test_inverted_8_bit_dicom_keeps_its_values(tmp_path):
    file = write_dicom(tmp_path / "a.dcm", DARK, "MONOCHROME1")
    assert same(read_radiograph(file), 255 - DARK)


def test_dicom_rescale_comes_before_the_window(tmp_path):
    file = write_dicom(
        tmp_path / "a.dcm", RAMP.astype(np.uint16),
        RescaleSlope=2, RescaleIntercept=-100, WindowCenter=156, WindowWidth=2,
    )  # fmt: skip
    values = np.asarray(read_radiograph(file))
    assert (values[RAMP < 127] == 0).all() and (values[RAMP > 129] == 255).all()


WINDOW = {"WindowCenter": 128, "WindowWidth": 100}
# DICOM PS3.3 C.11.2.1.2.1, the linear function
WINDOWED = (((RAMP - 127.5) / 99 + 0.5).clip(0, 1) * 255).round().astype(np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_dicom_window_is_a_ramp_and_can_be_inverted(dtype, tmp_path):
    file = write_dicom(tmp_path / "a.dcm", RAMP.astype(dtype), **WINDOW)
    assert same(read_radiograph(file), WINDOWED)
    file = write_dicom(tmp_path / "b.dcm", RAMP.astype(dtype), "MONOCHROME1", **WINDOW)
    assert same(read_radiograph(file), 255 - WINDOWED)


def lookup_table(values: np.ndarray) -> Dataset:
    """Of stored values from 0, to 16 bits."""
    table = Dataset()
    table.LUTDescriptor = [len(values), 0, 16]
    table.LUTData = values.astype("<u2").tobytes()
    table["LUTData"].VR = "OW"
    return table


# Not even monotonous, and brightest where no pixel below is: that must not count.
JAGGED = lookup_table(np.where(np.arange(250) % 4, 65535, np.arange(250) * 7919 % 50_000))


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.int32])
@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"RescaleSlope": -0.37, "RescaleIntercept": 5.1},
        {"WindowCenter": 47.3, "WindowWidth": 70.7},
        {"WindowCenter": 47, "WindowWidth": 70, "VOILUTFunction": "SIGMOID"},
        {"VOILUTSequence": [JAGGED]},
        {"ModalityLUTSequence": [JAGGED], "PixelPaddingValue": 8},
    ],
    ids=lambda attributes: next(iter(attributes), "nothing"),
)
def test_dicom_transforms_are_those_of_all_pixels_together(
    attributes, dtype, photometric, tmp_path
):
    """What pydicom makes of the whole image in float64, scaled by the range of what is seen."""
    pixels = np.random.default_rng(0).integers(0, 31, (40, 30)).astype(dtype) * 4
    file = write_dicom(
        tmp_path / "a.dcm", pixels, photometric, **attributes,
        PixelRepresentation=int(np.issubdtype(dtype, np.signedinteger)),
    )  # fmt: skip
    dataset = pydicom.dcmread(file)
    shown = apply_voi_lut(apply_modality_lut(pixels, dataset), dataset)
    kept = shown.dtype == np.uint8
    values = shown.astype(np.float64)
    if photometric == "MONOCHROME1":
        values = (255 if kept else values.max()) - values
    image = pixels != attributes.get("PixelPaddingValue", -1)
    low, high = values[image].min(), values[image].max()
    values[~image] = low
    expected = values if kept else ((values - low) / (high - low) * 255).round()
    assert same(read_radiograph(file), expected)


def test_an_inverted_signed_dicom_whose_brightest_value_is_255(tmp_path):
    pixels = np.linspace(-32768, 255, 256).astype(np.int16).reshape(16, 16)
    file = write_dicom(tmp_path / "a.dcm", pixels, "MONOCHROME1", PixelRepresentation=1)
    assert abs(np.asarray(read_radiograph(file), int) - RAMP[::-1, ::-1]).max() <= 1


def test_a_deep_dicom_is_read_without_copies_in_floating_point(tmp_path):
    pixels = (np.arange(1 << 20) % 4096).astype(np.uint16).reshape(1024, 1024)
    settings = {"RescaleSlope": 1, "RescaleIntercept": 0, "WindowCenter": 2000, "WindowWidth": 999}
    file = write_dicom(tmp_path / "a.dcm", pixels, "MONOCHROME1", PixelPaddingValue=1, **settings)
    read_radiograph(file)
    tracemalloc.start()
    try:
        read_radiograph(file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * pixels.size  # bytes: one float64 a pixel


def test_the_first_of_two_dicom_windows_applies(tmp_path):
    windows = {"WindowCenter": [128, 40], "WindowWidth": [100, 20]}
    file = write_dicom(tmp_path / "a.dcm", RAMP.astype(np.uint16), **windows)
    assert same(read_radiograph(file), WINDOWED)


def test_dicom_of_12_bits_and_of_negative_values(tmp_path):
    bits = {"BitsStored": 12, "HighBit": 11}
    file = write_dicom(tmp_path / "a.dcm", RAMP.astype(np.uint16) * 16, **bits)
    assert same(read_radiograph(file), RAMP)
    signed = RAMP.astype(np.int16) * 16 - 2048
    for more in ({}, bits):
        file = write_dicom(tmp_path / "b.dcm", signed, PixelRepresentation=1, **more)
        assert same(read_radiograph(file), RAMP)
    window = {"WindowCenter": 0, "WindowWidth": 1600, "PixelRepresentation": 1}
    file = write_dicom(tmp_path / "c.dcm", signed, **window, **bits)
    expected = ((signed + 0.5) / 1599 + 0.5).clip(0, 1) * 255
    assert same(read_radiograph(file), expected.round().astype(np.uint8))


def test_a_negative_rescale_slope_turns_bright_into_dark(tmp_path):
    rescale = {"RescaleSlope": -2, "RescaleIntercept": 7}
    file = write_dicom(tmp_path / "a.dcm", RAMP.astype(np.uint16), **rescale)
    assert same(read_radiograph(file), 255 - RAMP)


def test_dicom_voi_lut_is_applied(tmp_path):
    table = lookup_table(65535 - np.arange(256) * 257)
    file = write_dicom(tmp_path / "a.dcm", RAMP.astype(np.uint16), VOILUTSequence=[table])
    assert same(read_radiograph(file), 255 - RAMP)


def test_dicom_attributes_that_an_anonymiser_blanked(tmp_path):
    blank = dict.fromkeys(
        ("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "NumberOfFrames"), ""
    )
    file = write_dicom(tmp_path / "a.dcm", RAMP.astype(np.uint16) * 16, **blank)
    assert same(read_radiograph(file), RAMP)


def test_jpeg_dicom(tmp_path):
    data = encode(Image.fromarray(DARK), "JPEG", quality=100)
    file = write_dicom(tmp_path / "a.dcm", DARK, syntax=JPEGBaseline8Bit, encoded=data)
    assert abs(np.asarray(read_radiograph(file), int) - DARK).max() <= 2


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGExtended12Bit])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_8_bit_jpeg_dicom_has_the_pixels_of_its_jpeg_whatever_is_installed(mode, syntax, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (20, 20), np.uint8)
    picture = Image.fromarray(noise).resize((150, 150)).convert(mode)
    jpeg = io.BytesIO(encode(picture, "JPEG", quality=80))
    colour = {} if mode == "L" else {"SamplesPerPixel": 3, "PlanarConfiguration": 0}
    kind = "MONOCHROME2" if mode == "L" else "YBR_FULL_422"
    file = tmp_path / "a.dcm"
    grey = np.asarray(picture.convert("L"))
    write_dicom(file, grey, kind, syntax=syntax, encoded=jpeg.getvalue(), **colour)
    assert same(read_radiograph(file), np.asarray(read_radiograph(jpeg)))
    if "pylibjpeg" in (plugins := get_decoder(syntax).available_plugins):
        others = pydicom.pixels.pixel_array(file, decoding_plugin="pylibjpeg")
        assert not np.array_equal(others.reshape(150, 150, -1)[..., 0], read_radiograph(jpeg))
    assert "pillow" in plugins


def test_jpeg_2000_dicom(tmp_path):
    pixels = RAMP.astype(np.uint16) * 257
    data = encode(Image.fromarray(pixels), "JPEG2000", no_jp2=True)
    file = write_dicom(tmp_path / "a.dcm", pixels, syntax=JPEG2000Lossless, encoded=data)
    assert same(read_radiograph(file), RAMP)


@pytest.mark.parametrize(
    ("packed", "plain"), [("MR_small_RLE", "MR_small"), ("MR_small_jp2klossless", "MR_small")]
)
def test_lossless_files_read_as_their_plain_originals(packed, plain):
    packed, plain = (read_radiograph(PYDICOM_FILES / f"{name}.dcm") for name in (packed, plain))
    assert same(packed, np.asarray(plain))


def test_lossless_jpeg_needs_the_extra_and_has_it():
    pytest.importorskip("libjpeg", reason="the extra `dicom` is not installed")
    packed = read_radiograph(PYDICOM_FILES / "MR_small_jpeg_ls_lossless.dcm")
    assert same(packed, np.asarray(read_radiograph(PYDICOM_FILES / "MR_small.dcm")))
    read_radiograph(PYDICOM_FILES / "JPGExtended.dcm")  # 12 bits
    with pytest.warns(UserWarning, match="colour picture"):
        packed = read_radiograph(PYDICOM_FILES / "SC_rgb_jpeg_gdcm.dcm")  # lossless JPEG, SV1
        assert same(packed, np.asarray(read_radiograph(PYDICOM_FILES / "SC_rgb_rle.dcm")))


@pytest.mark.parametrize("syntax", [JPEGLSLossless, RLELossless])
def test_a_missing_decoder_is_named_with_its_remedy(syntax, tmp_path, monkeypatch):
    from pydicom.pixels import get_decoder

    monkeypatch.setattr(type(get_decoder(syntax)), "is_available", False)
    file = write_dicom(tmp_path / "a.dcm", RAMP, syntax=syntax, encoded=b"\0\0")
    with pytest.raises(ValueError) as caught:
        read_radiograph(file)
    assert str(file) in str(caught.value) and syntax.name in str(caught.value)
    assert 'pip install "medclip-helpers[dicom]"' in str(caught.value)


def test_a_video_is_refused(tmp_path):
    file = write_dicom(tmp_path / "a.dcm", RAMP, syntax=MPEG4HP41, encoded=b"\0\0")
    with pytest.raises(ValueError, match=r"no decoder is known .* MPEG-4"):
        read_radiograph(file)


FORM = {  # of RAMP, for pydicom's encoder
    "rows": 16, "columns": 16, "samples_per_pixel": 1, "photometric_interpretation": "MONOCHROME2",
    "bits_allocated": 8, "bits_stored": 8, "pixel_representation": 0, "number_of_frames": 1,
}  # fmt: skip


def test_rle_whose_last_run_is_too_long_is_read_whatever_is_installed(tmp_path):
    """pylibjpeg-rle panics at it, which is no Exception."""
    rows = [bytes([15, *range(16 * i, 16 * i + 16)]) for i in range(15)]
    segment = b"".join([*rows, bytes([14, *range(240, 255), 0xFD, 255, 0])])  # 255 four times
    header = struct.pack("<16I", 2, 64, 64 + len(segment), *[0] * 13)
    deep = RAMP.astype(np.uint16) * 257
    encoded = header + segment * 2
    file = write_dicom(tmp_path / "a.dcm", deep, syntax=RLELossless, encoded=encoded)
    with pytest.warns(UserWarning, match="non-conformant padding"):
        assert same(read_radiograph(file), RAMP)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_multi_frame_dicom_gives_its_first_frame_with_a_warning(syntax, tmp_path):
    frames, encoded = np.stack([RAMP, 255 - RAMP]), None
    if syntax == JPEG2000Lossless:
        encoded = [encode(Image.fromarray(f), "JPEG2000", no_jp2=True) for f in frames]
    elif syntax == RLELossless:
        encoded = [get_encoder(syntax).encode(f, **FORM) for f in frames]
    file = write_dicom(tmp_path / "a.dcm", frames, syntax=syntax, encoded=encoded, NumberOfFrames=2)
    with pytest.warns(UserWarning, match="a.dcm holds 2 frames: only the first is read"):
        assert same(read_radiograph(file), RAMP)


def test_colour_dicom(tmp_path):
    colour = np.repeat(DARK[..., None], 3, axis=2)
    file = tmp_path / "a.dcm"
    write_dicom(file, colour, "RGB", SamplesPerPixel=3, PlanarConfiguration=0, Rows=16, Columns=16)
    assert same(read_radiograph(file), DARK)
    with pytest.warns(UserWarning, match="colour picture"):
        read_radiograph(PYDICOM_FILES / "SC_rgb_rle.dcm")


# --- what is refused ----------------------------------------------------------------------------


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing.png"):
        read_radiograph(tmp_path / "missing.png")
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(ValueError, match="text.png as a radiograph: not a PNG, JPEG, TIFF"):
        read_radiograph(tmp_path / "text.png")
    Image.fromarray(RAMP).resize((300, 300)).save(tmp_path / "cut.png")
    data = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="cannot read .*cut.png as a radiograph"):
        read_radiograph(tmp_path / "cut.png")


def test_a_cut_dicom_is_named(tmp_path):
    file = write_dicom(tmp_path / "a.dcm", RAMP.astype(np.uint16))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cannot read .*a.dcm as a radiograph"):
        read_radiograph(file)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9500, 60_000])  # Pillow only warns of the first
def test_decompression_bombs(side, tmp_path):
    (tmp_path / "bomb.png").write_bytes(png(b"\0" * 1000, side, side))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(ValueError, match=r"bomb.png as a radiograph: .* pixels"):
            read_radiograph(tmp_path / "bomb.png")


def test_dicom_bombs(tmp_path):
    huge = write_dicom(
        tmp_path / "a.dcm", RAMP, syntax=RLELossless, encoded=b"\0\0", Rows=65535, Columns=65535
    )
    with pytest.raises(ValueError, match="65535 x 65535 pixels, expected at most 89 million"):
        read_radiograph(huge)
    data = write_dicom(tmp_path / "b.dcm", RAMP, syntax=DeflatedExplicitVRLittleEndian)
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(400)) + packer.flush()
    whole = data.read_bytes()
    end = 144 + struct.unpack("<I", whole[140:144])[0]  # of the file meta information
    data.write_bytes(whole[:end] + bomb)
    with pytest.raises(ValueError, match="deflated data of more than 358 MB"):
        read_radiograph(data)


@pytest.mark.parametrize(
    ("syntax", "form", "header", "place"),
    [(JPEGBaseline8Bit, "JPEG", b"\xff\xc0", 5), (JPEG2000Lossless, "JPEG2000", b"\xff\x51", 6)],
)
def test_a_frame_that_claims_another_size_than_its_dicom_file(
    syntax, form, header, place, tmp_path
):
    frame = bytearray(
        encode(Image.fromarray(RAMP), form, **({"no_jp2": True} if place == 6 else {}))
    )
    frame[frame.index(header) + place : frame.index(header) + place + 2] = b"\x75\x30"
    frames = [bytes(frame), encode(Image.fromarray(RAMP), form)]
    for encoded in (frames[:1], frames):
        file = write_dicom(
            tmp_path / "a.dcm", RAMP, syntax=syntax, encoded=encoded, NumberOfFrames=len(encoded)
        )
        with pytest.raises(ValueError, match=r"\(16, 16\) columns and rows, but its frame is code"):
            read_radiograph(file)
    headless = write_dicom(tmp_path / "b.dcm", RAMP, syntax=syntax, encoded=bytes(64))
    with pytest.raises(ValueError, match="compressed frame has no header that gives its size"):
        read_radiograph(headless)


def test_a_deflated_dicom_is_read():
    assert read_radiograph(PYDICOM_FILES / "image_dfl.dcm").size == (512, 512)


def dicom_without_pixels(element: bool) -> bytes:
    """A DICOM file that has lost its pixels; `element`: what held them is still there, empty."""
    dataset, buffer = pydicom.dcmread(PYDICOM_FILES / "MR_small.dcm"), io.BytesIO()
    dataset.PixelData = b""
    if not element:
        del dataset.PixelData
    dataset.save_as(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("empty.png", b"", "the file is empty"),
        ("empty.dcm", b"", "the file is empty"),
        ("page.jpg", b"<html><body>not found</body></html>", "not a PNG"),
        ("drawing.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a PNG"),
        ("report.dcm", (PYDICOM_FILES / "reportsi.dcm").read_bytes(), r"no image \(modality SR\)"),
        ("bare.dcm", dicom_without_pixels(element=False), r"no image \(modality MR\)"),
        ("hollow.dcm", dicom_without_pixels(element=True), r"no image \(modality MR\)"),
        ("one.png", encode(Image.new("L", (1, 1)), "PNG"), "1 x 1 pixels, expected 4 or more"),
        ("line.png", encode(Image.new("L", (900, 4)), "PNG"), "900 x 4 pixels is a strip"),
    ],
    ids=lambda part: part if isinstance(part, str) else f"{len(part)} bytes",
)
def test_what_is_no_radiograph(name, content, expected, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"cannot read .*{name} as a radiograph: .*{expected}"):
        read_radiograph(tmp_path / name)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "JPEG2000"])
def test_truncated_files(form, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200), np.uint8)
    data = encode(Image.fromarray(noise), form)
    for share in (0.05, 0.5, 0.9):
        (tmp_path / "cut.img").write_bytes(data[: int(len(data) * share)])
        with pytest.raises(ValueError, match="cannot read .*cut.img as a radiograph"):
            read_radiograph(tmp_path / "cut.img")


def test_an_opened_picture_that_turns_out_truncated_is_named(tmp_path):
    data = encode(Image.fromarray(RAMP).resize((300, 300)), "PNG")
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    with (
        Image.open(tmp_path / "cut.png") as opened,
        pytest.raises(ValueError, match="cannot read .*cut.png as a radiograph"),
    ):
        read_radiograph(opened)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (np.zeros((2, 7, 7), np.uint8), r"shape \(2, 7, 7\)"),
        (torch.zeros(5, 3, 8, 8), r"shape \(5, 3, 8, 8\)"),
        (np.zeros((0, 4)), "4 x 0 pixels"),
        (np.zeros((8, 8), complex), "complex128"),
        (np.full((8, 8), None), "object"),
        (np.array([[0.0, np.nan] * 4] * 8), "NaN"),
        (torch.full((8, 8), torch.inf), "infinite"),
        (np.array([[1e308, -1e308] * 4] * 8), "too large"),
        ([[0, 1]], "got list"),
        (None, "got NoneType"),
    ],
)
def test_what_is_no_image(source, expected):
    with pytest.raises(ValueError, match=expected):
        read_radiograph(source)


@pytest.mark.parametrize("source", ["", "~nobody-of-this-name/a.png", "a\0b.png"])
def test_odd_paths_are_missing_files(source):
    with pytest.raises(FileNotFoundError, match="no image file at"):
        read_radiograph(source)


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path.name} is a folder: `find_radiographs"):
        read_radiograph(tmp_path)


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("padding", [{"PixelPaddingValue": 60000}, {"PixelPaddingValue": 0}])
def test_padding_is_black_and_spoils_no_grey(photometric, padding, tmp_path):
    inner = np.linspace(1000, 2000, 16 * 16).round().astype(np.uint16).reshape(16, 16)
    framed = np.full((24, 24), padding["PixelPaddingValue"], np.uint16)
    framed[4:-4, 4:-4] = inner
    write_dicom(tmp_path / "framed.dcm", framed, photometric, **padding)
    write_dicom(tmp_path / "alone.dcm", inner, photometric)
    read = np.array(read_radiograph(tmp_path / "framed.dcm"))
    assert (read[4:-4, 4:-4] == np.asarray(read_radiograph(tmp_path / "alone.dcm"))).all()
    assert read[4:-4, 4:-4].min() == 0 and read.max() == 255
    read[4:-4, 4:-4] = 0
    assert not read.any()


def test_a_range_of_padding(tmp_path):
    pixels = np.linspace(1000, 2000, 16 * 16).round().astype(np.uint16).reshape(16, 16)
    framed = np.pad(pixels, 4, constant_values=50000)
    framed[:4] = 50010
    limits = {"PixelPaddingValue": 50000, "PixelPaddingRangeLimit": 50010}
    write_dicom(tmp_path / "framed.dcm", framed, **limits)
    read = np.asarray(read_radiograph(tmp_path / "framed.dcm"))
    assert read[4:-4, 4:-4].max() == 255 and not read[:4].any() and not read[:, :4].any()


def test_padding_that_is_all_of_the_image_is_an_image(tmp_path):
    write_dicom(tmp_path / "a.dcm", np.full((16, 16), 7, np.uint16), PixelPaddingValue=7)
    assert read_radiograph(tmp_path / "a.dcm").size == (16, 16)


def test_rescaled_dicom_values_from_0_to_1_are_stretched_like_any_others(tmp_path):
    pixels = np.linspace(0, 500, 16 * 16).round().astype(np.uint16).reshape(16, 16)
    write_dicom(tmp_path / "a.dcm", pixels, RescaleSlope=0.001, RescaleIntercept=0)
    read = np.asarray(read_radiograph(tmp_path / "a.dcm"))
    assert (read.min(), read.max()) == (0, 255)
    assert np.asarray(read_radiograph(pixels * 0.001)).max() == 128  # of an array, 1 is white


@pytest.mark.parametrize("kind", ["tif", "gif", "png"])
def test_of_several_pages_the_first_is_read_with_a_warning(kind, tmp_path):
    pages = [Image.new("L", (32, 32), value) for value in (10, 200, 90)]
    pages[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=pages[1:])
    with pytest.warns(UserWarning, match=f"a.{kind} holds 3 pages: only the first is read"):
        assert read_radiograph(tmp_path / f"a.{kind}").getpixel((0, 0)) == 10


def test_scaling_by_parts_is_scaling_of_the_whole():
    values = np.random.default_rng(0).integers(0, 65536, (700, 90), np.uint16)
    low, high = float(values.min()), float(values.max())
    whole = ((values.astype(np.float64) - low) / (high - low) * 255).round().astype(np.uint8)
    assert (np.asarray(read_radiograph(values)) == whole).all()


@pytest.mark.parametrize("with_meta", [True, False])
@pytest.mark.parametrize("implicit", [True, False])
def test_dicom_without_a_preamble(with_meta, implicit, tmp_path):
    syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    write_dicom(
        tmp_path / "whole.dcm", DARK, syntax=syntax, SOPClassUID=SecondaryCaptureImageStorage
    )
    dataset = pydicom.dcmread(tmp_path / "whole.dcm")
    bare = tmp_path / "IM0001"
    if with_meta:
        bare.write_bytes((tmp_path / "whole.dcm").read_bytes()[132:])
    else:
        with open(bare, "wb") as file:
            buffer = DicomFileLike(file)
            buffer.is_implicit_VR, buffer.is_little_endian = implicit, True
            write_dataset(buffer, dataset)
    assert same(read_radiograph(bare), read_radiograph(tmp_path / "whole.dcm"))
    assert bare in find_radiographs(tmp_path)


def test_a_dicom_cd_gives_the_images_that_it_lists(tmp_path):
    images = FileSet()
    for number in range(3):
        write_dicom(
            tmp_path / f"{number}.dcm", DARK, PatientID="p", PatientName="p", StudyDate="20200101",
            StudyTime="120000", StudyID="1", StudyInstanceUID=f"1.2.{number}", Modality="DX",
            SeriesInstanceUID=f"1.3.{number}", SeriesNumber=1, InstanceNumber=number,
            SOPInstanceUID=f"1.4.{number}", SOPClassUID=DigitalXRayImageStorageForPresentation,
        )  # fmt: skip
        images.add(tmp_path / f"{number}.dcm")
    images.write(tmp_path / "cd")
    for source in (tmp_path / "cd", tmp_path / "cd" / "DICOMDIR"):
        found = find_radiographs(source)
        assert len(found) == 3 and all(same(read_radiograph(path), DARK) for path in found)
    found[0].unlink()
    with pytest.warns(UserWarning, match="1 of 3 images of .*DICOMDIR are missing") as caught:
        assert len(find_radiographs(tmp_path / "cd")) == 2
    assert caught[0].filename == __file__
    (tmp_path / "cd" / "DICOMDIR").write_bytes(b"not one")
    with pytest.raises(ValueError, match="cannot read .*DICOMDIR as a DICOMDIR"):
        find_radiographs(tmp_path / "cd")


@pytest.mark.parametrize(("side", "at_once"), [(64, 1), (63, 4)])
@pytest.mark.parametrize("kind", ["png", "dcm", "RLE"])
def test_large_pictures_are_decoded_and_made_smaller_one_at_a_time(
    side, at_once, kind, tmp_path, monkeypatch
):
    monkeypatch.setattr(pixels, "LARGE", 64 * 64 - 1)
    file = tmp_path / "a"
    grey = np.tile(RAMP, (4, 4))[:side, :side].copy()
    if kind == "png":
        Image.fromarray(grey).save(file, "PNG")
    elif kind == "dcm":
        write_dicom(file, grey)
    else:
        form = FORM | {"rows": side, "columns": side}
        encoded = get_encoder(RLELossless).encode(grey, **form)
        write_dicom(file, grey, syntax=RLELossless, encoded=encoded)
    counting, here, counts, released = threading.Lock(), [], [], []
    release = pixels._release_freed_memory
    monkeypatch.setattr(pixels, "_release_freed_memory", lambda: released.append(release()))
    together = threading.Barrier(at_once)

    def decoding(decode):
        def decode_and_count(*arguments, **settings):
            with counting:
                here.append(None)
                counts.append(len(here))
            return decode(*arguments, **settings)

        return decode_and_count

    def processor(images):
        together.wait(20)  # an error unless so many are there at once
        time.sleep(0.01)  # in which another would come, if it could
        with counting:
            here.pop()
        return {}

    decoders = {"png": (pixels.ImageOps, "exif_transpose")}
    module, name = decoders.get(kind, (dicom, "pixel_array"))
    monkeypatch.setattr(module, name, decoding(getattr(module, name)))
    for batch in read_batches(processor, [file] * 8, torch.device("cpu"), 8):
        for _, inputs in batch:
            inputs.result()
    assert len(counts) == 8
    assert max(counts) == 1 if at_once == 1 else max(counts) >= at_once
    assert len(released) == (8 if at_once == 1 else 0)


def test_a_large_file_waits_before_it_is_read_into_memory(tmp_path, monkeypatch):
    """Its size in pixels is not known before, so that its bytes must do."""
    monkeypatch.setattr(pixels, "LARGE", 200)
    file, waited = write_dicom(tmp_path / "a.dcm", RAMP.astype(np.uint16)), []
    read, wait = pydicom.dcmread, pixels.Reading.wait_if_large
    monkeypatch.setattr(pixels.Reading, "wait_if_large", lambda *of: waited.append(of) or wait(*of))
    monkeypatch.setattr(
        pydicom, "dcmread", lambda *of, **how: waited.append(None) or read(*of, **how)
    )
    read_radiograph(file)
    assert waited[0][1] == file.stat().st_size // 2 and waited[1] is None and waited[2][1] == 256


def test_a_picture_is_blank_where_all_of_its_pixels_are_one_brightness():
    blank = np.full((150, 100), 7, np.uint8)
    spot = blank.copy()
    spot[75, 61] = 8  # one that no sample of few pixels need hold
    assert len(set(Image.fromarray(spot).resize((64, 64), 0).getextrema())) == 1
    for batch in read_batches(MedCLIPProcessor(), [blank, spot, RAMP], torch.device("cpu")):
        assert [inputs.result()["blank"] for _, inputs in batch] == [True, False, False]
