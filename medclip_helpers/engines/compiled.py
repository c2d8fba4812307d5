"""An encoder computed by OpenVINO, in place of one of torch's."""

from __future__ import annotations

import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

LIBRARIES = ("openvino", "onnx", "onnxscript")
HINTS = {"float32": "f32", "bfloat16": "bf16"}  # a precision -> OpenVINO's word for it


def import_openvino() -> ModuleType:
    """OpenVINO, without the telemetry that importing it would send to its maker.

    Raises ImportError, saying what to install, where one of LIBRARIES is missing.
    """
    if missing := [name for name in LIBRARIES if find_spec(name) is None]:
        raise ImportError(
            f"{', '.join(missing)} not installed: python -m pip install 'medclip-helpers[engines]'"
        )
    # Without its telemetry package, OpenVINO uses a stub of its own.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


class NeedsTorch(AttributeError, ValueError):
    """A compiled encoder was asked for more than an embedding. (`hasattr` says no.)"""

    def __init__(self, what: str):
        super().__init__(
            f"{what}: this encoder was compiled by OpenVINO, which gives only embeddings; "
            'load the model with engine="torch"'
        )


class CompiledEncoder(nn.Module):
    """Computes what the encoder that it was exported from computes, and nothing else.

    model: ONNX, as bytes or a file. precision: one of HINTS. config: that encoder's own.

    It has no weights: what would train, copy, save or look into it raises `NeedsTorch`. It computes
    on the CPU, with as many threads as torch had when it was made.
    """

    def __init__(self, model: bytes | Path, precision: str = "float32", config: Any = None):
        super().__init__()
        core = import_openvino().Core()
        how = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "ENABLE_CPU_PINNING": False,  # two processes would share a core, and leave one idle
        }
        self.config = config
        self._compiled = core.compile_model(core.read_model(model), "CPU", how)
        self._turn = threading.Lock()  # a compiled model has one set of buffers
        self.eval()

    def forward(self, *inputs: Tensor | None, **named: Tensor | None) -> Tensor:
        """Inputs in their order or by name -> (images or texts, dim), float32, without gradients.

        A missing attention mask, or None, means all ones. Raises `NeedsTorch` for
        an input that was not exported, ValueError for one of another shape.
        """
        ports = {port.any_name: port for port in self._compiled.inputs}
        given = dict(zip(ports, inputs, strict=False)) | named
        if unknown := [*map(str, inputs[len(ports) :]), *(set(given) - set(ports))]:
            raise NeedsTorch(f"unknown input {unknown[0]!r}, expected one of {[*ports]}")
        (first, *_) = (tensor for tensor in given.values() if tensor is not None)
        arrays = []
        for name, port in ports.items():
            tensor = given.get(name)
            tensor = torch.ones_like(first) if tensor is None else tensor
            shape = port.partial_shape
            if not shape.compatible(type(shape)(list(tensor.shape))):
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")
            values = tensor.float() if tensor.is_floating_point() else tensor.long()
            arrays.append(values.detach().cpu().numpy())
        with self._turn:
            embeds = self._compiled(arrays)[0]  # a copy
        return torch.from_numpy(embeds).to(first.device)

    def train(self, mode: bool = True) -> CompiledEncoder:
        """Refused, unless `mode` is False."""
        if mode:
            raise NeedsTorch("no training")
        return super().train(False)

    def state_dict(self, *_, **__) -> NoReturn:
        """Refused: it would look like the weights of a model."""
        raise NeedsTorch("no weights to save")

    def __reduce_ex__(self, _) -> NoReturn:
        raise NeedsTorch("no copy")

    def __getattr__(self, name: str) -> NoReturn:
        raise NeedsTorch(f"no {name}")
