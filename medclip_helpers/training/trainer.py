"""The Trainer behind `training.train`: samples, loss, checkpoints, evaluation, history."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Sampler
from tqdm.auto import tqdm
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from ..losses import ImageTextContrastiveLoss
from ..model import MAX_LOGIT_SCALE, MedCLIPModel
from . import checkpointing

if TYPE_CHECKING:
    import pandas

    from .config import TrainingConfig

logger = logging.getLogger(__name__)

SETTINGS_FILE = "training.json"
# What may differ when a run is continued: nothing that a number of the run depends on.
FREE_SETTINGS = {"output_dir", "num_workers", "keep_last", "progress", "device"}


class TrainingStopped(RuntimeError):
    """A run could not go on; the message names the step and the last good checkpoint."""


class EpochSampler(Sampler):
    """Indices of a whole run: epoch after epoch, each in an order of its own.

    Yields `epoch * samples + i` for datasets whose item depends on (seed, epoch, i). The order is
    a function of (seed, epoch) alone. `count` indices in all.
    """

    def __init__(self, samples: int, count: int, seed: int):
        self.samples, self.count, self.seed = samples, count, seed

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        for epoch in range(math.ceil(self.count / self.samples)):
            order = np.random.default_rng((self.seed, epoch)).permutation(self.samples)
            left = self.count - epoch * self.samples
            yield from (epoch * self.samples + order[:left]).tolist()


class MedCLIPTrainer(Trainer):
    def __init__(self, model, processor, dataset, config, run, collator, evaluate):
        self.config, self.run, self.processor = config, run, processor
        self.evaluate_model = evaluate
        self._scratch: Path | None = None
        arguments = self.training_arguments(config, run, len(dataset))
        if config.batch_size % arguments.world_size:
            raise ValueError(
                f"batch_size is {config.batch_size}, expected a multiple of the "
                f"{arguments.world_size} processes"
            )
        arguments.per_device_train_batch_size = config.batch_size // arguments.world_size
        loss = ImageTextContrastiveLoss(model, config.label_similarity, config.label_temperature)
        super().__init__(loss, arguments, collator, dataset, callbacks=[_Glue(self)])
        self.remove_callback(PrinterCallback)  # it prints; the progress bar is _Glue's
        show = config.progress and self.is_world_process_zero()
        self.bar = tqdm(total=arguments.max_steps, unit="step", disable=not show)
        self.model_accepts_loss_kwargs = False  # the loss is a mean over the batch as it stands

    @staticmethod
    def training_arguments(config: TrainingConfig, run: Path, samples: int) -> TrainingArguments:
        """The Trainer's own settings for a run over `samples` that writes into the folder `run`."""
        steps = config.steps(samples)
        cuda = torch.cuda.is_available() and config.device != "cpu"
        precision = config.precision
        if precision == "auto":
            half = "bfloat16" if cuda and torch.cuda.is_bf16_supported() else "float16"
            precision = half if cuda else "float32"
        arguments = TrainingArguments(
            output_dir=str(run),
            max_steps=steps,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            warmup_steps=round(config.warmup_ratio * steps),
            lr_scheduler_type="cosine",
            optim="adamw_torch",
            bf16=precision == "bfloat16",
            fp16=precision == "float16",
            use_cpu=config.device == "cpu",
            seed=config.seed,
            dataloader_num_workers=config.num_workers,
            dataloader_pin_memory=cuda,
            remove_unused_columns=False,
            label_names=[],
            logging_steps=config.logging_steps,
            logging_nan_inf_filter=False,
            save_steps=config.checkpoint_steps or max(1, round(samples / config.batch_size)),
            eval_strategy="no",  # _Glue evaluates wherever a checkpoint is due
            ddp_find_unused_parameters=True,  # BERT's pooler
            disable_tqdm=True,
            report_to="none",
        )
        # In one process the Trainer would split batches, made larger, over all GPUs that it sees.
        # Several GPUs are used by several processes.
        arguments._n_gpu = min(arguments.n_gpu, 1)
        return arguments

    # --- samples and loss ---------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset=None) -> EpochSampler:
        # One pass of this sampler is the whole run, so that the Trainer sees a single epoch and a
        # continued run only has to skip batches.
        count = self.args.max_steps * self.config.batch_size
        return EpochSampler(len(self.train_dataset), count, self.config.seed)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        batch = {name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values")}
        if self.config.loss == "semantic":
            batch["img_labels"] = inputs["image_labels"]
            batch["text_labels"] = inputs["text_labels"]
        loss = model(**batch)["loss_value"]
        if not loss.isfinite():
            raise self._stopped(f"the loss is {loss.item()} at step {self.state.global_step + 1}")
        return loss

    def _stopped(
        self, what: str, advice: str = "a lower learning rate may help"
    ) -> TrainingStopped:
        kept = list(checkpointing.checkpoints(self.run).values())
        last = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
        return TrainingStopped(f"{what}: training stopped; {last}; {advice}")

    # --- checkpoints --------------------------------------------------------------------------

    @property
    def medclip(self) -> MedCLIPModel:
        return self.model.model

    def _settings(self) -> dict:
        return {
            "config": dataclasses.asdict(self.config),
            "samples": len(self.train_dataset),
            "processes": self.args.world_size,
        }

    def find_checkpoint(self, resume: bool) -> str | None:
        found = checkpointing.checkpoints(self.run)
        if found and not resume:
            raise ValueError(
                f"{self.run} already holds {', '.join(p.name for p in found.values())}: give "
                "resume=True to go on from there, or another output_dir"
            )
        self._clear_scratch()
        self.accelerator.wait_for_everyone()
        if not found:
            return None
        folder = list(found.values())[-1]
        self._check_settings(json.loads((folder / SETTINGS_FILE).read_text()), folder)
        return str(folder)

    def _check_settings(self, before: dict, folder: Path) -> None:
        now = self._settings()
        old, new = before["config"] | before, now["config"] | now
        differ = [
            f"{name} was {old.get(name)!r} and is {value!r}"
            for name, value in new.items()
            if name not in FREE_SETTINGS | {"config", "processes"} and old.get(name) != value
        ]
        if differ:
            raise ValueError(
                f"{folder} belongs to a run with other settings ({'; '.join(differ)}): a continued "
                f"run keeps them; to change them start a new run from load_medclip({str(folder)!r})"
            )
        if before["processes"] != now["processes"]:
            logger.warning(
                "the run began with %s processes and goes on with %s: dropout will differ",
                before["processes"],
                now["processes"],
            )

    def _clear_scratch(self) -> None:
        if self.is_world_process_zero():
            for left in self.run.glob(f"{checkpointing.SCRATCH}*"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()

    def _get_output_dir(self, trial) -> str:
        return str(self._scratch or self.run)

    def _save_checkpoint(self, model, trial) -> None:
        """The Trainer writes its files into a scratch folder, which then takes its name."""
        step = self.state.global_step
        if not all(p.isfinite().all() for p in self.medclip.parameters()):
            raise self._stopped(f"a weight is not finite after step {step}")
        self._scratch = self.run / checkpointing.SCRATCH
        written = self._scratch / f"checkpoint-{step}"
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                checkpointing.seal(written)
                checkpointing.publish(written, self.run)
                checkpointing.rotate(self.run, self.config.keep_last, self.best_step())
        except Exception as error:  # torch and safetensors have exceptions of their own for a disk
            what = f"checkpoint of step {step} could not be written to {self.run} ({error})"
            raise self._stopped(what, "make room and call again with resume=True") from error
        finally:
            self._scratch = None
            self._clear_scratch()
        self.accelerator.wait_for_everyone()

    def leave_result(self) -> int:
        """Copy the best checkpoint's model to the run's folder; returns its step."""
        best = self.best_step()
        try:
            if self.args.should_save:
                checkpointing.copy_model(checkpointing.checkpoints(self.run)[best], self.run)
        except OSError as error:
            what = f"the model of step {best} could not be copied to {self.run} ({error})"
            raise self._stopped(what, "make room and call again with resume=True") from error
        self.accelerator.wait_for_everyone()
        return best

    def _save(self, output_dir=None, state_dict=None) -> None:
        if self.args.should_save:
            folder = Path(output_dir)
            self.medclip.save_pretrained(folder)
            self.processor.save_pretrained(folder)
            settings = json.dumps(self._settings(), indent=2) + "\n"
            (folder / SETTINGS_FILE).write_text(settings)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None) -> None:
        self.medclip.from_pretrained(resume_from_checkpoint)

    # --- what the log tells -------------------------------------------------------------------

    def history(self) -> pandas.DataFrame:
        import pandas as pd

        rows: dict[int, dict] = {}
        for entry in self.state.log_history:
            rows.setdefault(entry["step"], {}).update(entry)
        table = pd.DataFrame(list(rows.values()))
        table["epoch"] = table["step"] * self.config.batch_size / len(self.train_dataset)
        first = ["step", "epoch", "loss", "learning_rate", "grad_norm"]
        evaluated = [name for name in table if name.startswith("eval_")]
        renamed = {name: name.removeprefix("eval_") for name in evaluated}
        return table[[*first, *evaluated]].rename(columns=renamed)

    def best_step(self) -> int:
        name = f"eval_{self.config.best_metric}"
        scores = {e["step"]: e[name] for e in self.state.log_history if name in e}
        scores = {step: score for step, score in scores.items() if not math.isnan(score)}
        kept = [step for step in checkpointing.checkpoints(self.run) if step in scores]
        return max(kept, key=scores.get) if kept else self.state.global_step


class _Glue(TrainerCallback):
    """Clamps the temperature, evaluates where a checkpoint is due, and shows progress."""

    def __init__(self, trainer: MedCLIPTrainer):
        self.trainer = trainer
        self.shown: dict[str, float] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.bar.update(state.global_step)  # a continued run begins there

    def on_optimizer_step(self, args, state, control, **kwargs):
        with torch.no_grad():
            self.trainer.medclip.logit_scale.clamp_(0, MAX_LOGIT_SCALE)

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.bar.update()
        if control.should_save:
            if self.trainer.evaluate_model is not None:
                metrics = self.trainer.evaluate_model(self.trainer.medclip.eval())
                name = self.trainer.config.best_metric
                if metrics and name not in metrics:
                    raise ValueError(f"best_metric is {name!r}, expected one of {list(metrics)}")
                self.trainer.log({f"eval_{name}": value for name, value in metrics.items()})
            # A continued run averages the loss anew from here; so must the uninterrupted one.
            # (After the other log, which takes back such wishes.)
            control.should_log = True

    def on_log(self, args, state, control, logs=None, **kwargs):
        for name in ("loss", f"eval_{self.trainer.config.best_metric}"):
            if name in logs:
                self.shown[name.removeprefix("eval_")] = logs[name]
        self.trainer.bar.set_postfix(self.shown)
