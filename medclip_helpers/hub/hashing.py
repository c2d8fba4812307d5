"""A hash of what numbers depend on: tables, texts, pictures, settings, weights."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import nn


def fingerprint(*things: Any) -> str:
    """SHA-256 of values, as hexadecimal digits; equal values in equal order give equal digits.

    things: None, booleans, numbers, texts, paths, arrays and what NumPy takes for one (PIL images,
        tensors on the CPU), and mappings and sequences of these. A path counts by its name, not by
        the file's content. Anything else counts by what `repr` shows.
    """
    digest = hashlib.sha256()

    def add(thing: Any) -> None:
        if isinstance(thing, Mapping):
            digest.update(b"{")
            for key in thing:
                add(key)
                add(thing[key])
            digest.update(b"}")
        elif isinstance(thing, os.PathLike):
            add(os.fspath(thing))
        elif isinstance(thing, Sequence) and not isinstance(thing, (str, bytes)):
            digest.update(b"[")
            for item in thing:
                add(item)
            digest.update(b"]")
        elif hasattr(thing, "__array__") or hasattr(thing, "__array_interface__"):
            array = np.asarray(thing)
            if array.dtype.hasobject:  # its bytes would be addresses
                return add(array.tolist())
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        else:
            shown = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(thing))  # different in each process
            digest.update(f"{type(thing).__name__}:{shown};".encode())

    add(things)
    return digest.hexdigest()


def describe_weights(module: nn.Module) -> dict[str, Any]:
    """`parameters`, their number, and `sha256` of a module's weights.

    sha256: of names, types, shapes and values of its tensors, so that it does not depend on the
        file that they came from, nor on the device that they are on.
    """
    import torch  # here, because hashes of tables need none

    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        kind, shape = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)
        digest.update(f"{name} {kind} {shape}".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().tobytes())  # NumPy has no bfloat16
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return {"parameters": parameters, "sha256": digest.hexdigest()}
