"""Where a downloaded file comes from and what it was, so that it is recognised."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from .files import write_text


def sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def record_of(file: Path) -> Path:
    """Where a downloaded file's address and SHA-256 are written down."""
    return file.with_name(f"{file.name}.source.json")


def _stamp(file: Path) -> list[int]:
    """Changes when the file is written to or replaced; cheap to compute."""
    status = file.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def write_record(file: Path, url: str, **more: object) -> Path:
    """Write down where `file` comes from and what it is."""
    record = {"url": url, "sha256": sha256(file), **more, "stamp": _stamp(file)}
    write_text(record_of(file), json.dumps(record, indent=2))
    return record_of(file)


def read_record(file: Path) -> dict:
    """What was written down about `file`, {} if nothing was; ValueError for a damaged record."""
    record = record_of(file)
    if not record.is_file():
        return {}
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        return {"sha256": content["sha256"], **content}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{record} is damaged: delete it and {file} to download again") from error


def check_record(file: Path, thorough: bool = False) -> None:
    """ValueError if `file` is not what was written down; fine if nothing was.

    thorough: hash it even where size, time and inode are unchanged.
    """
    record = read_record(file)
    if not record or (record.get("stamp") == _stamp(file) and not thorough):
        return
    found = sha256(file)
    if found != record["sha256"]:
        raise ValueError(
            f"{file} is not what was downloaded: its SHA-256 is {found}, expected "
            f"{record['sha256']}. Delete {file} and {record_of(file)} to download it again"
        )
    with suppress(OSError):  # a cache that cannot be written to is hashed each time
        write_text(record_of(file), json.dumps(record | {"stamp": _stamp(file)}, indent=2))
