"""Files that people and this package write: written atomically, read strictly."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """An empty file to write to, which takes the name `path` when the block ends without an error.

    The folder is created if missing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    try:
        part.touch()  # so that the system chooses its mode: safetensors lets nobody else read it
        mode = part.stat().st_mode
        yield part
        part.chmod(mode)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file in one step, with a line end at its end."""
    with whole_file(path) as part:
        part.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


@contextmanager
def locked_folder(folder: str | Path) -> Iterator[None]:
    """Inside, no other process that asks for the folder here has it.

    The folder is created if missing. Raises ValueError that says which process has it. On a
    file system without locks, such as some network drives, there is no protection.
    """
    from filelock import FileLock, Timeout

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / ".lock.holder"
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = holder.read_text(encoding="utf-8").strip() if holder.is_file() else "another process"
        raise ValueError(
            f"{folder} is in use by {who}: wait for it, or choose another folder"
        ) from None
    except (NotImplementedError, OSError):
        yield
        return
    try:
        since = datetime.now().isoformat(" ", "seconds")
        write_text(holder, f"process {os.getpid()} on {platform.node()}, since {since}")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


class _RepeatedKey(ValueError):
    """Told apart from the ValueErrors of the parsers."""


def read_settings(path: str | Path):
    """What a YAML file says, or a JSON file, by its extension.

    Raises ValueError naming the file where it is neither, or where a mapping has a key twice, of
    which the parsers alone would keep the last.
    """
    import yaml

    path = Path(path)

    def refuse_repeats(keys: list) -> None:
        for i, key in enumerate(keys):
            if key in keys[:i]:
                raise _RepeatedKey(f"{path} has {key!r} twice in one mapping")

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            refuse_repeats([key.value for key, _ in node.value])
            return super().construct_mapping(node, deep)

    def construct_object(pairs):
        refuse_repeats([key for key, _ in pairs])
        return dict(pairs)

    is_json = path.suffix.lower() == ".json"
    try:
        text = path.read_text(encoding="utf-8-sig")  # with or without Windows' byte order mark
        if is_json:
            return json.loads(text, object_pairs_hook=construct_object)
        return yaml.load(text, Loader)
    except (_RepeatedKey, FileNotFoundError):
        raise
    except Exception as error:  # YAML's values, such as dates, have errors of their own
        raise ValueError(f"{path} is not {'JSON' if is_json else 'YAML'}: {error}") from error
