"""Which files of a folder or pattern are radiographs."""

from __future__ import annotations

from glob import glob, has_magic
from pathlib import Path

SUFFIXES = {".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".tif", ".tiff", ".bmp", ".webp", ".jp2"}


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


def is_dicom(file) -> bool:
    file.seek(0)
    head = file.read(132)
    file.seek(0)
    return head[128:] == b"DICM"


def _is_dicom_without_suffix(path: Path) -> bool:
    if path.suffix and not path.suffix[1:].isdigit():  # the end of a UID is no suffix
        return False
    with open(path, "rb") as file:
        return is_dicom(file)
