"""Mutated files: 50,000 damaged images and checkpoints give a result or a documented error."""

import faulthandler
import io
import os
import random
import re
import signal
import warnings
import zipfile
import zlib
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
)
from safetensors.torch import save
from test_radiographs import PYDICOM_FILES, encode, write_dicom

from medclip_helpers.hub import read_state_dict
from medclip_helpers.radiographs import read_radiograph

SECONDS = 10  # for one input of a few kilobytes: more is a hang
# For all mutants of one file. The alarm waits for the interpreter: it ends no loop in C.
SECONDS_IN_C = 60
MEGABYTES = 1500  # of growth: an honest image of 89 million pixels takes as much
EXTREMES = (b"\0", b"\x01", b"\x7f", b"\x80", b"\xff")


class Hang(BaseException):
    """Not an Exception, which what is tested might catch."""


def _hang(signum, frame):
    raise Hang(f"an input took over {SECONDS} seconds")


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Do a few things to a file that transfer, storage or malice might do."""
    data = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        # headers, at the front, are what most decisions hang on
        end = chance.choice((64, 512, len(data)))
        at = chance.randrange(max(1, min(end, len(data))))
        size = chance.choice((1, 2, 4, 8, 64))
        match chance.randrange(7):
            case 0:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                if at < len(data):
                    data[at] ^= 1 << chance.randrange(8)
            case 2:
                data[at : at + size] = chance.choice(EXTREMES) * size
            case 3:
                del data[at : at + size]
            case 4:
                data[at:at] = chance.randbytes(size)
            case 5:
                data[at:at] = data[at : at + size * 8]
            case 6 if chance.random() < 0.3:
                del data[at:]
    mended = data.startswith(b"\x89PNG") and chance.random() < 0.5
    return mend_png(bytes(data)) if mended else bytes(data)


def mend_png(data: bytes) -> bytes:
    """The same chunks with the right checksums, behind which decoders would not look otherwise."""
    mended, at = data[:8], 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        mended += data[at:end] + zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return mended


def memory(field: str) -> float | None:
    """Memory of this process in MB: "VmRSS" now, "VmHWM" the most since `forget_peak`."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []  # only Linux tells
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(field)), None)


def forget_peak() -> bool:
    """Without this an earlier peak hides later ones. Whether it is possible here."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return memory("VmHWM") is not None


@pytest.fixture
def fuzz(capfd):
    """Read `count` mutants of each sample: each is read or refused, and of each there are some.

    A refusal matches `refusal`.
    """
    with capfd.disabled():
        stderr = os.dup(2)  # what is written to the captured one is lost with the process

    def run(samples: dict[str, bytes], count: int, read, refusal: str) -> None:
        for name, data in samples.items():
            read(data)  # the sample itself is good
            measured, before = forget_peak(), memory("VmRSS")
            faulthandler.dump_traceback_later(SECONDS_IN_C, exit=True, file=stderr)
            outcomes = fuzz_one(name, data, count, read, refusal)
            faulthandler.cancel_dump_traceback_later()
            assert min(outcomes["read"], outcomes["refused"]) > count / 100, (name, outcomes)
            grown = memory("VmHWM") - before if measured else 0
            assert grown < MEGABYTES, f"{grown:.0f} MB for {name}, a file of a few kilobytes"

    old = signal.signal(signal.SIGALRM, _hang)
    yield run
    faulthandler.cancel_dump_traceback_later()
    signal.signal(signal.SIGALRM, old)
    os.close(stderr)


def fuzz_one(name: str, data: bytes, count: int, read, refusal: str) -> Counter:
    chance, outcomes = random.Random(f"0:{name}"), Counter()
    for number in range(count):
        mutant = mutate(data, chance)
        signal.alarm(SECONDS)
        try:
            read(mutant)
            outcomes["read"] += 1
        except BaseException as error:
            known = isinstance(error, (ValueError, FileNotFoundError))
            if not known or not re.search(refusal, str(error)):
                raise AssertionError(f"mutant {number} of {name}: {error!r}") from error
            outcomes["refused"] += 1
        finally:
            signal.alarm(0)
    return outcomes


IMAGE = r"^cannot read the image as a radiograph: ."


def picture(side: int = 24) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (side, side), np.uint8)
    return Image.fromarray(np.maximum(noise // 4, np.arange(side, dtype=np.uint8) * 9))


def read_image(data: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = read_radiograph(io.BytesIO(data))
    assert image.mode == "L" and min(image.size) >= 4


def test_png(fuzz):
    grey = picture()
    samples = {
        "grey": encode(grey, "PNG"),
        "16 bits": encode(Image.fromarray(np.asarray(grey).astype(np.uint16) * 99), "PNG"),
        "palette": encode(grey.convert("RGB").quantize(16), "PNG", transparency=3),
        "colour": encode(grey.convert("RGBA"), "PNG"),
    }
    fuzz(samples, 3000, read_image, IMAGE)


def test_jpeg(fuzz):
    grey, exif = picture(), Image.Exif()
    exif[274] = 6
    samples = {
        "grey": encode(grey, "JPEG"),
        "turned": encode(grey, "JPEG", exif=exif),
        "progressive": encode(grey.convert("RGB"), "JPEG", progressive=True),
        "CMYK": encode(grey.convert("CMYK"), "JPEG"),
    }
    fuzz(samples, 3000, read_image, IMAGE)


def test_other_pictures(fuzz):
    samples = {
        "TIFF": encode(picture(), "TIFF"),
        "packed TIFF": encode(picture(), "TIFF", compression="tiff_lzw"),
        "WebP": encode(picture(), "WEBP"),
        "BMP": encode(picture(), "BMP"),
    }
    fuzz(samples, 2000, read_image, IMAGE)


def test_dicom(fuzz, tmp_path):
    grey = np.asarray(picture())
    deep = grey.astype(np.uint16) * 16
    j2k = encode(Image.fromarray(deep), "JPEG2000", no_jp2=True)
    window = {"WindowCenter": 900, "WindowWidth": 800, "RescaleSlope": 2, "RescaleIntercept": -9}
    file = tmp_path / "a.dcm"
    samples = {
        "window": write_dicom(file, deep, **window).read_bytes(),
        "implicit": write_dicom(file, deep, syntax=ImplicitVRLittleEndian).read_bytes(),
        "deflated": write_dicom(file, deep, syntax=DeflatedExplicitVRLittleEndian).read_bytes(),
        "frames": write_dicom(file, np.stack([grey] * 2), NumberOfFrames=2).read_bytes(),
        "JPEG": write_dicom(
            file, grey, syntax=JPEGBaseline8Bit, encoded=encode(picture(), "JPEG")
        ).read_bytes(),
        "JPEG 2000": write_dicom(file, deep, syntax=JPEG2000Lossless, encoded=j2k).read_bytes(),
        "RLE": (PYDICOM_FILES / "MR_small_RLE.dcm").read_bytes(),
    }
    if find_spec("libjpeg"):  # the extra `dicom`
        samples["JPEG-LS"] = (PYDICOM_FILES / "MR_small_jpeg_ls_lossless.dcm").read_bytes()
    fuzz(samples, 1750, read_image, IMAGE)


def test_checkpoints(fuzz, tmp_path):
    tensors = {"a.weight": torch.arange(12.0).view(3, 4), "b": torch.ones(5).half()}
    new, old, archive = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save(tensors, new)
    torch.save(tensors, old, _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("weights/pytorch_model.bin", new.getvalue())
    for suffix, data in {
        ".safetensors": save(tensors),
        ".bin": new.getvalue(),
        ".old.bin": old.getvalue(),
        ".zip": archive.getvalue(),
    }.items():

        def read(mutant, file=tmp_path / f"a{suffix}"):
            file.write_bytes(mutant)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch: of unknown pickle protocols
                state_dict = read_state_dict(file)
            assert all(torch.is_tensor(tensor) for tensor in state_dict.values())
            file.unlink()

        fuzz({suffix: data}, 1000, read, rf"\ba{re.escape(suffix)}\b")
