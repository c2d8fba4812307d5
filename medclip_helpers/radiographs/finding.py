"""Which files of a folder or pattern are radiographs."""

from __future__ import annotations

from glob import glob, has_magic
from pathlib import Path

from .telling import warn_user

SUFFIXES = {".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".tif", ".tiff", ".bmp", ".webp", ".jp2"}


def find_radiographs(source: str | Path) -> list[Path]:
    """The image files that a file, a folder (not its subfolders) or a glob pattern means, sorted.

    In a folder these are the files with an image suffix, and the DICOM files without one: exports
    often name them "IM0001" or by their UID, "1.2.840.1". Of a DICOM CD, a folder with a DICOMDIR,
    they are the images that the DICOMDIR lists, in any subfolder.

    Raises FileNotFoundError where there are none, ValueError for a DICOMDIR that cannot be read.
    """
    path = Path(source).expanduser()
    directory = path / "DICOMDIR" if path.is_dir() else path
    if directory.name == "DICOMDIR" and directory.is_file():
        found = _listed(directory)
    elif path.is_dir():
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


def _listed(directory: Path) -> list[Path]:
    """The images that a DICOMDIR lists and that are there, below its folder."""
    import pydicom

    try:
        records = pydicom.dcmread(directory).DirectoryRecordSequence
        names = [r.ReferencedFileID for r in records if r.DirectoryRecordType == "IMAGE"]
    except Exception as error:  # pydicom raises many kinds for a damaged file
        raise ValueError(f"cannot read {directory} as a DICOMDIR: {error!r}") from error
    folder = directory.parent
    paths = [folder.joinpath(*([name] if isinstance(name, str) else name)) for name in names]
    there = [p for p in paths if p.is_file() and p.resolve().is_relative_to(folder.resolve())]
    if len(there) < len(paths):
        lost = len(paths) - len(there)
        warn_user(f"{lost} of {len(paths)} images of {directory} are missing")
    return there


def is_dicom(file) -> bool:
    """Whether an open file begins as DICOM does, with a preamble or, like older files, without."""
    file.seek(0)
    head = file.read(132)
    file.seek(0)
    return head[128:] == b"DICM" or has_no_preamble(head)


def has_no_preamble(head: bytes) -> bool:
    """Whether a file begins with its first element: of group 2, or of group 8 and short."""
    group, element = head[:2], int.from_bytes(head[2:4], "little")
    named = head[4:6].isalpha() and head[4:6].isupper()  # explicit: a value representation
    short = 0 < int.from_bytes(head[4:8], "little") < 256  # implicit: a length
    return group in (b"\x02\x00", b"\x08\x00") and element <= 0x18 and (named or short)


def _is_dicom_without_suffix(path: Path) -> bool:
    if path.suffix and not path.suffix[1:].isdigit():  # the end of a UID is not a suffix
        return False
    with open(path, "rb") as file:
        return is_dicom(file)
