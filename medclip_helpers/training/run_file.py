"""Run files: read here and nowhere else, and trained as they say (`RUN_FILE` is their help)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from .. import data
from ..constants import MAX_TEXT_TOKENS
from ..evaluation import zero_shot_evaluator
from ..hub import DownloadError, read_settings
from ..loading import load_medclip
from ..model import MedCLIPModel
from ..processor import MedCLIPProcessor
from ..prompts import load_class_prompts
from .building import build_model
from .config import TrainingConfig
from .trainer import TrainingResult, train

RUN_KEYS = ("model", "images", "image_root", "sentences", "match", "evaluate", "training")
MODEL_KEYS = ("vision", "text", "tokenizer", "image_size")
HELD_OUT_KEYS = ("images", "image_root", "prompts", "prompts_per_class")


def train_from_file(path: str | Path, resume: bool = False) -> TrainingResult:
    """Train as a run file says (see RUN_FILE).

    Raises ValueError or FileNotFoundError naming what in it is wrong, `hub.DownloadError` where
    published weights are out of reach, and what `train` raises.
    """
    settings = read_settings(path)
    _check_keys(settings, RUN_KEYS, ("model", "images", "sentences"), f"{path}: ")
    root, match = settings.get("image_root"), settings.get("match", True)
    if not isinstance(root, (str, type(None))):
        raise ValueError(f"{path}: image_root is {root!r}, expected a folder")
    if not isinstance(match, bool):
        raise ValueError(f"{path}: match is {match!r}, expected true or false")

    def part(name: str, read: Callable, *more):
        """read(what stands under `name`, *more), whose errors then name the place."""
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
    images = part("images", data.read_manifest, root)
    sentences = part("sentences", data.read_sentences)
    dataset = data.UnpairedDataset(images, sentences, config.seed, match)
    evaluate = part("evaluate", _read_evaluate, root, processor)
    return train(model, processor, dataset, config, evaluate=evaluate, resume=resume)


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
        raise ValueError(f"prompts: {unknown} are no labels of a manifest: {data.LABELS}")
    rows = data.read_manifest(settings["images"], settings.get("image_root", root))
    try:
        rows = rows[data.is_exclusive(rows, classes)]
    except ValueError as error:
        raise ValueError(f"{settings['images']}: {error}") from None
    labels = [classes[k] for k in data.class_numbers(rows, classes)]
    return zero_shot_evaluator(processor, rows["imgpath"].tolist(), labels, prompts)
