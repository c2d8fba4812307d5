"""Train a classifier of `heads` on a manifest, and judge it on the manifest's test images.

The loop is `transformers.Trainer`'s with the settings of `TrainingConfig`, as in pretraining.
Nothing stays on disk and no step is chosen: the last one is the result.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, default_collate
from transformers import Trainer
from transformers.trainer_callback import PrinterCallback

from ..data import LabelledImages, class_numbers, encode_labels
from ..evaluation import evaluate_classification
from ..model import MedCLIPModel, MedCLIPVisionEncoder
from ..processor import MedCLIPProcessor
from ..prompts import load_class_prompts, process_class_prompts
from .arguments import preserved_random_state, training_arguments
from .config import TrainingConfig
from .heads import PromptTuningClassifier, SuperviseClassifier

if TYPE_CHECKING:
    from ..data import DataSet

# What learns, and the highest learning rate where none is given:
#   linear probe    a linear layer on the frozen image encoder
#   fine-tuning     the layer and the encoder
#   random weights  the same from an encoder that knows nothing, to see what pretraining gave
#   prompt tuning   words at the beginning of the prompts; the encoders are frozen
LEARNING_RATES = {
    "linear probe": 1e-2,
    "fine-tuning": 1e-4,
    "random weights": 1e-3,
    "prompt tuning": 1e-2,
}
CONTEXT = 4  # learned words a class
PROMPTS_PER_CLASS = 5  # that the learned words are put before


def build_classifier(
    method: str, model: MedCLIPModel, classes: Sequence[str], mode: str, seed: int = 0
) -> nn.Module:
    """A classifier for one of LEARNING_RATES' methods, on a copy of `model`; `seed`: new weights.

    mode: as for `SuperviseClassifier`. Prompt tuning takes two exclusive classes for "binary": a
    class has to have another one to be compared with.
    """
    if method not in LEARNING_RATES:
        raise ValueError(f"method is {method!r}, expected one of {list(LEARNING_RATES)}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if method == "prompt tuning":
            mode = "multiclass" if mode == "binary" else mode
            return PromptTuningClassifier(model, CONTEXT, True, len(classes), mode)
        encoder = copy.deepcopy(model.vision_model).requires_grad_(True)
        if method == "random weights":
            encoder = MedCLIPVisionEncoder(**encoder.config).to(model.device)
        elif method == "linear probe":
            encoder.requires_grad_(False)
        encoder.projection_head.requires_grad_(False)  # the layer reads what comes before it
        return SuperviseClassifier(encoder, len(classes), mode=mode)


def fit(
    classifier: nn.Module, dataset: Dataset, config: TrainingConfig, collate: Callable
) -> nn.Module:
    """Train in place and return it in eval mode. collate: items -> arguments of the classifier.

    config: `output_dir`, `loss` and what is about checkpoints are not looked at.
    """
    samples = len(dataset)  # type: ignore[arg-type]  # torch's Dataset declares no length
    with tempfile.TemporaryDirectory() as folder, preserved_random_state():
        arguments = training_arguments(config, Path(folder), samples)
        arguments.save_strategy = "no"
        trainer = Trainer(classifier, arguments, collate, dataset)
        trainer.remove_callback(PrinterCallback)  # it prints
        trainer.model_accepts_loss_kwargs = False  # the loss is a mean over the batch as it stands
        trainer.train()
    return classifier.eval()


@torch.no_grad()
def predict_logits(
    classifier: nn.Module, dataset: Dataset, collate: Callable, batch_size: int = 32
) -> np.ndarray:
    """(images, classes), in eval mode; one column for "binary"."""
    classifier.eval()
    # A generator of its own, because a loader takes a number from the global one even in order.
    own = torch.Generator()
    batches = DataLoader(dataset, batch_size, collate_fn=collate, generator=own)
    logits = [classifier(**batch, return_loss=False)["logits"].float().cpu() for batch in batches]
    return torch.cat(logits).numpy()


def evaluate_method(
    method: str,
    model: MedCLIPModel,
    processor: MedCLIPProcessor,
    table: pd.DataFrame,
    known: DataSet,
    config: TrainingConfig | None = None,
    *,
    train_images: int | None = None,
    **resampling,
) -> pd.DataFrame:
    """Train by `method` on the manifest's train images and evaluate on its test images.

    method: one of LEARNING_RATES. table: of `build_manifest`. known: its `DATASETS[name]`.
    config: `TrainingConfig`; by default ten epochs at the method's rate. Its `seed` is also that of
        new weights, of the prompts and of the images that are drawn.
    train_images: so many of the train images, drawn; None or 0 takes all.
    resampling: as for `evaluate_classification`.

    In training, an uncertain or unmentioned finding counts as absent, as published; in the test it
    is not counted. Returns what `evaluate_classification` does; `model` stays as it is.
    Raises ValueError where the manifest has no train or no test images.
    """
    if method not in LEARNING_RATES:
        raise ValueError(f"method is {method!r}, expected one of {list(LEARNING_RATES)}")
    config = config or TrainingConfig(learning_rate=LEARNING_RATES[method])
    splits = {split: table[table["split"] == split] for split in ("train", "test")}
    for split, rows in splits.items():
        if rows.empty:
            raise ValueError(f"no row of the manifest has split {split!r}: expected some")
    if train_images:
        count = min(train_images, len(splits["train"]))
        splits["train"] = splits["train"].sample(count, random_state=config.seed)
    labels = {split: _labels(rows, known) for split, rows in splits.items()}
    train, test = (
        LabelledImages(
            rows["imgpath"].tolist(),
            encode_labels(labels[split]) if known.mode == "multilabel" else labels[split],
            processor,
        )
        for split, rows in splits.items()
    )
    classifier = build_classifier(method, model, known.classes, known.mode, config.seed)
    collate = _collator(method, processor, known, config.seed)
    logits = predict_logits(fit(classifier, train, config, collate), test, collate)
    yes = 0 if known.mode == "multilabel" or logits.shape[1] == 1 else None  # a sigmoid's one half
    return evaluate_classification(
        labels["test"], logits, known.classes, known.mode, threshold=yes, seed=config.seed,
        groups=splits["test"]["subject_id"], **resampling,
    )  # fmt: skip


def _labels(rows: pd.DataFrame, known: DataSet) -> np.ndarray:
    """(images, classes) in their four states for multilabel, otherwise (images,) class numbers."""
    if known.mode == "multilabel":
        return rows[list(known.classes)].to_numpy(np.float32)
    return class_numbers(rows, known.classes).astype(np.float32)


def _collator(method: str, processor: MedCLIPProcessor, known: DataSet, seed: int) -> Callable:
    if method != "prompt tuning":
        return default_collate
    prompts = load_class_prompts(known.prompts, n=PROMPTS_PER_CLASS, seed=seed)
    inputs = process_class_prompts({c: prompts[c] for c in known.classes}, processor)
    return lambda items: {**default_collate(items), "prompt_inputs": inputs}
