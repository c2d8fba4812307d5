"""Which library computes an encoder, and the exports that are kept for the next time."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import torch

from ..hub import fingerprint, whole_file
from ..radiographs import warn_user
from .compiled import HINTS, CompiledEncoder, import_openvino
from .export import Encoder, export_onnx, export_versions
from .precision import reduced_precision

logger = logging.getLogger(__name__)

ENGINES = ("torch", "openvino")
KEPT = 1  # to be raised when an encoder's `forward` or its export changes


def choose_engine(engine: str, device: str | torch.device, precision: str) -> str:
    """ "torch", "openvino", or "auto" where both can compute and must be measured (`is_faster`).

    OpenVINO computes on a CPU, in one of HINTS; where it is not installed, a warning says so and
    torch computes. Raises ValueError for another engine, device or precision.
    """
    if engine not in ("auto", *ENGINES):
        raise ValueError(f"engine is {engine!r}, expected 'auto' or one of {[*ENGINES]}")
    if engine == "torch":
        return engine
    if torch.device(device).type != "cpu" or precision not in HINTS:
        if engine == "auto":
            return "torch"
        raise ValueError(
            f"engine 'openvino' computes on 'cpu' in one of {[*HINTS]}, not on {str(device)!r} in "
            f"{precision}"
        )
    try:
        import_openvino()
    except ImportError as error:
        if engine == "openvino":
            warn_user(f"using torch instead of openvino: {error}")
        return "torch"
    return engine


def compile_encoder(
    encoder: Encoder, weights: str, precision: str, folder: str | Path
) -> CompiledEncoder:
    """The encoder as OpenVINO computes it, from its stored export or a new one.

    weights: what identifies them, e.g. their SHA-256. folder: where exports are kept, each under
    a hash of weights, configuration, shapes and versions. If it cannot be written to, there is
    a warning, and a new export the next time. Raises what `export_onnx` raises.
    """
    module, example, axes = encoder
    config = getattr(module, "config", None)
    shapes = {name: tensor.shape[len(axes) :] for name, tensor in example.items()}
    key = fingerprint(KEPT, weights, type(module).__name__, config, shapes, export_versions())
    file = Path(folder) / f"{key}.onnx"
    model: Path | bytes = file
    if not file.is_file():
        logger.info("exporting %s for OpenVINO, once", type(module).__name__)
        model = export_onnx(encoder)
        try:
            with whole_file(file) as part:
                part.write_bytes(model)
        except OSError as error:
            warn_user(f"the export for OpenVINO could not be kept: {error}")
    return CompiledEncoder(model, precision, config)


def is_faster(compiled: CompiledEncoder, encoder: Encoder, precision: str) -> bool:
    """Whether `compiled` takes less time than its module in torch: batch of 8, best of 3 calls."""
    inputs = {name: tensor[[0] * 8] for name, tensor in encoder.example.items()}
    seconds: dict[torch.nn.Module, list[float]] = {encoder.module: [], compiled: []}
    with torch.inference_mode(), reduced_precision(precision, "cpu"):
        for _ in range(1 + 3):  # the first call prepares more than the others
            for module, spent in seconds.items():
                start = time.perf_counter()
                module(**inputs)
                spent.append(time.perf_counter() - start)
    return min(seconds[compiled]) < min(seconds[encoder.module])
