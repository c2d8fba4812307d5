"""Pretraining: `transformers.Trainer` over the model's own loss.

Mixed precision, schedules, several processes and the loop itself are the Trainer's. What is here
is the glue: the paper's settings, a sampler that knows no state, zero-shot accuracy at every
checkpoint, and checkpoints that are whole or not there, so that a run killed at any moment goes on
as if nothing had happened.

    python -m medclip_helpers.training --config run.yaml
    torchrun --nproc-per-node=2 -m medclip_helpers.training --config run.yaml
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from ..constants import IMAGE_SIZE, PUBLISHED_NOTE, TRAINED_NOTE, UNTRAINED_NOTE
from ..model import MedCLIPModel, MedCLIPTextModel, MedCLIPVisionEncoder
from ..processor import MedCLIPImageProcessor, MedCLIPProcessor
from . import checkpointing
from .config import TrainingConfig
from .trainer import MedCLIPTrainer

if TYPE_CHECKING:
    import pandas


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
        from ..data import MedCLIPCollator

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
    return TrainingResult(run, trainer.history(), best, checkpointing.checkpoints(run))


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
