"""Pretraining: `transformers.Trainer` over the model's own loss.

Mixed precision, schedules, several processes and the loop itself are the Trainer's. What is here
is the glue: the paper's settings, a sampler that knows no state, zero-shot accuracy at every
checkpoint, and checkpoints that are whole or not there, so that a run killed at any moment goes on
as if nothing had happened.

    python -m medclip_helpers.training --config run.yaml
    torchrun --nproc-per-node=2 -m medclip_helpers.training --config run.yaml
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from . import run_folder
from .constants import IMAGE_SIZE
from .model import (
    PUBLISHED_NOTE,
    TRAINED_NOTE,
    UNTRAINED_NOTE,
    MedCLIPModel,
    MedCLIPTextModel,
    MedCLIPVisionEncoder,
)
from .processor import MedCLIPImageProcessor, MedCLIPProcessor
from .trainer import MedCLIPTrainer, TrainingStopped

if TYPE_CHECKING:
    import pandas

logger = logging.getLogger(__name__)


@dataclass
class TrainingConfig:
    """Settings of a run. The defaults are the paper's (section 4.2) and its published script's.

    output_dir: folder for checkpoints and the result; may be on a mounted drive.
    batch_size: images, and as many texts, in a step, over all processes.
    epochs: passes over the dataset; max_steps, if given, counts steps instead.
    learning_rate: highest rate, reached after `warmup_ratio` of the steps, then a cosine to zero.
    loss: "semantic" (labels as soft targets) or "info_nce" (image i belongs to text i).
    label_similarity: "cosine", the paper's, or "dot", the published code's.
    label_temperature: see `semantic_matching_loss`.
    precision: "float32", "bfloat16", "float16", or "auto": half precision where there is CUDA.
    seed: of the order of samples and of dropout.
    num_workers: processes that prepare batches; 0 prepares them in this one.
    logging_steps: steps that one entry of the loss history averages over.
    checkpoint_steps: steps between checkpoints, each with an evaluation; None is an epoch.
    keep_last: checkpoints kept, besides the best by `best_metric`.
    device: "auto" (CUDA, else MPS, else CPU) or "cpu".
    """

    output_dir: str = "runs/pretraining"
    batch_size: int = 100
    epochs: float = 10
    max_steps: int | None = None
    learning_rate: float = 2e-5
    weight_decay: float = 1e-4
    warmup_ratio: float = 0.1
    max_grad_norm: float = 1.0
    loss: str = "semantic"
    label_similarity: str = "cosine"
    label_temperature: float = 1.0
    precision: str = "auto"
    seed: int = 0
    num_workers: int = 0
    logging_steps: int = 10
    checkpoint_steps: int | None = None
    keep_last: int = 2
    best_metric: str = "zero_shot_accuracy"
    device: str = "auto"
    progress: bool = True

    def __post_init__(self):
        choices = {
            "loss": ("semantic", "info_nce"),
            "label_similarity": ("cosine", "dot"),
            "precision": ("auto", "float32", "bfloat16", "float16"),
            "device": ("auto", "cpu"),
        }
        self.output_dir = os.fspath(self.output_dir)
        for field in dataclasses.fields(self):
            _check_type(field.name, getattr(self, field.name), field.type)
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {allowed}")
        positive = ("batch_size", "epochs", "max_steps", "learning_rate", "label_temperature")
        for name in (*positive, "logging_steps", "checkpoint_steps", "keep_last"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}, expected a positive number")

    def steps(self, samples: int) -> int:
        """Steps of the whole run over a dataset of `samples`."""
        return self.max_steps or max(1, round(self.epochs * samples / self.batch_size))


def _check_type(name: str, value, declared: str) -> None:
    """declared: the annotation of a field of TrainingConfig."""
    kind, _, rest = declared.partition(" | ")
    if value is None and rest == "None":
        return
    allowed = {"int": int, "float": (int, float), "str": str, "bool": bool}[kind]
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind != "bool"):
        is_text = kind == "float" and isinstance(value, str)
        hint = " (YAML reads 1e-3 as text: write 1.0e-3)" if is_text else ""
        raise ValueError(f"{name} is {value!r}, expected {declared}{hint}")


@dataclass
class TrainingResult:
    """What a run left.

    folder: where `load_medclip(folder)` finds the model of `best_step`.
    history: one row a logged step: step, epoch, loss, learning_rate, and at each checkpoint the
        metrics of the evaluation.
    best_step: step with the highest best metric; the last step if there was none.
    checkpoints: {step: folder} of the checkpoints that were kept.
    """

    folder: Path
    history: pandas.DataFrame
    best_step: int
    checkpoints: dict[int, Path]


def build_model(
    vision: Mapping, text: Mapping | str, tokenizer, image_size: int = IMAGE_SIZE, seed: int = 0
) -> tuple[MedCLIPModel, MedCLIPProcessor]:
    """A model to train from the beginning, and its processor.

    vision: arguments of `MedCLIPVisionEncoder`; with `pretrained: True` timm fetches its weights.
    text: fields of a `BertConfig`, or a name or folder whose BERT weights transformers loads, e.g.
        "emilyalsentzer/Bio_ClinicalBERT", the paper's.
    tokenizer: the tokenizer, or a folder with it; None is the published one.
    image_size: side, in pixels, of the images that the model is given.
    seed: of the random weights.
    """
    if isinstance(tokenizer, (str, Path)):
        tokenizer = BertTokenizer.from_pretrained(tokenizer)
    processor = MedCLIPProcessor(MedCLIPImageProcessor(image_size), tokenizer)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = MedCLIPVisionEncoder(**vision)
        encoder.config.pop("pretrained", None)  # whoever loads this model has its weights
        dim = encoder.config["projection_dim"]
        if isinstance(text, str):
            bert = BertModel.from_pretrained(text)
            text_model = MedCLIPTextModel(bert.config, dim)
            text_model.model = bert
        else:
            fields = {"vocab_size": len(processor.tokenizer), **text}
            text_model = MedCLIPTextModel(BertConfig(**fields), dim)
        return MedCLIPModel(encoder, text_model), processor


def zero_shot_evaluator(
    processor: MedCLIPProcessor, images: Sequence, labels: Sequence[str], prompts: dict
) -> Callable[[MedCLIPModel], dict[str, float]]:
    """For `train(evaluate=...)`: how well prompts tell held-out images apart.

    images: what `read_radiograph` takes. labels: the class of each, a key of `prompts`.
    prompts: {class: [prompt, ...]}.

    The result maps a model to `zero_shot_accuracy`, the share of images whose own class scores
    highest, and `zero_shot_auroc`, the mean over classes of the area under the ROC curve.
    Raises ValueError for a label without prompts.
    """
    from sklearn.metrics import roc_auc_score

    from .classifier import PromptClassifier
    from .prompts import process_class_prompts

    if unknown := sorted(set(labels) - set(prompts)):
        raise ValueError(f"no prompts for the classes {unknown}: expected some of {list(prompts)}")
    pixel_values = processor(images=images)["pixel_values"]
    prompt_inputs = process_class_prompts(prompts, processor.tokenizer)
    truth = np.array([list(prompts).index(label) for label in labels])

    def evaluate(model: MedCLIPModel) -> dict[str, float]:
        with torch.no_grad():
            scores = PromptClassifier(model.eval())(pixel_values, prompt_inputs)["logits"]
        scores = scores.float().cpu().numpy()
        areas = [roc_auc_score(truth == k, scores[:, k]) for k in range(len(prompts)) if k in truth]
        return {
            "zero_shot_accuracy": float((scores.argmax(1) == truth).mean()),
            "zero_shot_auroc": float(np.mean(areas)),
        }

    return evaluate


def train(
    model: MedCLIPModel,
    processor: MedCLIPProcessor,
    train_dataset,
    config: TrainingConfig,
    *,
    collator: Callable | None = None,
    evaluate: Callable[[MedCLIPModel], dict[str, float]] | None = None,
    resume: bool = False,
) -> TrainingResult:
    """Train `model` in place and leave checkpoints and the best model in `config.output_dir`.

    train_dataset: a dataset as in `data`: its item `epoch * len + i` is sample i of that epoch.
    collator: samples into a batch; by default `MedCLIPCollator(processor)`.
    evaluate: model -> metrics, called at each checkpoint (see `zero_shot_evaluator`); the best
        checkpoint is the one with the highest `config.best_metric`.
    resume: go on from the newest complete checkpoint; without one, begin. On a CPU the continued
        run equals the uninterrupted one bit for bit. Everything but FREE_SETTINGS must be as it
        was.

    At the end `model` is in eval mode and holds the weights of the last step, the folder those of
    the best. Its `note` says that it was trained, unless it already said something of its own.

    Raises ValueError if the folder holds checkpoints and `resume` is False or settings differ, or
    if the evaluation gives no `config.best_metric`, and TrainingStopped if the loss or a weight is
    not finite or a checkpoint cannot be written; the checkpoints written before stay.
    """
    run = Path(config.output_dir).expanduser()
    run.mkdir(parents=True, exist_ok=True)
    if collator is None:
        from .data import MedCLIPCollator

        collator = MedCLIPCollator(processor)
    if model.note in (UNTRAINED_NOTE, PUBLISHED_NOTE):
        model.note = TRAINED_NOTE
    with preserved_random_state():
        trainer = MedCLIPTrainer(model, processor, train_dataset, config, run, collator, evaluate)
        try:
            trainer.train(resume_from_checkpoint=trainer.find_checkpoint(resume))
        finally:
            trainer.bar.close()
    model.eval()
    best = trainer.leave_result()
    return TrainingResult(run, trainer.history(), best, run_folder.checkpoints(run))


@contextmanager
def preserved_random_state():
    """The Trainer seeds the global generators, for dropout; put back what was there."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


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
    from .data import LABELS, read_manifest
    from .prompts import load_class_prompts
    from .reproduce import class_numbers, is_exclusive

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

    from .checkpoints import load_medclip
    from .data import UnpairedDataset, read_manifest, read_sentences

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


if __name__ == "__main__":
    main()
