"""Train a classifier of `heads` on a manifest, and evaluate it on the manifest's test images.

The loop is `transformers.Trainer`'s with the settings of `TrainingConfig`, as in pretraining.
Nothing stays on disk. The last step is the result, or the best of those that were evaluated.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from accelerate.utils import extract_model_from_parallel
from torch import nn
from torch.utils.data import DataLoader, Dataset, default_collate
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from ..data import LabelledImages, class_numbers, encode_labels, image_augmentation
from ..evaluation import AVERAGE, draw_prompts, evaluate_classification
from ..model import MedCLIPModel, MedCLIPVisionEncoder
from ..processor import MedCLIPProcessor
from ..prompts import load_class_prompts, process_class_prompts
from .arguments import preserved_random_state, training_arguments
from .config import TrainingConfig
from .heads import PromptTuningClassifier, SuperviseClassifier

if TYPE_CHECKING:
    from ..data import DataSet

# What is trained, and the peak learning rate where none is given:
#   linear probe    a linear layer on the frozen image encoder
#   fine-tuning     the layer and the encoder
#   random weights  the same from an untrained encoder, to see what pretraining gains
#   prompt tuning   words at the beginning of the prompts; the encoders are frozen
LEARNING_RATES = {
    "linear probe": 1e-2,
    "fine-tuning": 1e-4,
    "random weights": 1e-3,
    "prompt tuning": 1e-2,
}
CONTEXT = 4  # learned words per class
PROMPTS_PER_CLASS = 5  # that the learned words are put before
# The authors' two methods: `run_linear_probe.py`, `run_prompt_tuning.py` at 4793cf1.
AUTHORS_CONFIG: dict[str, Any] = {
    "batch_size": 64,
    "epochs": 10,
    "learning_rate": 5e-4,
    "weight_decay": 0.0,
}
AUTHORS_STEPS = {"linear probe": 50, "prompt tuning": 10}  # from one evaluation to the next
AUTHORS_CONTEXT = 16


def build_classifier(
    method: str,
    model: MedCLIPModel,
    classes: Sequence[str],
    mode: str,
    seed: int = 0,
    as_authors: bool = False,
) -> nn.Module:
    """A classifier for one of LEARNING_RATES' methods, on a copy of `model`; `seed`: new weights.

    mode: as for `SuperviseClassifier`. Prompt tuning takes two exclusive classes for "binary": a
    class needs another one to be compared with.
    as_authors: 16 learned words for all classes, Kaiming-uniform initially, and the
        maximum over prompts; and the probe of `SuperviseClassifier(as_authors=True)`.
    """
    if method not in LEARNING_RATES:
        raise ValueError(f"method is {method!r}, expected one of {list(LEARNING_RATES)}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if method == "prompt tuning":
            mode = "multiclass" if mode == "binary" else mode
            if not as_authors:
                return PromptTuningClassifier(model, CONTEXT, True, len(classes), mode)
            tuned = PromptTuningClassifier(
                model, AUTHORS_CONTEXT, False, len(classes), mode, ensemble=False
            )
            nn.init.kaiming_uniform_(tuned.context)
            return tuned
        encoder = copy.deepcopy(model.vision_model).requires_grad_(True)
        if method == "random weights":
            config = encoder.config | {"pretrained": False}
            encoder = MedCLIPVisionEncoder(**config).to(model.device)
        elif method == "linear probe":
            encoder.requires_grad_(False)
        encoder.projection_head.requires_grad_(False)  # the layer reads what comes before it
        return SuperviseClassifier(encoder, len(classes), mode=mode, as_authors=as_authors)


class _KeepBest(TrainerCallback):
    """Judges the classifier every `every` steps, and remembers the best weights."""

    def __init__(self, judge: Callable[[nn.Module], float], every: int):
        self.judge, self.every, self.best = judge, every, -math.inf
        self.state: dict[str, torch.Tensor] = {}

    def on_step_end(self, args, state, control, *, model, **kwargs):
        if state.global_step % self.every and state.global_step < state.max_steps:
            return
        score = self.judge(model)
        model.train()
        if score > self.best:
            self.best = score
            self.state = {name: part.clone() for name, part in model.state_dict().items()}


def fit(
    classifier: nn.Module,
    dataset: Dataset,
    config: TrainingConfig,
    collate: Callable,
    *,
    judge: Callable[[nn.Module], float] | None = None,
    every: int = 50,
) -> nn.Module:
    """Train in place and return the classifier in eval mode. collate: items -> its arguments.

    config: `output_dir`, `loss`, `decay_norms` and what is about checkpoints are ignored.
    judge: classifier -> score, called every `every` steps and at the end; the weights with the
        highest score are kept. Without it, the last ones.

    Raises ValueError for a `chunk_size`, and where the judge never gave a number.
    """
    if config.chunk_size is not None:
        raise ValueError(f"chunk_size is {config.chunk_size}, which is for pretraining only")
    samples = len(dataset)  # type: ignore[arg-type]  # torch's Dataset declares no length
    with tempfile.TemporaryDirectory() as folder, preserved_random_state():
        arguments = training_arguments(config, Path(folder), samples)
        arguments.save_strategy = "no"
        trainer = Trainer(classifier, arguments, collate, dataset)
        trainer.remove_callback(PrinterCallback)  # it prints
        trainer.model_accepts_loss_kwargs = False  # the loss is a mean over the batch as it stands
        if judge is not None:
            trainer.add_callback(keep := _KeepBest(judge, every))
        try:
            trainer.train()
        finally:  # accelerate's autocast would stay in the classifier, also for another `fit`
            extract_model_from_parallel(classifier, keep_fp32_wrapper=False)
            vars(classifier).pop("_is_accelerate_prepared", None)
        if judge is not None:
            if not keep.state:
                raise ValueError("the judge never gave a number to choose a step by")
            classifier.load_state_dict(keep.state)
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


def method_config(method: str, protocol: str | None = None, **changes) -> TrainingConfig:
    """The settings of one of LEARNING_RATES' methods, ours or "authors", and what is changed.

    Raises ValueError for a method that the authors do not have.
    """
    if protocol != "authors":
        return TrainingConfig(**{"learning_rate": LEARNING_RATES[method], **changes})
    if method not in AUTHORS_STEPS:
        raise ValueError(f"method is {method!r}, expected the authors' {list(AUTHORS_STEPS)}")
    return TrainingConfig(**AUTHORS_CONFIG | changes)


def evaluate_method(
    method: str,
    model: MedCLIPModel,
    processor: MedCLIPProcessor,
    table: pd.DataFrame,
    known: DataSet,
    config: TrainingConfig | None = None,
    *,
    train_images: int | None = None,
    protocol: str | None = None,
    prompts: str | None = None,
    sentences: pd.DataFrame | None = None,
    **resampling,
) -> pd.DataFrame:
    """Train by `method` on the manifest's train images and evaluate on its test images.

    method: one of LEARNING_RATES. table: of `build_manifest`. known: its `DATASETS[name]`.
    config: `TrainingConfig`; by default ten epochs at the method's rate. Its `seed` is also that of
        new weights and of the prompts and images that are sampled.
    train_images: how many of the train images to sample; None or 0 takes all.
    protocol: "authors": linear probe and prompt tuning with their settings (augmented images, ten
        prompts, maximum), the step that is best **on the test images**; "ours": the step that is
        best on the manifest's valid images, where there are any. None: the last step.
    prompts, sentences: as for `evaluation.draw_prompts`; by default the data set's preset.
    resampling: as for `evaluate_classification`.

    In training, an uncertain or unmentioned finding counts as absent, as published; in the test it
    is ignored. Returns what `evaluate_classification` does; `model` stays as it is.
    Raises ValueError where the manifest has no train or no test images.
    """
    if method not in LEARNING_RATES:
        raise ValueError(f"method is {method!r}, expected one of {list(LEARNING_RATES)}")
    as_authors = protocol == "authors"
    config = config or method_config(method, protocol)
    chosen_on = {"authors": "test", "ours": "valid"}.get(protocol or "", "")
    chosen_on = chosen_on if chosen_on in set(table["split"]) else ""
    needed = dict.fromkeys(filter(None, ("train", "test", chosen_on)))
    splits = {split: table[table["split"] == split] for split in needed}
    for split, rows in splits.items():
        if rows.empty:
            raise ValueError(f"no row of the manifest has split {split!r}: expected at least one")
    if train_images:
        count = min(train_images, len(splits["train"]))
        splits["train"] = splits["train"].sample(count, random_state=config.seed)
    labels = {split: _labels(rows, known) for split, rows in splits.items()}
    vary = image_augmentation(processor.image_processor.size, flip=True) if as_authors else None
    images = {
        split: LabelledImages(
            splits[split]["imgpath"].tolist(),
            encode_labels(known_labels) if known.mode == "multilabel" else known_labels,
            processor,
            vary if split == "train" else None,
        )
        for split, known_labels in labels.items()
    }
    made = method, model, known.classes, known.mode, config.seed
    classifier = build_classifier(*made, as_authors=as_authors)
    collate = _collator(method, processor, known, config.seed, as_authors, prompts, sentences)

    def judge(classifier: nn.Module) -> float:
        logits = predict_logits(classifier, images[chosen_on], collate)
        return _score(labels[chosen_on], logits, known.mode)

    fit(
        classifier, images["train"], config, collate,
        judge=judge if chosen_on else None, every=AUTHORS_STEPS.get(method, 50),
    )  # fmt: skip
    logits = predict_logits(classifier, images["test"], collate)
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


def _score(labels: np.ndarray, logits: np.ndarray, mode: str) -> float:
    """What a step is chosen by: accuracy, for one output its mean with AUROC, as the authors do."""
    if mode == "multilabel" or logits.shape[1] == 1:
        found = evaluate_classification(
            labels, logits, [str(k) for k in range(max(2, logits.shape[1]))], mode,
            threshold=0, resamples=1,
        )  # fmt: skip
        average = found[found["class"] == AVERAGE].set_index("metric")["value"]
        return float(average.reindex(["accuracy", "auroc"]).mean())
    return float((logits.argmax(axis=1) == labels).mean())


def _collator(
    method: str,
    processor: MedCLIPProcessor,
    known: DataSet,
    seed: int,
    as_authors: bool,
    source: str | None,
    sentences: pd.DataFrame | None,
) -> Callable:
    if method != "prompt tuning":
        return default_collate
    if as_authors:
        (prompts,) = draw_prompts(source or known.prompts, sentences, runs=1)
    else:
        prompts = load_class_prompts(source or known.prompts, n=PROMPTS_PER_CLASS, seed=seed)
    inputs = process_class_prompts({c: prompts[c] for c in known.classes}, processor)
    return lambda items: {**default_collate(items), "prompt_inputs": inputs}
