"""Load weights into a model, strictly: a tensor that found no place is an error.

What can be read is in checkpoint_files.py, what is published and kept in published.py.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from torch import Tensor

from . import download
from .checkpoint_files import DROPPED, published_encoder, read_state_dict, translate
from .model import PUBLISHED_NOTE, MedCLIPModel
from .processor import MedCLIPProcessor
from .published import PUBLISHED, cache_folder, fetch_weights, load_tokenizer

__all__ = [
    "DEMO_FOLDER",
    "PUBLISHED",
    "cache_folder",
    "choose_device",
    "fetch_weights",
    "fill_weights",
    "load_medclip",
    "load_tokenizer",
]

DEMO_FOLDER = Path(__file__).parent / "demo" / "checkpoint"


def fill_weights(model: MedCLIPModel, source: str | Path | None = None) -> MedCLIPModel:
    """Load `source` into `model` in place; see `MedCLIPModel.from_pretrained`."""
    if source is None:
        vision_cls = type(model.vision_model)
        kind = next((k for k, p in PUBLISHED.items() if p.vision_cls is vision_cls), None)
        if kind is None:
            raise ValueError(
                f"no published weights for {vision_cls.__name__}: give a folder, or use "
                "vision_cls=MedCLIPVisionModelViT or MedCLIPVisionModel"
            )
        source = fetch_weights(kind)
    source = Path(source).expanduser()
    return _fill(model, read_state_dict(source), source)


def _fill(
    model: MedCLIPModel, state_dict: dict[str, Tensor], source: Path, assign: bool = False
) -> MedCLIPModel:
    """Copy the tensors into the model's, or with `assign` make them the model's."""
    kind = published_encoder(state_dict)
    state_dict = translate(state_dict)
    expected = {n: t for n, t in model.state_dict().items() if not DROPPED.search(n)}
    if problems := _misfits(state_dict, expected):
        encoder = model.vision_model.config["backbone"]
        hint = f" It is a published {kind!r} checkpoint." if kind else ""
        raise ValueError(
            f"checkpoint {source} does not fit a model with encoder {encoder!r}.{hint} "
            f"{len(problems)} tensors differ:\n  " + "\n  ".join(problems)
        )
    state_dict = {name: tensor.to(expected[name].dtype) for name, tensor in state_dict.items()}
    # strict=False: compared above; dropped buffers stay
    model.load_state_dict(state_dict, strict=False, assign=assign)
    _fill_buffers(model)
    if kind:
        model.note = PUBLISHED_NOTE
    elif config := _read_config(source):
        model.note = config.get("note", model.note)
    return model.eval()


def _misfits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """What keeps the tensors found from standing for those expected, a line each."""
    problems = [f"missing: {name}" for name in expected if name not in found]
    problems += [f"left over: {name}" for name in found if name not in expected]
    for name in found.keys() & expected.keys():
        shape, dtype = tuple(expected[name].shape), expected[name].dtype
        if found[name].shape != shape:
            problems.append(f"shape of {name}: {tuple(found[name].shape)}, expected {shape}")
        if found[name].is_floating_point() != dtype.is_floating_point:
            problems.append(f"type of {name}: {found[name].dtype}, expected {dtype}")
    return problems


def _without_weights(kind: str) -> MedCLIPModel:
    """A published model that takes no memory, and no time for random numbers, until `_fill`."""
    from accelerate import init_empty_weights

    with init_empty_weights():
        return MedCLIPModel(PUBLISHED[kind].vision_cls)


def _fill_buffers(model: MedCLIPModel) -> None:
    """Compute the buffers that no checkpoint holds, where `_without_weights` left them empty."""
    for module in model.modules():
        if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            module.init_non_persistent_buffers()  # timm's


def _read_config(source: Path) -> dict | None:
    """`config.json` of a checkpoint folder that this package wrote, else None."""
    file = (source if source.is_dir() else source.parent) / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    return config if isinstance(config, dict) and "vision" in config else None


def _from_config(config: dict, source: Path) -> MedCLIPModel:
    try:
        return MedCLIPModel.from_config(config)
    except Exception as error:  # timm and transformers raise many kinds for a setting they lack
        raise ValueError(f"config.json of {source} describes no model: {error!r}") from error


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """CUDA, else Apple's MPS, else the CPU for "auto"; anything else is taken as it is."""
    if str(device) != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def load_medclip(
    name: str | Path = "vit",
    device: str | torch.device = "auto",
    *,
    cache_dir: str | Path | None = None,
    mirror: str | None = None,
) -> tuple[MedCLIPModel, MedCLIPProcessor]:
    """A model in eval mode on `device`, and the processor that belongs to it.

    name: "vit" or "resnet" (published weights, downloaded once), "demo" (small, ships with the
        package, trained on drawings), "auto" ("vit" where it is cached or reachable, else "demo"
        with a warning), or a folder or file with weights: a published checkpoint, or what
        `save_pretrained` wrote.
    device: "auto" (see `choose_device`), "cpu", "cuda", "cuda:1", "mps", ...
    cache_dir, mirror: as in `fetch_weights`.

    Raises ValueError for an unknown name or a file that is no MedCLIP checkpoint or not the one
    that was downloaded, FileNotFoundError for a path without weights, and
    `download.DownloadError` where published weights are neither cached nor reachable, within 10
    seconds where there is no network.

    >>> model, processor = load_medclip("demo")
    """
    if name == "auto":
        name = _published_or_demo(cache_dir, mirror)
    if name == "demo":
        source = DEMO_FOLDER
    elif name in PUBLISHED:
        source = fetch_weights(str(name), cache_dir, mirror)
    else:
        source = Path(name or "").expanduser()
        if not name or not source.exists():
            if isinstance(name, Path) or len(source.parts) > 1 or source.suffix:
                raise FileNotFoundError(f"no folder or file with weights at {name}")
            raise ValueError(
                f"unknown model {name!r}: expected 'vit', 'resnet', 'demo', 'auto', "
                "or a folder or file with weights"
            )
    state_dict = read_state_dict(source)
    kind = published_encoder(state_dict)
    if kind:
        model = _without_weights(kind)
    elif config := _read_config(source):
        model = _from_config(config, source)
    else:
        raise ValueError(
            f"{source} is no MedCLIP checkpoint: its names are not the published ones, and there "
            "is no config.json of this package beside it"
        )
    # Weights of one's own are copied, for they may be saved over the very file they came from.
    _fill(model, state_dict, source, assign=bool(kind))
    folder = source if source.is_dir() else source.parent
    processor = MedCLIPProcessor.from_pretrained(folder, cache_dir=cache_dir, mirror=mirror)
    return model.to(choose_device(device)).eval(), processor


def _published_or_demo(cache_dir, mirror) -> str:
    try:
        fetch_weights("vit", cache_dir, mirror)
        return "vit"
    except download.DownloadError as error:
        reason = str(error).splitlines()[0].removesuffix(". Tried:")
        warnings.warn(
            f"published weights are not at hand ({reason}): using the demo model, "
            "which was trained on drawings",
            stacklevel=3,
        )
        return "demo"
