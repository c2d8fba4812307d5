"""Find, fetch, translate and load weights.

The published checkpoints name their tensors after transformers 4's Swin and torchvision's ResNet.
`translate` is the one place that turns those names into this package's; `fill_weights` then loads
strictly, so that a tensor that found no place is an error and never a randomly initialised layer.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from . import download
from .model import MedCLIPModel, MedCLIPVisionModel, MedCLIPVisionModelViT
from .processor import MedCLIPProcessor

logger = logging.getLogger(__name__)

DEMO_FOLDER = Path(__file__).parent / "demo" / "checkpoint"
PUBLISHED_NOTE = "Published MedCLIP weights: for research use only."


class Published(NamedTuple):
    """Where a published checkpoint lives. Source: README of github.com/RyanWangZf/MedCLIP."""

    file: str
    pointer: str  # a text file in that repository, which holds the current address
    vision_cls: type


PUBLISHED = {
    "vit": Published("medclip-vit-pretrained.zip", "medclip_vit_weight.txt", MedCLIPVisionModelViT),
    "resnet": Published("medclip-pretrained.zip", "medclip_resnet_weight.txt", MedCLIPVisionModel),
}
WEIGHTS_URL = "https://storage.googleapis.com/pytrial"
POINTER_URL = "https://raw.githubusercontent.com/RyanWangZf/MedCLIP/main/medclip"
TOKENIZER_FILE = "Bio_ClinicalBERT-vocab.txt"
TOKENIZER_URL = "https://huggingface.co/emilyalsentzer/Bio_ClinicalBERT/resolve/main/vocab.txt"
TOKENIZER_SIZE = 28996  # word pieces

# Buffers that follow from the architecture; some versions of transformers save them.
DROPPED = re.compile(r"\.(position_ids|relative_position_index)$")


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """Where weights are kept: `cache_dir`, else $MEDCLIP_HOME, else ~/.cache/medclip_helpers."""
    chosen = cache_dir or os.environ.get("MEDCLIP_HOME") or "~/.cache/medclip_helpers"
    return Path(chosen).expanduser()


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
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (source / name).is_file():
            return source / name
    found = ", ".join(sorted(p.name for p in source.iterdir())[:8]) or "nothing"
    raise FileNotFoundError(
        f"no checkpoint in {source}: expected model.safetensors or pytorch_model.bin, found {found}"
    )


def read_state_dict(source: str | Path) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, from a folder, a `.bin`, a `.safetensors` or a published `.zip`.

    Raises FileNotFoundError if there is none, ValueError if the file is not a checkpoint.
    """
    file = _checkpoint_file(Path(source).expanduser())
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file} is not a safetensors file: {error}") from error
    if file.suffix == ".zip":
        with tempfile.TemporaryDirectory(prefix="medclip-") as folder:
            return read_state_dict(unpack_weights(file, Path(folder)))
    try:
        # weights_only: a pickle from elsewhere must not run code.
        state_dict = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken file
        raise ValueError(f"{file} is not a PyTorch checkpoint: {error}") from error
    if not isinstance(state_dict, Mapping) or not all(map(torch.is_tensor, state_dict.values())):
        raise ValueError(f"{file} holds no state dict: expected a mapping of names to tensors")
    return dict(state_dict)


def unpack_weights(archive: Path, folder: Path) -> Path:
    """Copy `pytorch_model.bin` out of a published zip into `folder`, and nothing else.

    The member's own path is never used as a path, so a malicious archive cannot write elsewhere.
    Raises ValueError if the archive is damaged or holds no such member.
    """
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = [m for m in zipped.infolist() if Path(m.filename).name == "pytorch_model.bin"]
            if not members:
                inside = ", ".join(zipped.namelist()[:8]) or "nothing"
                raise ValueError(f"{archive} holds no pytorch_model.bin, only {inside}")
            target = folder / "pytorch_model.bin"
            with zipped.open(members[0]) as source, open(target, "wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)  # reading checks the member's CRC
            return target
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive} is not an intact zip file: {error}") from error


# --- published files --------------------------------------------------------------------------


def _addresses(name: str, mirror: str | None) -> list:
    """Where to ask for a published zip, in order; a callable asks for the address first."""
    mirror = mirror or os.environ.get("MEDCLIP_MIRROR")
    file, pointer, _ = PUBLISHED[name]
    if mirror:
        return [f"{mirror.rstrip('/')}/{file}"]
    return [f"{WEIGHTS_URL}/{file}", lambda: download.read_text(f"{POINTER_URL}/{pointer}").strip()]


def fetch_weights(
    name: str, cache_dir: str | Path | None = None, mirror: str | None = None
) -> Path:
    """The folder with published weights "vit" or "resnet", downloaded once.

    cache_dir: overrides $MEDCLIP_HOME. mirror: base address of a copy, overrides $MEDCLIP_MIRROR.

    The folder holds `model.safetensors` (the published tensors under their published names) and
    `source.json` (address and SHA-256 of the zip). It appears in one step, when all is checked.
    Raises `download.DownloadError`, naming every address tried, if none answers.
    """
    if name not in PUBLISHED:
        raise ValueError(f"unknown published model {name!r}: expected one of {sorted(PUBLISHED)}")
    home = cache_folder(cache_dir)
    folder = home / f"medclip-{name}"
    if (folder / "model.safetensors").is_file():
        return folder
    home.mkdir(parents=True, exist_ok=True)
    # Beside the final place, so that the last step is a rename on one file system.
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=home) as scratch:
        scratch = Path(scratch)
        archive = scratch / PUBLISHED[name].file
        url = download.fetch(_addresses(name, mirror), archive)
        published = unpack_weights(archive, scratch)
        state_dict = read_state_dict(published)
        found = published_encoder(state_dict)
        if found != name:
            raise ValueError(f"{url} holds {found or 'no MedCLIP'} weights, expected {name!r}")
        ready = scratch / "ready"
        ready.mkdir()
        _write_safetensors(state_dict, ready / "model.safetensors")
        source = {"url": url, "sha256": download.sha256(archive)}
        (ready / "source.json").write_text(json.dumps(source, indent=2) + "\n")
        os.replace(ready, folder)
    logger.info("kept %s weights in %s", name, folder)
    return folder


def _write_safetensors(state_dict: Mapping[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    # clone: a checkpoint may hold views of one storage, which safetensors refuses.
    save_file({name: tensor.contiguous().clone() for name, tensor in state_dict.items()}, path)


def load_tokenizer(cache_dir: str | Path | None = None, mirror: str | None = None):
    """The published model's tokenizer (Bio_ClinicalBERT's vocabulary, lower-casing), fetched once.

    Raises `download.DownloadError` if the vocabulary is neither cached nor reachable.
    """
    from transformers import BertTokenizer

    home = cache_folder(cache_dir)
    vocabulary = home / TOKENIZER_FILE
    if not vocabulary.is_file():
        home.mkdir(parents=True, exist_ok=True)
        mirror = mirror or os.environ.get("MEDCLIP_MIRROR")
        url = f"{mirror.rstrip('/')}/{TOKENIZER_FILE}" if mirror else TOKENIZER_URL
        with tempfile.TemporaryDirectory(prefix=".vocab-", dir=home) as scratch:
            part = Path(scratch) / TOKENIZER_FILE
            download.fetch([url], part)
            pieces = len(part.read_text(encoding="utf-8").splitlines())
            if pieces != TOKENIZER_SIZE:
                raise ValueError(f"{url} has {pieces} word pieces, expected {TOKENIZER_SIZE}")
            os.replace(part, vocabulary)
    pieces = vocabulary.read_text(encoding="utf-8").splitlines()
    return BertTokenizer({piece: i for i, piece in enumerate(pieces)}, do_lower_case=True)


# --- loading ----------------------------------------------------------------------------------


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
    return _fill(model, read_state_dict(source), Path(source))


def _fill(model: MedCLIPModel, state_dict: dict[str, Tensor], source: Path) -> MedCLIPModel:
    kind = published_encoder(state_dict)
    state_dict = translate(state_dict)
    expected = {n: t.shape for n, t in model.state_dict().items() if not DROPPED.search(n)}
    problems = [f"missing: {name}" for name in expected if name not in state_dict]
    problems += [f"left over: {name}" for name in state_dict if name not in expected]
    problems += [
        f"shape of {name}: {tuple(tensor.shape)}, expected {tuple(expected[name])}"
        for name, tensor in state_dict.items()
        if name in expected and tensor.shape != expected[name]
    ]
    if problems:
        encoder = model.vision_model.config["backbone"]
        hint = f" It is a published {kind!r} checkpoint." if kind else ""
        raise ValueError(
            f"checkpoint {source} does not fit a model with encoder {encoder!r}.{hint} "
            f"{len(problems)} names differ:\n  " + "\n  ".join(problems)
        )
    model.load_state_dict(state_dict, strict=False)  # compared above; dropped buffers stay
    if kind:
        model.note = PUBLISHED_NOTE
    elif config := _read_config(source):
        model.note = config.get("note", model.note)
    return model.eval()


def _read_config(source: Path) -> dict | None:
    """`config.json` of a checkpoint folder that this package wrote, else None."""
    file = (source if source.is_dir() else source.parent) / "config.json"
    config = json.loads(file.read_text()) if file.is_file() else {}
    return config if "vision" in config else None


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

    Raises ValueError for an unknown name or a file that is no MedCLIP checkpoint, and
    `download.DownloadError` where published weights are neither cached nor reachable.

    >>> model, processor = load_medclip("demo")
    """
    if name == "auto":
        name = _published_or_demo(cache_dir, mirror)
    if name == "demo":
        source = DEMO_FOLDER
    elif name in PUBLISHED:
        source = fetch_weights(str(name), cache_dir, mirror)
    else:
        source = Path(name).expanduser()
        if not source.exists():
            raise ValueError(
                f"unknown model {str(name)!r}: expected 'vit', 'resnet', 'demo', 'auto', "
                "or a folder or file with weights"
            )
    state_dict = read_state_dict(source)
    kind = published_encoder(state_dict)
    if kind:
        model = MedCLIPModel(vision_cls=PUBLISHED[kind].vision_cls)
    elif config := _read_config(source):
        model = MedCLIPModel.from_config(config)
    else:
        raise ValueError(
            f"{source} is no MedCLIP checkpoint: its names are not the published ones, and there "
            "is no config.json of this package beside it"
        )
    _fill(model, state_dict, source)
    folder = source if source.is_dir() else source.parent
    processor = MedCLIPProcessor.from_pretrained(folder, cache_dir=cache_dir, mirror=mirror)
    return model.to(choose_device(device)).eval(), processor


def _published_or_demo(cache_dir, mirror) -> str:
    try:
        fetch_weights("vit", cache_dir, mirror)
        return "vit"
    except download.DownloadError as error:
        reason = str(error).splitlines()[0]
        warnings.warn(
            f"published weights are not at hand ({reason}): using the demo model, "
            "which was trained on drawings",
            stacklevel=3,
        )
        return "demo"
