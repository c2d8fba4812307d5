"""The one place that decides in which precision an encoder computes.

Half precision is torch's autocast: weights stay in float32, matrix products and convolutions
are computed in the smaller type, and nothing goes stale when weights change. What it costs is
measured by `tools/measure_precision.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch
from torch.backends import cudnn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..radiographs import warn_user

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_precision(precision: str = "auto", device: str | torch.device = "cpu") -> str:
    """One of PRECISIONS. "auto" is the fastest that `device` has in hardware and that pays off:
    bfloat16 on a CPU with AVX-512 BF16 or AMX and on a GPU from Ampere on, float16 on an older GPU,
    float32 elsewhere.

    What the device has to emulate is computed as requested, with a warning, because it is slower
    than float32. Raises ValueError for an unknown name.
    """
    if precision != "auto" and precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}, expected 'auto' or one of {[*PRECISIONS]}")
    kind = torch.device(device).type
    fast = _fast_types(kind)
    if precision == "auto":
        return fast[0]
    if kind in ("cpu", "cuda") and precision not in ("float32", *fast):
        warn_user(f"{precision} is emulated on this {kind.upper()} and slower than float32")
    return precision


def _fast_types(kind: str) -> tuple[str, ...]:
    """What a device of this kind has in hardware, the best first."""
    if kind == "cuda":
        # Without the argument, a T4 says yes, and computes bfloat16 slower than float32.
        ampere = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bfloat16", "float16") if ampere else ("float16",)
    if kind == "cpu":
        has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return ("bfloat16",) if has.get("avx512_bf16") or has.get("amx_bf16") else ("float32",)
    return ("float32",)  # nothing was measured elsewhere


@contextmanager
def reduced_precision(precision: str, device: str | torch.device) -> Iterator[None]:
    """Inside, modules on `device` compute in `precision`.

    precision: one of PRECISIONS, of `choose_precision`. "float32" leaves a caller's autocast be,
        and is float32 in convolutions too: left alone, cuDNN rounds what they multiply to ten bits
        (TF32) on a GPU from Ampere on, which moves a logit of the ResNet-50 by 4e-4.
    """
    kind = torch.device(device).type
    with ExitStack() as inside:
        if precision != "float32":
            inside.enter_context(attention_of_any_length())
            inside.enter_context(torch.autocast(kind, PRECISIONS[precision]))
        elif kind == "cuda":
            inside.callback(setattr, cudnn, "allow_tf32", cudnn.allow_tf32)
            cudnn.allow_tf32 = False
        yield


def attention_of_any_length() -> AbstractContextManager:
    """Inside, attention does not use cuDNN, which plans anew for each text length.

    In half precision cuDNN needs 50 ms instead of 6 for a forward pass of a new length, and 1 s
    instead of .13 for a pretraining step with batches of 100 (H200, torch 2.11).
    """
    return sdpa_kernel(
        [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    )
