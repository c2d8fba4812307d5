"""From a name to a model and its processor."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import init_empty_weights

from .demo import CHECKPOINT_FOLDER
from .engines import Encoder, choose_engine, choose_precision, compile_encoder, is_faster
from .hub import (
    PUBLISHED,
    DownloadError,
    cache_folder,
    describe_weights,
    fetch_weights,
    fill_weights,
    read_checkpoint,
)
from .model import MedCLIPModel, MedCLIPVisionModel, MedCLIPVisionModelViT
from .processor import MedCLIPProcessor
from .radiographs import warn_user

PUBLISHED_ENCODERS = {"vit": MedCLIPVisionModelViT, "resnet": MedCLIPVisionModel}


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """CUDA, else Apple's MPS, else the CPU for "auto"; ValueError for one that is not available."""
    here = [
        kind
        for kind, there in (
            ("cuda", torch.cuda.is_available()),
            ("mps", torch.backends.mps.is_available()),
            ("cpu", True),
        )
        if there
    ]
    if str(device) == "auto":
        return torch.device(here[0])
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device is {device!r}, expected 'auto' or one of {here}") from error
    number = chosen.index or 0
    if chosen.type not in here or (chosen.type == "cuda" and number >= torch.cuda.device_count()):
        raise ValueError(f"device {device!r} is not on this machine: expected one of {here}")
    return chosen


def load_medclip(
    name: str | Path = "vit",
    device: str | torch.device = "auto",
    *,
    precision: str = "float32",
    engine: str = "torch",
    cache_dir: str | Path | None = None,
    mirror: str | None = None,
) -> tuple[MedCLIPModel, MedCLIPProcessor]:
    """A model in eval mode on `device`, and the processor that belongs to it.

    name: "vit" or "resnet" (published weights, downloaded once), "demo" (small, ships with the
        package, trained on drawings), "auto" ("vit" where it is cached or reachable, else "demo"
        with a warning), or a folder or file with weights: a published checkpoint, or what
        `save_pretrained` wrote.
    device: "auto" (see `choose_device`), "cpu", "cuda", "cuda:1", "mps", ...
    precision: what the encoders compute in: "float32", whose numbers are the reference, "auto" (the
        fastest that the device has in hardware), "bfloat16" or "float16"; see
        `engines.choose_precision`. Weights and everything after an embedding stay in float32.
    engine: what computes the encoders: "torch"; "openvino", on a CPU (about half a minute the first
        time, then an export is kept in the cache; where it is not installed, torch computes, with a
        warning); or "auto", whichever is faster in a few test calls. OpenVINO's encoders give
        embeddings, of pictures as the processor makes them, and refuse everything else (see
        `engines.CompiledEncoder`).
    cache_dir, mirror: as in `hub.fetch_weights`.

    Raises ValueError for an unknown name, device, precision or engine, or a file that is not a
    MedCLIP checkpoint or not the one that was downloaded, FileNotFoundError for a path without
    weights, and `hub.DownloadError` where published weights are neither cached nor reachable,
    within 10 seconds where there is no network.

    >>> model, processor = load_medclip("demo")
    """
    place = choose_device(device)
    chosen = choose_precision(precision, place)
    engine = choose_engine(engine, place, chosen)
    checkpoint = read_checkpoint(_find(name, cache_dir, mirror))
    published = checkpoint.published
    if published:
        with init_empty_weights():  # no memory, and no time for random numbers, until they are read
            model = MedCLIPModel(PUBLISHED_ENCODERS[published])
    elif checkpoint.config:
        with torch.random.fork_rng(devices=[]):  # of random weights, which are filled at once
            model = MedCLIPModel.from_config(
                checkpoint.config, checkpoint.file.with_name("config.json")
            )
    else:
        raise ValueError(
            f"{checkpoint.file} is not a MedCLIP checkpoint: its names are not the published ones, "
            "and there is no config.json of this package next to it"
        )
    # Custom weights are copied, because they may be saved over the file they came from.
    fill_weights(model, checkpoint, assign=bool(published))
    processor = MedCLIPProcessor.from_pretrained(
        checkpoint.file.parent, whole=not published, cache_dir=cache_dir, mirror=mirror
    )
    model.precision = chosen
    model.to(place).eval()
    if place.type != "mps" and not model.vision_model.channels_last:
        model.vision_model.to(memory_format=torch.channels_last)  # which convolutions read fastest
    if engine != "torch":
        _compile(model, processor, cache_folder(cache_dir) / "engines", engine)
    return model, processor


def encoders_of(model: MedCLIPModel, processor: MedCLIPProcessor) -> dict[str, Encoder]:
    """{attribute of `model`: encoder and what it is exported by}; pictures have one channel."""
    size = processor.image_processor.size
    pixel_values = torch.linspace(-2, 2, 2 * size * size).view(2, 1, size, size)
    texts = {"input_ids": torch.arange(8).view(2, 4)}
    texts["attention_mask"] = texts["input_ids"].lt(6).long()  # the second text is shorter
    return {
        "vision_model": Encoder(model.vision_model, {"pixel_values": pixel_values}, ["images"]),
        "text_model": Encoder(model.text_model, texts, ["texts", "tokens"]),
    }


def _compile(model: MedCLIPModel, processor: MedCLIPProcessor, folder: Path, engine: str) -> None:
    """Replace the encoders by OpenVINO's; for "auto" only where both of them are then faster."""
    weights, compiled = describe_weights(model), {}
    for name, encoder in encoders_of(model, processor).items():
        try:
            compiled[name] = compile_encoder(encoder, weights["sha256"], model.precision, folder)
        except Exception as error:  # torch's exporter raises whatever a backbone makes it raise
            if engine == "openvino":
                raise
            warn_user(f"using torch, because the export failed: {error}")
            return
        if engine == "auto" and not is_faster(compiled[name], encoder, model.precision):
            return
    for name, module in compiled.items():
        setattr(model, name, module)
    model.engine, model.compiled_from = "openvino", weights


def _find(name: str | Path, cache_dir: str | Path | None, mirror: str | None) -> Path:
    """Where the weights for `load_medclip` are; published ones are fetched."""
    if name == "auto":
        try:
            return fetch_weights("vit", cache_dir, mirror)
        except DownloadError as error:
            reason = str(error).splitlines()[0].removesuffix(". Tried:")
            warn_user(
                f"published weights are not available ({reason}): using the demo model, "
                "which was trained on drawings"
            )
            return CHECKPOINT_FOLDER
    if name == "demo":
        return CHECKPOINT_FOLDER
    if name in PUBLISHED:
        return fetch_weights(str(name), cache_dir, mirror)
    source = Path(name or "").expanduser()
    if name and source.exists():
        return source
    if isinstance(name, Path) or len(source.parts) > 1 or source.suffix:
        raise FileNotFoundError(f"no folder or file with weights at {name}")
    raise ValueError(
        f"unknown model {name!r}: expected 'vit', 'resnet', 'demo', 'auto', "
        "or a folder or file with weights"
    )
