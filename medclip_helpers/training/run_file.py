"""Run files: read here and nowhere else, and trained as they say (`RUN_FILE` is their help)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.utils.data import Dataset

from .. import data
from ..constants import MAX_TEXT_TOKENS
from ..evaluation import zero_shot_evaluator
from ..hub import PUBLISHED, DownloadError, read_settings
from ..loading import load_medclip
from ..model import MedCLIPModel
from ..processor import MedCLIPProcessor
from ..prompts import AUTHORS, load_class_prompts, prompt_grammars
from .building import build_model
from .config import TrainingConfig, read_recipe
from .trainer import TrainingResult, train

DATA_KEYS = ("images", "image_root", "sentences")
PART_KEYS = {
    "sampling": ("text", "bank", "first_character"),
    "labels": ("absent", "uncertain"),
    "augmentation": ("images", "flip", "texts", "protect", "keep_original"),
}
RUN_KEYS = ("recipe", "model", *DATA_KEYS, *PART_KEYS, "evaluate", "training")
SAMPLING = ("authors", "label", "any", "own")
MODEL_KEYS = ("vision", "text", "tokenizer", "image_size")
# What a recipe says of these is only for the choice after which they are named.
NEEDS = {
    ("text", "authors"): ("bank", "first_character"),
    ("texts", True): ("protect", "keep_original"),
    ("images", True): ("flip",),
}
HELD_OUT_KEYS = ("images", "image_root", "prompts", "prompts_per_class")


def train_from_file(
    path: str | Path, resume: bool = False, root: str | Path | None = None
) -> TrainingResult:
    """Train as a run file says (see RUN_FILE).

    root: what paths in it are relative to, instead of the file's folder.

    Raises ValueError or FileNotFoundError naming what is wrong in it, `hub.DownloadError` where
    published weights are out of reach, and what `train` raises.
    """
    settings = read_run_file(path, Path(path).parent if root is None else Path(root))
    image_root = settings.get("image_root")

    def part(name: str, read: Callable, *more):
        """read(what is under `name`, *more), whose errors then name the place."""
        value = settings.get(name, {})
        try:
            return read(value, *more)
        except (FileNotFoundError, DownloadError):
            raise
        except ValueError as error:
            raise ValueError(f"{path}, {name}: {error}") from error
        except Exception as error:  # timm, transformers and the file system have all kinds
            raise ValueError(f"{path}, {name} is {value!r}: {error}") from error

    config = part("training", _read_config)
    model, processor = part("model", _read_model, config.seed)
    images = part("images", data.read_manifest, image_root)
    sentences = part("sentences", data.read_sentences)
    dataset = part("sampling", _read_sampling, images, sentences, config.seed)
    labels = part("labels", _read_labels)
    collator = part("augmentation", _read_augmentation, processor, labels)
    evaluate = part("evaluate", _read_evaluate, image_root, processor)
    return train(
        model, processor, dataset, config, collator=collator, evaluate=evaluate, resume=resume
    )


def read_run_file(path: str | Path, root: Path) -> dict[str, Any]:
    """A run file as a mapping: laid over its recipe, paths relative to `root` resolved.

    Raises ValueError naming an unknown or a missing key, and what `read_settings` raises.
    """
    settings = read_settings(path)
    _check_keys(settings, RUN_KEYS, (), f"{path}: ")
    if "recipe" in settings:
        try:
            recipe = read_recipe(settings["recipe"])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        for name, base in recipe.items():
            given = settings.setdefault(name, base)
            if name != "model" and isinstance(given, Mapping):
                idle = {key for (choice, needed), keys in NEEDS.items() for key in keys
                        if given.get(choice, needed) != needed}  # fmt: skip
                kept = {key: value for key, value in base.items() if key not in idle}
                settings[name] = kept | dict(given)
        if settings["evaluate"] == recipe["evaluate"]:
            del settings["evaluate"]  # no images to evaluate on
    _check_keys(settings, RUN_KEYS, ("model", "images", "sentences"), f"{path}: ")
    for name, known in PART_KEYS.items():
        _check_keys(settings.get(name, {}), known, (), f"{path}, {name}: ")

    if not isinstance(settings.get("image_root"), (str, type(None))):
        raise ValueError(f"{path}: image_root is {settings['image_root']!r}, expected a folder")

    def whole(value):
        """A path, or several, from `root` on; what is a name, not a path, stays as it is."""
        if isinstance(value, list):
            return [whole(one) for one in value]
        if not isinstance(value, str):
            return value
        return str(root / Path(value).expanduser())

    presets = {"auto", "demo", *PUBLISHED, *prompt_grammars(), *AUTHORS}

    def in_place(part: Any, *names: str, optional: bool = False) -> None:
        for name in names if isinstance(part, dict) else ():
            value = part.get(name)
            path_like = isinstance(value, str) and value not in presets
            if not optional or path_like and Path(whole(value)).exists():
                part |= {name: whole(value)} if name in part else {}

    in_place(settings, *DATA_KEYS)
    in_place(settings, "model", optional=True)
    in_place(settings["model"], "text", "tokenizer", optional=True)
    in_place(settings.get("evaluate"), "images", "image_root")
    in_place(settings.get("evaluate"), "prompts", optional=True)
    in_place(settings.get("training"), "output_dir")
    return settings


def _check_keys(
    given: object, known: Collection[str], required: Collection[str] = (), where: str = ""
) -> None:
    if not isinstance(given, Mapping):
        raise ValueError(f"{where}expected a mapping with the keys {sorted(known)}, got {given!r}")
    if unknown := [key for key in given if key not in known]:
        raise ValueError(f"{where}unknown {unknown}, expected some of {sorted(known)}")
    if missing := sorted(set(required) - set(given)):
        raise ValueError(f"{where}{missing} missing")


def _read_config(settings: Any) -> TrainingConfig:
    _check_keys(settings, TrainingConfig.__dataclass_fields__)
    return TrainingConfig(**settings)


def _read_sampling(
    settings: Any, images: pd.DataFrame, sentences: pd.DataFrame, seed: int
) -> Dataset:
    options = dict(settings)
    text = options.pop("text", "label")
    if text not in SAMPLING:
        raise ValueError(f"text is {text!r}, expected one of {SAMPLING}")
    if text != "authors" and options:
        raise ValueError(f"{list(options)} are only for text: authors")
    if text == "authors":
        return data.AuthorsDataset(images, sentences, seed, **options)
    if text == "own":
        return data.PairedDataset(images, sentences, seed=seed)
    return data.UnpairedDataset(images, sentences, seed, match=text == "label")


def _read_labels(settings: Any) -> dict:
    data.encode_labels(np.zeros(0), **settings)  # refuses what is not a number
    return settings


def _read_augmentation(settings: Any, processor: MedCLIPProcessor, labels: dict) -> Callable:
    if wrong := [name for name, value in settings.items() if not isinstance(value, bool)]:
        raise ValueError(f"{wrong[0]} is {settings[wrong[0]]!r}, expected true or false")
    if settings.get("flip") and not settings.get("images"):
        raise ValueError("flip is true, expected images: true with it")
    image = text = None
    if settings.get("images"):
        size = processor.image_processor.size
        image = data.image_augmentation(size, settings.get("flip", False))
    if settings.get("texts"):
        text = data.TextAugmentation(protect=settings.get("protect", True))
    keep = settings.get("keep_original", False)
    return data.MedCLIPCollator(processor, image, text, keep_original=keep, **labels)


def _read_model(settings: Any, seed: int) -> tuple[MedCLIPModel, MedCLIPProcessor]:
    if isinstance(settings, str):
        return load_medclip(settings, device="cpu")
    _check_keys(settings, MODEL_KEYS, ("vision", "text", "tokenizer"))
    model, processor = build_model(**settings, seed=seed)
    with torch.no_grad():  # sizes that do not fit each other show here, not after data were read
        longest = "." * (MAX_TEXT_TOKENS - 2)  # between [CLS] and [SEP]
        model.eval()(**processor(text=longest, images=Image.new("L", (9, 9))))
    return model, processor


def _read_evaluate(settings: Any, root: str | None, processor: MedCLIPProcessor) -> Callable | None:
    """An evaluator of held-out images; None where the run file asks for none."""
    if not settings:
        return None
    _check_keys(settings, HELD_OUT_KEYS, ("images", "prompts"))
    prompts = load_class_prompts(settings["prompts"], n=settings.get("prompts_per_class"))
    classes = list(prompts)
    if unknown := sorted(set(classes) - set(data.LABELS)):
        raise ValueError(f"prompts: {unknown} are not labels of a manifest: {data.LABELS}")
    rows = data.read_manifest(settings["images"], settings.get("image_root", root))
    try:
        rows = rows[data.is_exclusive(rows, classes)]
    except ValueError as error:
        raise ValueError(f"{settings['images']}: {error}") from None
    labels = [classes[k] for k in data.class_numbers(rows, classes)]
    return zero_shot_evaluator(processor, rows["imgpath"].tolist(), labels, prompts)
