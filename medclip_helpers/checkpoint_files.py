"""Read weights files, whoever wrote them, and give their tensors this package's names.

The published checkpoints name their tensors after transformers 4's Swin and torchvision's ResNet;
`translate` is the one place that turns those names into this package's. Files are taken for
hostile: none may run code, write beside its target, or ask for more than MAX_BYTES of memory.
"""

from __future__ import annotations

import pickle
import re
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from . import download

WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")  # in a folder, the first that is there
MAX_BYTES = 2 * 10**9  # unpacked; the published weights have 0.55 GB
MAX_RATIO = 20  # of unpacked to packed size; weights shrink by a tenth or so

# Buffers that follow from the architecture; some versions of transformers save them.
DROPPED = re.compile(r"\.(position_ids|relative_position_index)$")


# --- names ------------------------------------------------------------------------------------

# Published Swin names (transformers 4) -> timm names, applied in this order.
SWIN_RENAMES = [
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.layers\.(\d)\.", r"layers.\1."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.self\.relative_position_bias_table$", ".attn.relative_position_bias_table"),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
]


def _translate_swin(published: dict[str, Tensor]) -> dict[str, Tensor]:
    translated = {}
    for name, tensor in published.items():
        if match := re.match(r"(encoder\..*\.attention\.self\.)(query|key|value)\.(\w+)$", name):
            prefix, part, kind = match.groups()
            if part != "query":
                continue  # joined below, where query is met
            parts = [f"{prefix}{p}.{kind}" for p in ("query", "key", "value")]
            if any(p not in published for p in parts):
                continue  # reported as missing by the strict load
            name = f"{prefix}qkv.{kind}".replace("attention.self", "attn")
            tensor = torch.cat([published[p] for p in parts])
        for pattern, replacement in SWIN_RENAMES:
            name = re.sub(pattern, replacement, name)
        # A stage's downsampling closes the stage in transformers and opens the next one in timm.
        name = re.sub(
            r"^layers\.(\d)\.downsample\.",
            lambda m: f"layers.{int(m[1]) + 1}.downsample.",
            name,
        )
        translated[f"backbone.{name}"] = tensor
    return translated


def published_encoder(names) -> str | None:
    """Which encoder ("vit" or "resnet") the names of a published checkpoint mean, else None."""
    if any(name.startswith("vision_model.model.encoder.layers.") for name in names):
        return "vit"
    if any(name.startswith("vision_model.model.layer1.") for name in names):
        return "resnet"
    return None


def translate(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published parameter names -> this package's. Anything else passes through unchanged."""
    state_dict = {name: tensor for name, tensor in state_dict.items() if not DROPPED.search(name)}
    kind = published_encoder(state_dict)
    if kind is None:
        return state_dict
    prefix = "vision_model.model."
    vision = {n[len(prefix) :]: t for n, t in state_dict.items() if n.startswith(prefix)}
    rest = {n: t for n, t in state_dict.items() if not n.startswith(prefix)}
    if kind == "vit":
        vision = _translate_swin(vision)
    else:
        vision = {
            "projection_head.weight" if name == "fc.weight" else f"backbone.{name}": tensor
            for name, tensor in vision.items()
        }
    return rest | {f"vision_model.{name}": tensor for name, tensor in vision.items()}


# --- files ------------------------------------------------------------------------------------


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
    download.check_record(file)
    if file.suffix == ".zip":
        with tempfile.TemporaryDirectory(prefix="medclip-") as folder:
            return read_state_dict(unpack_weights(file, Path(folder)))
    is_safetensors = file.suffix == ".safetensors"
    try:
        state_dict = _load_safetensors(file) if is_safetensors else _load_pickle(file)
    except pickle.UnpicklingError as error:
        # torch's text proposes to run what is in it
        raise ValueError(
            f"{file} is not a PyTorch checkpoint of tensors alone; nothing in it was run"
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
            raise ValueError(f"{file}: {name} is no ordinary tensor but {tensor.type()}")
    size = sum(tensor.numel() * tensor.element_size() for tensor in state_dict.values())
    if size > MAX_BYTES:  # some by expanding a few bytes
        raise ValueError(f"{file} unfolds to {size:.2g} bytes, expected at most {MAX_BYTES:.2g}")


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
        if download.is_local(error):
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


def write_safetensors(state_dict: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors to `path`. Raises OSError where there is no room."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # A checkpoint may hold views of one storage, which safetensors refuses: those are copied.
    tensors, storages = {}, set()
    for name, tensor in state_dict.items():
        tensor = tensor.detach().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if storage in storages else tensor
        storages.add(storage)
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
