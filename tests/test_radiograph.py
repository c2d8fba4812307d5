"""Reading radiographs: formats, scaling, and what a reader is told about a bad file."""

import io

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from medclip_helpers.radiograph import find_radiographs, read_radiograph

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def write_dicom(path, pixels: np.ndarray, photometric: str = "MONOCHROME2", **attributes):
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
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
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path)
    return path


def same(image: Image.Image, expected: np.ndarray) -> bool:
    return image.mode == "L" and np.array_equal(np.asarray(image), expected)


def test_8_bit_values_are_kept(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    assert same(read_radiograph(tmp_path / "a.png"), RAMP)
    assert same(read_radiograph(str(tmp_path / "a.png")), RAMP)
    assert same(read_radiograph(RAMP), RAMP)
    assert same(read_radiograph(Image.fromarray(RAMP)), RAMP)
    assert same(read_radiograph(io.BytesIO((tmp_path / "a.png").read_bytes())), RAMP)


def test_16_bit_png_is_scaled_by_its_range(tmp_path):
    Image.fromarray(RAMP.astype(np.uint16) * 100 + 7).save(tmp_path / "a.png")
    assert same(read_radiograph(tmp_path / "a.png"), RAMP)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint16, np.int16])
def test_arrays_are_scaled_by_their_range(dtype):
    assert same(read_radiograph((RAMP.astype(np.int32) * 3 + 11).astype(dtype)), RAMP)


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
    names = [p.name for p in find_radiographs(tmp_path)]
    assert names == ["a.jpg", "b.PNG"]
    assert find_radiographs(tmp_path / "a.jpg") == [tmp_path / "a.jpg"]
    assert find_radiographs(str(tmp_path / "**" / "*.png"))[-1].name == "c.png"


@pytest.mark.parametrize("source", ["missing.png", "*.dcm", "empty"])
def test_nothing_found_is_an_error_that_names_the_source(source, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=source.replace("*", r"\*")):
        find_radiographs(tmp_path / source)


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing.png"):
        read_radiograph(tmp_path / "missing.png")
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(ValueError, match="text.png as a radiograph: not a PNG, JPEG or DICOM"):
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


def test_multi_frame_dicom_is_refused(tmp_path):
    frames = np.stack([RAMP, RAMP]).astype(np.uint16)
    file = write_dicom(tmp_path / "a.dcm", frames, NumberOfFrames=2)
    with pytest.raises(ValueError, match=r"expected one grey frame, got .*\(2, 16, 16\)"):
        read_radiograph(file)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.zeros((2, 2, 2), np.uint8), r"shape \(2, 2, 2\)"),
        (np.zeros((0, 4)), r"shape \(0, 4\)"),
        (np.array([[0.0, np.nan]]), "NaN"),
    ],
)
def test_bad_arrays(array, expected):
    with pytest.raises(ValueError, match=expected):
        read_radiograph(array)
