"""Where a downloaded file comes from and what it was, so that it is known again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


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


def write_record(file: Path, url: str, **more: str) -> Path:
    """Write down where `file` comes from and what it is."""
    record = {"url": url, "sha256": sha256(file), **more}
    record_of(file).write_text(json.dumps(record, indent=2) + "\n")
    return record_of(file)


def check_record(file: Path) -> None:
    """ValueError if `file` is not what was written down; fine if nothing was."""
    record = record_of(file)
    if not record.is_file():
        return
    try:
        expected = json.loads(record.read_text())["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{record} is damaged: delete it and {file} to download anew") from error
    found = sha256(file)
    if found != expected:
        raise ValueError(
            f"{file} is not what was downloaded: its SHA-256 is {found}, recorded is {expected}. "
            f"Delete {file.parent if file.suffix == '.safetensors' else file} to download it anew"
        )
