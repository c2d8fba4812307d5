"""What `transformers.Trainer` is told, in pretraining and in fine-tuning."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from transformers import TrainingArguments

from ..engines import choose_precision
from .config import TrainingConfig


def training_arguments(config: TrainingConfig, folder: Path, samples: int) -> TrainingArguments:
    """The Trainer's arguments for a run over `samples` that writes into `folder`.

    Raises ValueError where the batch does not divide among the processes.
    """
    steps = config.steps(samples)
    save_steps = config.checkpoint_steps or max(1, round(samples / config.batch_size))
    cuda = torch.cuda.is_available() and config.device != "cpu"
    on_cpu = config.device == "cpu" or not (cuda or torch.backends.mps.is_available())
    precision = config.precision
    if not cuda and precision == "auto":
        precision = "float32"  # where a resumed run is to equal the uninterrupted one
    precision = choose_precision(precision, "cuda" if cuda else "cpu")
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        warmup_steps=round(config.warmup_ratio * steps),
        lr_scheduler_type="cosine",
        optim="adamw_torch",
        bf16=precision == "bfloat16",
        fp16=precision == "float16",
        use_cpu=on_cpu,  # said, or else transformers refuses bfloat16
        seed=config.seed,
        dataloader_num_workers=config.num_workers,
        dataloader_pin_memory=cuda,
        remove_unused_columns=False,
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,
        save_steps=save_steps,
        eval_steps=save_steps,
        ddp_find_unused_parameters=True,  # BERT's pooler
        disable_tqdm=not config.progress,
    )
    # In one process the Trainer would split batches, made larger, over all GPUs that it sees.
    # Several GPUs are used by several processes.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    if config.batch_size % arguments.world_size:
        raise ValueError(
            f"batch_size is {config.batch_size}, expected a multiple of the "
            f"{arguments.world_size} processes"
        )
    arguments.per_device_train_batch_size = config.batch_size // arguments.world_size
    return arguments


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """The Trainer seeds the global generators, for dropout; put back what was there."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
