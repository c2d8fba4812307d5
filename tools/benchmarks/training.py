"""Where the time of a training step goes: a stopwatch around forward, backward and optimizer."""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import accelerate
import torch
from ours import load_full, read_dataset

from medclip_helpers.training import TrainingConfig, train
from medclip_helpers.training.trainer import MedCLIPTrainer

WATCHED = {
    "forward": (MedCLIPTrainer, "compute_loss"),
    "backward": (accelerate.Accelerator, "backward"),
    "clipping": (accelerate.Accelerator, "clip_grad_norm_"),
    "optimizer": (torch.optim.AdamW, "step"),
}


def _watched(method, spans: list[tuple[float, float]]):
    def watched(*arguments, **settings):
        start = time.perf_counter()
        found = method(*arguments, **settings)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        spans.append((start, time.perf_counter()))
        return found

    return watched


def _shares(spans: dict[str, list[tuple[float, float]]]) -> dict[str, float]:
    """Seconds per step, and each part's share of it, from the second step's start to the last's.

    The first step warms up; the last one's end is not known.
    """
    begin, end = spans["forward"][1][0], spans["forward"][-1][0]
    found = {
        name: sum(stop - start for start, stop in parts if begin <= start < end) / (end - begin)
        for name, parts in spans.items()
    }
    outside = 1 - found["forward"] - found["backward"] - found["optimizer"]
    return found | {"outside": outside, "seconds": (end - begin) / (len(spans["forward"]) - 2)}


def step(world: Path, steps: int, batch_size: int):
    """Shares of a step on the CPU."""
    return step_of(*load_full(world), world, steps, batch_size, device="cpu")


def step_of(model, processor, world: Path, steps: int, batch_size: int, **settings):
    """Shares of a step where the `settings` of a `TrainingConfig` say.

    Of steps on a GPU each part waits for the GPU, so that its work counts where it was asked for.
    """
    dataset = read_dataset(world, "images")
    folder = world / "training"
    config = TrainingConfig(
        output_dir=str(folder), batch_size=batch_size, max_steps=steps, logging_steps=steps,
        progress=False, **settings,
    )  # fmt: skip

    def call():
        shutil.rmtree(folder, ignore_errors=True)
        spans: dict[str, list] = defaultdict(list)
        with ExitStack() as stack:
            for name, (owner, method) in WATCHED.items():
                watched = _watched(getattr(owner, method), spans[name])
                stack.enter_context(patch.object(owner, method, watched))
            # What a checkpoint costs is not part of a step.
            stack.enter_context(patch.object(MedCLIPTrainer, "_save_checkpoint", lambda *_: None))
            stack.enter_context(patch.object(MedCLIPTrainer, "leave_result", lambda _: steps))
            train(model, processor, dataset, config)
        return _shares(spans)

    return call
