"""What a training run can be told: `TrainingConfig` in Python, all of it in a run file."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..hub import read_settings

RUN_FILE = Path(__file__).with_name("run_file.txt").read_text(encoding="utf-8")  # help
RECIPES = Path(__file__).with_name("recipes")
CHOICES = {
    "loss": ("semantic", "info_nce"),
    "label_similarity": ("cosine", "dot"),
    "precision": ("auto", "float32", "bfloat16", "float16"),
    "device": ("auto", "cpu"),
}
KINDS: dict[str, Any] = {"int": int, "float": (int, float), "str": str, "bool": bool}
MAY_BE_ZERO = ("weight_decay", "warmup_ratio", "max_grad_norm", "seed", "num_workers")


def read_recipe(name: str) -> dict[str, Any]:
    """A complete run file except for the data: "authors" (their code) or "ours".

    Raises ValueError for an unknown name.
    """
    known = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    if name not in known:
        raise ValueError(f"recipe is {name!r}, expected one of {known}")
    return read_settings(RECIPES / f"{name}.yaml")


@dataclass
class TrainingConfig:
    """Settings of a run. The defaults are those of the authors' pretraining script.

    output_dir: folder for checkpoints and the result; may be on a mounted drive.
    batch_size: images, and as many texts, in a step, over all processes.
    epochs: passes over the dataset; max_steps, if given, counts steps instead.
    learning_rate: highest rate, reached after `warmup_ratio` of the steps, then a cosine to zero.
    decay_norms: whether weight decay includes the image encoder's layer normalisation, as the
        authors' code does; batch normalisation decays in any case, BERT's and biases never.
    loss: "semantic" (labels as soft targets) or "info_nce" (image i belongs to text i).
    label_similarity: "cosine", the paper's, or "dot", the published code's.
    label_temperature: see `semantic_matching_loss`.
    precision: "float32", "bfloat16", "float16", or "auto": half precision where there is CUDA.
    seed: of the order of samples and of dropout.
    chunk_size: images, or texts, encoded at once (gradient caching): the step is that of the whole
        batch, in the memory of a chunk, for one more forward pass. Not with batch normalisation.
    num_workers: processes that prepare batches; 0 prepares them in this one.
    logging_steps: steps that one entry of the loss history averages over.
    checkpoint_steps: steps between checkpoints, each with an evaluation; None is an epoch.
    keep_last: checkpoints kept, besides the best by `best_metric`.
    device: "auto" (CUDA, else MPS, else CPU) or "cpu".
    progress: whether transformers' progress bar is shown.

    Raises ValueError for a setting of another type, an unknown choice, or a number out of range.
    """

    output_dir: str = "runs/pretraining"
    batch_size: int = 100
    epochs: float = 10
    max_steps: int | None = None
    learning_rate: float = 2e-5
    weight_decay: float = 1e-4
    warmup_ratio: float = 0.1
    max_grad_norm: float = 1.0
    decay_norms: bool = False
    loss: str = "semantic"
    label_similarity: str = "cosine"
    label_temperature: float = 1.0
    precision: str = "auto"
    seed: int = 0
    chunk_size: int | None = None
    num_workers: int = 0
    logging_steps: int = 10
    checkpoint_steps: int | None = None
    keep_last: int = 2
    best_metric: str = "zero_shot_accuracy"
    device: str = "auto"
    progress: bool = True

    def __post_init__(self):
        if isinstance(self.output_dir, os.PathLike):
            self.output_dir = os.fspath(self.output_dir)
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            _check_type(name, value, str(field.type))
            if name in CHOICES and value not in CHOICES[name]:
                raise ValueError(f"{name} is {value!r}, expected one of {CHOICES[name]}")
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                zero = " or 0" if name in MAY_BE_ZERO else ""
                if not (0 < value < math.inf or zero and value == 0):
                    raise ValueError(f"{name} is {value}, expected a positive number{zero}")
        if self.warmup_ratio > 1:
            raise ValueError(f"warmup_ratio is {self.warmup_ratio}, expected a share, 0 to 1")
        if self.loss == "info_nce" and self.batch_size < 2:
            raise ValueError(
                f"batch_size is {self.batch_size}, expected 2 or more: with info_nce a pair "
                "needs another one to contrast with"
            )

    @classmethod
    def from_recipe(cls, name: str, **changes) -> TrainingConfig:
        """The settings of a recipe (see `read_recipe`), with `changes` made to them."""
        return cls(**read_recipe(name)["training"] | changes)

    def steps(self, samples: int) -> int:
        """Steps of the whole run over a dataset of `samples`."""
        return self.max_steps or max(1, round(self.epochs * samples / self.batch_size))


def _check_type(name: str, value: object, declared: str) -> None:
    """declared: the annotation of a field of TrainingConfig."""
    kind, _, rest = declared.partition(" | ")
    if value is None and rest == "None":
        return
    if not isinstance(value, KINDS[kind]) or (isinstance(value, bool) and kind != "bool"):
        is_text = kind == "float" and isinstance(value, str)
        hint = " (YAML reads 1e-3 as text: write 1.0e-3)" if is_text else ""
        raise ValueError(f"{name} is {value!r}, expected {declared}{hint}")
