"""Pretraining: `transformers.Trainer` over the model's own loss.

Mixed precision, schedules, several processes and the loop itself are the Trainer's. What is here
is the glue: a stateless sampler, zero-shot accuracy at every checkpoint, and checkpoints
written atomically, so that a run killed at any moment resumes as if nothing had happened.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from ..constants import TRAINED_NOTE
from ..data import MedCLIPCollator
from ..engines import attention_of_any_length
from ..hub import REPLACED_NOTES, fingerprint, locked_folder
from ..losses import ImageTextContrastiveLoss
from ..model import MAX_LOGIT_SCALE, MedCLIPModel
from ..processor import MedCLIPProcessor
from . import checkpointing
from .arguments import preserved_random_state, training_arguments
from .config import TrainingConfig
from .gradient_cache import backward_in_chunks, check_model
from .sampler import EpochSampler

# what the loss takes from a collator's batch
INPUTS = "pixel_values", "input_ids", "attention_mask", "aug_input_ids", "aug_attention_mask"
LABELS_OF = "image_labels", "text_labels"
SETTINGS_FILE = "training.json"
# What may differ when a run is resumed: nothing that its numbers depend on.
FREE_SETTINGS = {"output_dir", "num_workers", "keep_last", "progress", "device"}
# What is compared by a hash, and what to call it where it differs.
HASHED = {
    "data": "images, labels, sentences or way of matching them",
    "collator": "processor, transforms or meaning of absent and uncertain",
    "evaluation": "held-out images or prompts",
    "dropout": "rates of dropout in the model",
}


class TrainingStopped(RuntimeError):
    """A run could not continue; the message names the step and the last good checkpoint."""


@dataclass
class TrainingResult:
    """What a run produced.

    folder: where `load_medclip(folder)` finds the model of `best_step`.
    history: one row per logged step: step, epoch, loss, learning_rate, and at each checkpoint the
        metrics of the evaluation.
    best_step: step with the highest best metric; the last step if there was none.
    checkpoints: {step: folder} of the checkpoints that were kept.
    """

    folder: Path
    history: pd.DataFrame
    best_step: int
    checkpoints: dict[int, Path]


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
    resume: continue from the newest complete checkpoint; without one, start. On a CPU the resumed
        run equals the uninterrupted one bit for bit; with a different number of processes than at
        the start, dropout differs. Everything but FREE_SETTINGS must be as it was.

    At the end `model` is in eval mode and holds the weights of the last step, the folder those of
    the best. Its `note` says that it was trained, unless it already said something of its own.

    Raises ValueError if the folder cannot be made, if it holds checkpoints and `resume` is False or
    settings differ, if the batch does not divide among the processes, or if the evaluation gives no
    `config.best_metric`; TrainingStopped if the loss or a weight is not finite or a checkpoint
    cannot be written. The checkpoints written before stay.
    """
    try:
        run = Path(config.output_dir).expanduser()
        run.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"output_dir is {config.output_dir!r}: {error}") from error
    known = getattr(evaluate, "metrics", (config.best_metric,))
    if config.best_metric not in known:
        raise ValueError(f"best_metric is {config.best_metric!r}, expected one of {list(known)}")
    collator = collator or MedCLIPCollator(processor)
    with preserved_random_state():
        trainer = MedCLIPTrainer(model, processor, train_dataset, config, run, collator, evaluate)
        # Of several processes of one run, the first locks the folder for all of them.
        with locked_folder(run) if trainer.is_world_process_zero() else nullcontext():
            try:
                checkpoint = trainer.find_checkpoint(resume)
                if model.note in REPLACED_NOTES:
                    model.note = TRAINED_NOTE
                trainer.train(resume_from_checkpoint=checkpoint)
            finally:
                trainer.remove_callback(ProgressCallback)  # closes the bar of a stopped run
                model.eval()
            best = trainer.leave_result()
            return TrainingResult(run, trainer.history(), best, checkpointing.checkpoints(run))


class MedCLIPTrainer(Trainer):
    """A `transformers.Trainer` for `train`, whose arguments it takes; `run` is the run's folder."""

    def __init__(
        self,
        model: MedCLIPModel,
        processor: MedCLIPProcessor,
        dataset,
        config: TrainingConfig,
        run: Path,
        collator: Callable,
        evaluator: Callable[[MedCLIPModel], dict[str, float]] | None,
    ):
        self.medclip, self.processor, self.config, self.run = model, processor, config, run
        self.evaluator, self.samples = evaluator, len(dataset)
        arguments = training_arguments(config, run, self.samples)
        if config.chunk_size is not None:
            check_model(model)
            if arguments.world_size > 1:
                raise ValueError(
                    f"chunk_size is for one process, this run has {arguments.world_size}"
                )
        loss = ImageTextContrastiveLoss(model, config.label_similarity, config.label_temperature)
        if evaluator is not None:
            arguments.eval_strategy = "steps"
        at_each_step = _AtEachStep(config.batch_size / self.samples)
        # [], because the Trainer insists on data to evaluate on; our `evaluate` has its own.
        super().__init__(loss, arguments, collator, dataset, [], callbacks=[at_each_step])
        self.remove_callback(PrinterCallback)  # it prints
        self.model_accepts_loss_kwargs = False  # the loss is a mean over the batch as it stands

    # --- samples and loss ---------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset=None) -> EpochSampler:
        # One pass of this sampler is the whole run, so that the Trainer sees a single epoch and a
        # resumed run only has to skip batches.
        count = self.args.max_steps * self.config.batch_size
        return EpochSampler(self.samples, count, self.config.seed)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        with attention_of_any_length():
            return self._finite(model(**self._batch(inputs))["loss_value"])

    def _batch(self, inputs) -> dict:
        names = INPUTS + (LABELS_OF if self.config.loss == "semantic" else ())
        return {name: inputs[name] for name in names if name in inputs}

    def _finite(self, loss):
        if not loss.isfinite():
            raise self._stopped(f"the loss is {loss.item()} at step {self.state.global_step + 1}")
        return loss

    def training_step(self, model, inputs, num_items_in_batch=None):
        if self.config.chunk_size is None:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        batch = self._batch(self._prepare_inputs(inputs))
        backward = self.accelerator.backward
        with attention_of_any_length():
            loss = backward_in_chunks(
                model, batch, self.config.chunk_size, self.autocast_smart_context_manager, backward
            )
        return self._finite(loss)

    def get_decay_parameter_names(self, model) -> list[str]:
        if self.config.decay_norms:
            bert = "bias", "LayerNorm.weight"
            return [n for n, _ in model.named_parameters() if not any(part in n for part in bert)]
        return super().get_decay_parameter_names(model)

    def _stopped(
        self, what: str, advice: str = "a lower learning rate may help"
    ) -> TrainingStopped:
        kept = list(checkpointing.checkpoints(self.run).values())
        last = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
        return TrainingStopped(f"{what}: training stopped; {last}; {advice}")

    # --- where a run resumes --------------------------------------------------------------------

    def _settings(self) -> dict:
        """What the run's numbers depend on, as far as it is known."""
        parts: dict = {"data": self.train_dataset, "collator": self.data_collator}
        parts["evaluation"] = self.evaluator
        known = {k: part.fingerprint() for k, part in parts.items() if hasattr(part, "fingerprint")}
        half = "bfloat16" if self.args.bf16 else "float16" if self.args.fp16 else "float32"
        rates = [
            (name, rate) for name, part in self.medclip.named_modules()
            for rate in (getattr(part, "p", None), getattr(part, "drop_prob", None)) if rate
        ]  # fmt: skip
        known |= {"dropout": fingerprint(rates), "evaluated": self.evaluator is not None}
        config = dataclasses.asdict(self.config)
        return config | {"samples": self.samples, "computed in": half} | known

    def find_checkpoint(self, resume: bool) -> str | None:
        """The newest complete checkpoint, None to start; ValueError where `train` says so."""
        found = list(checkpointing.checkpoints(self.run).values())
        if found and not resume:
            raise ValueError(
                f"{self.run} already holds {', '.join(path.name for path in found)}: pass "
                "resume=True to continue from there, or another output_dir"
            )
        self._clear_scratch()
        self.accelerator.wait_for_everyone()
        if not found:
            return None
        self._check_settings(found[-1])
        return str(found[-1])

    def _check_settings(self, checkpoint: Path) -> None:
        old, new = json.loads((checkpoint / SETTINGS_FILE).read_text()), self._settings()
        differ = [
            f"other {HASHED[name]}"
            if name in HASHED
            else f"{name} was {old[name]!r} and is {value!r}"
            for name, value in new.items()
            if name not in FREE_SETTINGS and name in old and old[name] != value
        ]
        if differ:
            raise ValueError(
                f"{checkpoint} belongs to a run with other settings ({'; '.join(differ)}): a "
                "resumed run keeps them; to change them start a new run from "
                f"load_medclip({str(checkpoint)!r})"
            )

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None) -> None:
        self.medclip.from_pretrained(resume_from_checkpoint)

    # --- checkpoints ----------------------------------------------------------------------------

    def evaluate(self, *unused, **unused_too) -> dict[str, float]:
        """Metrics of the evaluator, in place of the Trainer's loss over a dataset."""
        assert self.evaluator is not None  # without one there is no `eval_strategy`
        found = self.evaluator(self.medclip.eval())
        if found and self.config.best_metric not in found:
            name = self.config.best_metric
            raise ValueError(f"best_metric is {name!r}, expected one of {list(found)}")
        metrics = {f"eval_{name}": value for name, value in found.items()}
        self.log(metrics)
        handler = self.callback_handler
        self.control = handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _get_output_dir(self, trial) -> str:
        return str(self.run / checkpointing.SCRATCH)

    def _clear_scratch(self) -> None:
        if self.is_world_process_zero():
            checkpointing.clear_scratch(self.run)

    def _save(self, output_dir=None, state_dict=None) -> None:
        if self.args.should_save:
            folder = Path(output_dir)
            self.medclip.save_pretrained(folder)
            self.processor.save_pretrained(folder)
            settings = json.dumps(self._settings(), indent=2) + "\n"
            (folder / SETTINGS_FILE).write_text(settings)

    def _save_checkpoint(self, model, trial) -> None:
        """The Trainer writes its files into a scratch folder, which then takes its name."""
        step = self.state.global_step
        if not all(p.isfinite().all() for p in self.medclip.parameters()):
            raise self._stopped(f"a weight is not finite after step {step}")
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                written = self.run / checkpointing.SCRATCH / f"checkpoint-{step}"
                checkpointing.publish(written, self.run)
                checkpointing.rotate(self.run, self.config.keep_last, self.best_step())
        except Exception as error:  # torch and safetensors have exceptions of their own for a disk
            what = f"checkpoint of step {step} could not be written to {self.run} ({error})"
            raise self._stopped(what, "free some space and call again with resume=True") from error
        finally:
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
            raise self._stopped(what, "free some space and call again with resume=True") from error
        self.accelerator.wait_for_everyone()
        return best

    # --- what the log tells ---------------------------------------------------------------------

    def history(self) -> pd.DataFrame:
        """The log as `TrainingResult.history`, a row per step."""
        table = pd.DataFrame(self.state.log_history).groupby("step", as_index=False).first()
        evaluated = [str(name) for name in table if str(name).startswith("eval_")]
        table = table[["step", "epoch", "loss", "learning_rate", "grad_norm", *evaluated]]
        return table.rename(columns={name: name.removeprefix("eval_") for name in evaluated})

    def best_step(self) -> int:
        """The step of the best checkpoint that is still there, by the log.

        Not `state.best_global_step`: that one may have been lost since.
        """
        name = f"eval_{self.config.best_metric}"
        log = [
            entry for entry in self.state.log_history if not math.isnan(entry.get(name, math.nan))
        ]
        scores = {int(entry["step"]): entry[name] for entry in log}
        kept = [step for step in checkpointing.checkpoints(self.run) if step in scores]
        return max(kept, key=lambda step: scores[step], default=self.state.global_step)


class _AtEachStep(TrainerCallback):
    """Clamps the temperature, counts epochs, and has the loss logged at each checkpoint."""

    def __init__(self, epochs_a_step: float):
        self.epochs_a_step = epochs_a_step

    def on_train_begin(self, args, state, control, **kwargs):
        state.num_train_epochs = math.ceil(state.max_steps * self.epochs_a_step)

    def on_optimizer_step(self, args, state, control, *, model, **kwargs):
        with torch.no_grad():
            model.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)

    def on_step_end(self, args, state, control, **kwargs):
        state.epoch = state.global_step * self.epochs_a_step  # to the Trainer, the run is one epoch
        if control.should_save:
            # A resumed run averages the loss anew from here; so must the uninterrupted one.
            control.should_log = True
