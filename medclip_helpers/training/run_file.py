"""Run files: a whole pretraining run as YAML."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..evaluation import zero_shot_evaluator
from ..processor import MedCLIPProcessor
from .config import TrainingConfig
from .pretraining import TrainingResult, build_model, train
from .trainer import TrainingStopped

RUN_FILE = """\
A run file is YAML:

  model: vit                     # "vit", "resnet", "demo" or a folder: go on from its weights; or
  # model:                       # begin: the arguments of build_model
  #   vision: {backbone: swin_tiny_patch4_window7_224, pretrained: true}
  #   text: emilyalsentzer/Bio_ClinicalBERT
  #   tokenizer: null
  images: [chexpert.csv]         # manifests: imgpath, subject_id, report and the 14 labels
  image_root: /data              # what imgpath is relative to; by default the manifest's folder
  sentences: [sentences.csv]     # Reports and the 14 labels
  evaluate:                      # held-out images, each positive for one class of the prompts
    images: chexpert-5x200.csv
    prompts: chexpert            # or a file; its classes are among the 14 labels
  training: {output_dir: runs/pretraining, batch_size: 100, epochs: 10}    # TrainingConfig

On one machine:   torchrun --nproc-per-node=2 -m medclip_helpers.training --config run.yaml
On several, each: torchrun --nnodes=4 --nproc-per-node=8 --rdzv-backend=c10d \\
                    --rdzv-endpoint=HOST:29500 -m medclip_helpers.training --config run.yaml
"""
RUN_KEYS = {"model", "images", "image_root", "sentences", "match", "evaluate", "training"}


def _check_keys(given, known, required, where: str) -> None:
    if not isinstance(given, Mapping):
        raise ValueError(f"{where}: expected a mapping with the keys {sorted(known)}, got {given}")
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"{where}: unknown {unknown}, expected some of {sorted(known)}")
    if missing := sorted(set(required) - set(given)):
        raise ValueError(f"{where}: {missing} missing")


def _held_out(settings: Mapping, root, processor: MedCLIPProcessor) -> Callable:
    """An evaluator from the `evaluate` part of a run file."""
    from ..data import LABELS, class_numbers, is_exclusive, read_manifest
    from ..prompts import load_class_prompts

    prompts = load_class_prompts(settings["prompts"], n=settings.get("prompts_per_class"))
    classes = list(prompts)
    if unknown := sorted(set(classes) - set(LABELS)):
        raise ValueError(f"evaluate, prompts: {unknown} are no labels of a manifest: {LABELS}")
    rows = read_manifest(settings["images"], settings.get("image_root", root))
    try:
        rows = rows[is_exclusive(rows, classes)]
    except ValueError as error:
        raise ValueError(f"{settings['images']}: {error}") from None
    labels = [classes[k] for k in class_numbers(rows, classes)]
    return zero_shot_evaluator(processor, rows["imgpath"].tolist(), labels, prompts)


def train_from_file(path: str | Path, resume: bool = False) -> TrainingResult:
    """Train as a run file says (see RUN_FILE); ValueError names what in it is wrong."""
    import yaml

    from ..data import UnpairedDataset, read_manifest, read_sentences
    from ..loading import load_medclip

    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    _check_keys(settings, RUN_KEYS, ("model", "images", "sentences"), str(path))
    fields = TrainingConfig.__dataclass_fields__
    _check_keys(settings.get("training", {}), fields, (), f"{path}, training")
    config = TrainingConfig(**settings.get("training", {}))
    if isinstance(settings["model"], str):
        model, processor = load_medclip(settings["model"], device="cpu")
    else:
        required = {"vision", "text", "tokenizer"}
        _check_keys(settings["model"], required | {"image_size"}, required, f"{path}, model")
        model, processor = build_model(**settings["model"], seed=config.seed)
    root = settings.get("image_root")
    images, sentences = read_manifest(settings["images"], root), settings["sentences"]
    dataset = UnpairedDataset(
        images, read_sentences(sentences), config.seed, settings.get("match", True)
    )
    evaluate = None
    if held_out := settings.get("evaluate"):
        known = {"images", "image_root", "prompts", "prompts_per_class"}
        _check_keys(held_out, known, ("images", "prompts"), f"{path}, evaluate")
        evaluate = _held_out(held_out, root, processor)
    return train(model, processor, dataset, config, evaluate=evaluate, resume=resume)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m medclip_helpers.training",
        description="Pretrain MedCLIP as a run file says.",
        epilog=RUN_FILE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, help="the run file")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        result = train_from_file(options.config, options.resume)
    except (ValueError, FileNotFoundError, TrainingStopped) as error:
        raise SystemExit(f"{parser.prog}: {error}") from error
    logging.info("best at step %s; the model is in %s", result.best_step, result.folder)
