"""Read weights files, whoever wrote them, and write safetensors.

Files are assumed hostile: none may run code, write outside its target, or ask for more than
MAX_BYTES of memory.
"""

from __future__ import annotations

import json
import pickle
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .download import is_local
from .files import whole_file
from .names import published_encoder, translate
from .records import check_record, read_record

WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")  # in a folder, the first that is there
MAX_BYTES = 2 * 10**9  # unpacked; the published weights have 0.55 GB
MAX_RATIO = 20  # of unpacked to packed size; weights shrink by a tenth or so


class Checkpoint(NamedTuple):
    """Weights as they were read.

    file: where they were. state_dict: tensors under this package's names, on the CPU.
    published: "vit" or "resnet" where they had the published names, else None.
    config: what `MedCLIPModel.save_pretrained` wrote next to them, else None.
    official: whether this package downloaded them from where MedCLIP's authors keep them.
    """

    file: Path
    state_dict: dict[str, Tensor]
    published: str | None = None
    config: dict | None = None
    official: bool = False


def read_checkpoint(source: str | Path) -> Checkpoint:
    """The checkpoint in a folder, a `.bin`, a `.safetensors` or a published `.zip`.

    Raises what `read_state_dict` raises, and ValueError for a `config.json` that is not JSON.
    """
    file = _checkpoint_file(Path(source).expanduser())
    found = read_state_dict(file)
    official = read_record(file).get("official") is True
    published = published_encoder(found)
    return Checkpoint(file, translate(found), published, _read_config(file), official)


def _read_config(weights: Path) -> dict | None:
    file = weights.with_name("config.json")
    try:
        config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    return config if isinstance(config, dict) and "vision" in config else None


def _checkpoint_file(source: Path) -> Path:
    """The weights file that `source` (a file or a folder) means."""
    if not source.exists():
        raise FileNotFoundError(f"no checkpoint at {source}: expected a folder or a weights file")
    if source.is_file():
        return source
    for name in WEIGHTS_FILES:
        if (source / name).is_file():
            return source / name
    found = ", ".join(sorted(p.name for p in source.iterdir())[:8]) or "nothing"
    raise FileNotFoundError(
        f"no checkpoint in {source}: expected model.safetensors or pytorch_model.bin, found {found}"
    )


def read_state_dict(source: str | Path) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, from a folder, a `.bin`, a `.safetensors` or a published `.zip`.

    Tensors of a `.safetensors` file are read from the disk where they are used (memory-mapped).

    Raises FileNotFoundError if there is none, ValueError if the file is not a checkpoint, or not
    the one whose SHA-256 was recorded when it was downloaded.
    """
    file = _checkpoint_file(Path(source).expanduser())
    check_record(file)
    if file.suffix == ".zip":
        with tempfile.TemporaryDirectory(prefix="medclip-") as folder:
            return read_state_dict(unpack_weights(file, Path(folder)))
    is_safetensors = file.suffix == ".safetensors"
    try:
        state_dict = _load_safetensors(file) if is_safetensors else _load_pickle(file)
    except pickle.UnpicklingError as error:
        # torch's message suggests running what is in it
        raise ValueError(
            f"{file} is not a PyTorch checkpoint of tensors only; nothing in it was run"
        ) from error
    except Exception as error:  # both raise many kinds for a broken file
        kind = "safetensors file" if is_safetensors else "PyTorch checkpoint"
        raise ValueError(f"{file} is not a {kind}: {error}") from error
    _check_tensors(state_dict, file)
    return dict(state_dict)


def _load_safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(file)


def _load_pickle(file: Path):
    # PyTorch writes zip files that do not compress, and reads those that do, however large.
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as zipped:
            if any(member.compress_type != zipfile.ZIP_STORED for member in zipped.infolist()):
                raise ValueError("its parts are compressed, which PyTorch never does")
    # weights_only: a pickle from elsewhere must not run code.
    return torch.load(file, map_location="cpu", weights_only=True)


def _check_tensors(state_dict, file: Path) -> None:
    if not isinstance(state_dict, Mapping) or not all(
        isinstance(name, str) and torch.is_tensor(tensor) for name, tensor in state_dict.items()
    ):
        raise ValueError(f"{file} holds no state dict: expected a mapping of names to tensors")
    for name, tensor in state_dict.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise ValueError(f"{file}: {name} is {tensor.type()}, expected an ordinary tensor")
    size = sum(tensor.numel() * tensor.element_size() for tensor in state_dict.values())
    if size > MAX_BYTES and file.suffix != ".safetensors":  # some by expanding a few bytes
        raise ValueError(f"{file} expands to {size:.2g} bytes, expected at most {MAX_BYTES:.2g}")


def unpack_weights(archive: Path, folder: Path) -> Path:
    """Copy `pytorch_model.bin` out of a published zip into `folder`, and nothing else.

    The member's own path is never used as a path, and a link is copied as the text that it is, so
    a malicious archive cannot write elsewhere. Raises ValueError if the archive is damaged, holds
    no such member or one over MAX_BYTES or MAX_RATIO; OSError if `folder` cannot be written.
    """
    target = folder / "pytorch_model.bin"
    try:
        with zipfile.ZipFile(archive) as zipped:
            member = _weights_member(zipped)
            with zipped.open(member) as source, open(target, "wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)  # reading checks the member's CRC
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive} is not an intact zip file: {error}") from error
    except Exception as error:  # zipfile and the decompressors raise many kinds
        if is_local(error):
            raise
        raise ValueError(f"{archive} cannot be unpacked: {error}") from error
    return target


def _weights_member(zipped: zipfile.ZipFile) -> zipfile.ZipInfo:
    members = [m for m in zipped.infolist() if Path(m.filename).name == "pytorch_model.bin"]
    if not members:
        inside = ", ".join(zipped.namelist()[:8]) or "nothing"
        raise ValueError(f"it holds no pytorch_model.bin, only {inside}")
    member = members[0]
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename} is neither stored nor deflated")
    if member.file_size > min(MAX_BYTES, MAX_RATIO * member.compress_size):
        raise ValueError(
            f"{member.filename} would grow from {member.compress_size} to {member.file_size} "
            f"bytes, expected at most {MAX_BYTES:.2g} and {MAX_RATIO} times its packed size"
        )
    return member


def write_safetensors(state_dict: Mapping[str, Tensor], path: str | Path) -> None:
    """Write tensors to `path` in one step. Raises OSError where there is no room."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # A checkpoint may hold views of one storage, which safetensors refuses: those are copied.
    tensors, storages = {}, set()
    for name, tensor in state_dict.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if storage in storages else tensor
        storages.add(storage)
    try:
        with whole_file(path) as part:
            save_file(tensors, part)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
