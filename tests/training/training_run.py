"""A tiny training run, as a program, so that test_pretraining.py can kill it.

Usage: training_run.py OUTPUT_DIR [--resume] [--workers N] [--kill STEP] [--kill-in-checkpoint STEP]
Writes every step's loss to OUTPUT_DIR/losses.txt (appended) and, at the end, weights to final.pt.
"""

import argparse
import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from transformers import BertTokenizer, TrainerCallback

from medclip_helpers.constants import CHEXPERT_LABELS
from medclip_helpers.data import MedCLIPCollator, UnpairedDataset
from medclip_helpers.training import TrainingConfig, build_model, train
from medclip_helpers.training.trainer import MedCLIPTrainer

VOCABULARY = Path(__file__).parents[1] / "parity" / "vocab.txt"
STEPS, BATCH, SAMPLES = 9, 4, 10  # three epochs and a bit, batches across their borders
WORDS = ["no", "mild", "left", "right", "opacity", "effusion", "heart", "lung"]


def tables(images: int = SAMPLES, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Noise images and random sentences, of two findings."""
    rng = np.random.default_rng(seed)
    labels = np.full((images, len(CHEXPERT_LABELS)), np.nan, np.float32)
    labels[np.arange(images), 5 + rng.integers(2, size=images)] = 1
    frame = pd.DataFrame(labels, columns=CHEXPERT_LABELS)
    pixels = rng.integers(0, 256, (images, 40, 40), dtype=np.uint8)
    pictures = [Image.fromarray(p) for p in pixels]
    texts = [" ".join(rng.choice(WORDS, rng.integers(3, 9))) for _ in range(images)]
    return frame.assign(imgpath=pictures), frame.assign(Reports=texts)


def flip(image):
    """An augmentation that draws from torch's generator."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if torch.rand(()) < 0.5 else image


def build(seed: int = 0):
    text = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokenizer = BertTokenizer(
        {word: i for i, word in enumerate(VOCABULARY.read_text().splitlines())}
    )
    model, processor = build_model(
        {"backbone": "test_resnet", "projection_dim": 16, "drop_rate": 0.2},
        {**text, "intermediate_size": 64},
        tokenizer,
        image_size=32,
        seed=seed,
    )
    return model, processor


def config(output_dir, **changes) -> TrainingConfig:
    settings = dict(batch_size=BATCH, max_steps=STEPS, learning_rate=1e-3, logging_steps=1)
    settings |= dict(checkpoint_steps=2, keep_last=2, device="cpu", progress=False)
    return TrainingConfig(output_dir=str(output_dir), **{**settings, **changes})


def dataset(seed: int = 0) -> UnpairedDataset:
    return UnpairedDataset(*tables(), seed=seed)


def run(model, processor, settings: TrainingConfig, resume: bool = False, **options):
    collator = MedCLIPCollator(processor, image_transform=flip)
    return train(model, processor, dataset(), settings, collator=collator, resume=resume, **options)


def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


class Record(TrainerCallback):
    """Writes each loss down, and dies after a step."""

    def __init__(self, file: Path, kill: int | None):
        self.file, self.kill = file, kill

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            with self.file.open("a") as out:
                out.write(f"{state.global_step} {logs['loss'].hex()}\n")

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.kill:
            die()


def watch(folder: Path, kill: int | None, kill_in_checkpoint: int | None) -> None:
    """Make every trainer of this process record its losses and die where it was told to."""
    original = MedCLIPTrainer.__init__

    def with_record(self, *args):
        original(self, *args)
        self.add_callback(Record(folder / "losses.txt", kill))

    MedCLIPTrainer.__init__ = with_record
    save = MedCLIPTrainer._save_rng_state

    def save_and_die(self, output_dir):
        # Weights and optimizer are on the disk by now; of this file one byte is.
        if self.state.global_step == kill_in_checkpoint:
            (Path(output_dir) / "rng_state.pth").write_bytes(b"P")
            die()
        save(self, output_dir)

    MedCLIPTrainer._save_rng_state = save_and_die


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--kill", type=int)
    parser.add_argument("--kill-in-checkpoint", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.output_dir.mkdir(exist_ok=True)
    watch(options.output_dir, options.kill, options.kill_in_checkpoint)
    model, processor = build(seed=5 if options.resume else 0)  # resuming must not depend on these
    settings = config(options.output_dir / "run", num_workers=options.workers)
    run(model, processor, settings, resume=options.resume)
    torch.save(model.state_dict(), options.output_dir / "final.pt")


if __name__ == "__main__":
    main()
