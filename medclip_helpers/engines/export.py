"""Encoders for other libraries: one ONNX model per module, and a folder to serve several from."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..hub import FORMAT, read_settings, write_text
from .compiled import LIBRARIES, CompiledEncoder, import_openvino

FORMATS = ("onnx", "openvino")
NEAR = 1e-3  # of an embedding's largest number; float32 alone is some 1e-6 of it off


class Encoder(NamedTuple):
    """A module in eval mode, and what it is exported by.

    example: its inputs by name, in the order of its `forward`, of length 2 or more along the axes
        that may vary. axes: names for these, the first ones of every input.
    """

    module: nn.Module
    example: Mapping[str, Tensor]
    axes: Sequence[str]


def export_versions() -> dict[str, str]:
    """Versions of the packages that an export depends on."""
    return {name: version(name) for name in ("torch", "timm", "transformers", *LIBRARIES)}


def export_onnx(encoder: Encoder) -> bytes:
    """An ONNX model in float32, whose axes have any length and whose output is called `embeds`.

    Raises ImportError as `import_openvino` does, and ValueError where the model, computed by
    OpenVINO at other lengths than the example's, gives numbers other than the module's.
    """
    import_openvino()
    module, example, axes = encoder
    lengths = {name: dict(enumerate(axes)) for name in example}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's, about itself
        program: Any = torch.onnx.export(
            module, kwargs=dict(example), dynamic_shapes=lengths, output_names=["embeds"],
            dynamo=True, verbose=False,
        )  # fmt: skip
        model = program.model_proto.SerializeToString()
        compiled = CompiledEncoder(model)
        for other in (slice(1), [0, -1, 0, -1, 0]):  # lengths of 1 and 5
            inputs = {name: tensor[other] for name, tensor in example.items()}
            if len(axes) > 1:
                inputs = {name: tensor[:, other] for name, tensor in inputs.items()}
            expected, found = module(**inputs), compiled(**inputs)
            if not (found - expected).abs().max() <= NEAR * expected.abs().max():  # or NaN
                kind = type(module).__name__
                raise ValueError(f"this export of a {kind} gives other numbers than the {kind}")
    return model


def write_export(
    folder: str | Path,
    encoders: Mapping[str, Encoder],
    files: Mapping[str, bytes],
    about: Mapping[str, Any],
    kind: str = "onnx",
    force: bool = False,
) -> None:
    """Write `<name>.onnx` of each encoder, or `<name>.xml` and `<name>.bin`, and `files` with them.

    about: what the weights are, as JSON values. kind: one of FORMATS. `export.json` holds both, and
    the versions; a folder that has it is complete. Nothing is replaced until all is exported.

    Raises ValueError for an unknown kind, and without `force` for a folder with an export of other
    weights, kind or versions, or with other files; OSError for one that cannot be written to; and
    what `export_onnx` raises.
    """
    if kind not in FORMATS:
        raise ValueError(f"format is {kind!r}, expected one of {[*FORMATS]}")
    openvino = import_openvino()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / "export.json"
    about = {"format": FORMAT, "kind": kind, "versions": export_versions(), **about}
    there = read_settings(manifest) if manifest.is_file() else {}
    if not force and there != about and any(folder.iterdir()):
        what = "an export of other weights, kind or versions" if there else "other files"
        raise ValueError(f"{folder} holds {what}: choose another folder, or replace it with force")
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as scratch:
        for name, encoder in encoders.items():
            model, path = export_onnx(encoder), Path(scratch, f"{name}.onnx")
            if kind == "onnx":
                path.write_bytes(model)
            else:
                graph, path = openvino.Core().read_model(model), path.with_suffix(".xml")
                openvino.save_model(graph, path, compress_to_fp16=False)
        for name, content in files.items():
            Path(scratch, name).write_bytes(content)
        manifest.unlink(missing_ok=True)
        for name, ending in product(encoders, (".onnx", ".xml", ".bin")):  # of another format
            (folder / f"{name}{ending}").unlink(missing_ok=True)
        for path in Path(scratch).iterdir():
            os.replace(path, folder / path.name)
    write_text(manifest, json.dumps(about, indent=2))
