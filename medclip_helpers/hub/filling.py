"""Fill a module with the tensors of a checkpoint, strictly: one left over is an error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..constants import PUBLISHED_FORMAT_NOTE, PUBLISHED_NOTE, TRAINED_NOTE, UNTRAINED_NOTE
from .names import DROPPED
from .weights import Checkpoint, read_checkpoint

# What is no longer true of a model once it has other weights, or is trained.
REPLACED_NOTES = (UNTRAINED_NOTE, PUBLISHED_NOTE, PUBLISHED_FORMAT_NOTE)
Module = TypeVar("Module", bound=nn.Module)


def fill_weights(module: Module, source: Checkpoint | str | Path, assign: bool = False) -> Module:
    """Give `module` the tensors of a checkpoint, in place, and return it in eval mode.

    source: what `read_checkpoint` returns, or reads.
    assign: make the tensors the module's own instead of copying them; what it had may then lie on
        the meta device.

    `module.note` becomes what is known about the weights. Raises ValueError that lists every tensor
    missing, left over, of another shape or kind, or not finite; the module is then unchanged.
    """
    checkpoint = source if isinstance(source, Checkpoint) else read_checkpoint(source)
    expected = {n: t for n, t in module.state_dict().items() if not DROPPED.search(n)}
    if problems := _misfits(checkpoint.state_dict, expected):
        kind = f" It is a published {checkpoint.published!r} one." if checkpoint.published else ""
        raise ValueError(
            f"checkpoint {checkpoint.file} does not fit this {type(module).__name__}.{kind} "
            f"{len(problems)} tensors differ:\n  " + "\n  ".join(problems)
        )
    tensors = {n: tensor.to(expected[n].dtype) for n, tensor in checkpoint.state_dict.items()}
    # Compared above, and not by strict=True, which fills what fits before it complains.
    module.load_state_dict(tensors, strict=False, assign=assign)
    part: Any
    for part in module.modules():  # buffers that no checkpoint holds, left empty by accelerate
        if any(buffer.is_meta for buffer in part.buffers(recurse=False)):
            part.init_non_persistent_buffers()  # timm's
    note = (checkpoint.config or {}).get("note")
    if checkpoint.published:
        note = PUBLISHED_NOTE if checkpoint.official else PUBLISHED_FORMAT_NOTE
    if not note and getattr(module, "note", None) in REPLACED_NOTES:
        note = TRAINED_NOTE
    if note:
        module.note = note  # type: ignore[assignment]  # nn.Module takes any attribute
    return module.eval()


def _misfits(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Why the tensors found do not match those expected, one line each."""
    problems = [f"missing: {name}" for name in expected if name not in found]
    problems += [f"left over: {name}" for name in found if name not in expected]
    for name in found.keys() & expected.keys():
        shape, dtype = tuple(expected[name].shape), expected[name].dtype
        if found[name].shape != shape:
            problems.append(f"shape of {name}: {tuple(found[name].shape)}, expected {shape}")
        if found[name].is_floating_point() != dtype.is_floating_point:
            problems.append(f"type of {name}: {found[name].dtype}, expected {dtype}")
        elif dtype.is_floating_point and not _is_finite(found[name]):
            problems.append(f"values of {name}: not all are finite")
    return problems


def _is_finite(tensor: Tensor) -> bool:
    # A sum needs no memory; where it overflows, each value is checked.
    return bool(tensor.sum(dtype=torch.float32).isfinite()) or bool(tensor.isfinite().all())
