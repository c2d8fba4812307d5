"""Makes the demo checkpoint from nothing: `python -m medclip_helpers.demo.train`.

A small convolutional encoder that ends in a mean over positions, a BERT of two layers, drawn chests
and written reports of other drawn chests, joined by their labels alone. The same arguments on the
same machine, with the same number of threads, give the same checkpoint.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..constants import CHEXPERT_COMPETITION
from ..data import UnpairedDataset, draw_images, true_classes, write_sentences
from ..demo import CHECKPOINT_FOLDER, IMAGE_SIZE
from ..evaluation import zero_shot_evaluator
from ..loading import load_medclip
from ..model import MedCLIPModel
from ..processor import MedCLIPProcessor
from ..prompts import generate_chexpert_class_prompts
from ..runs import versions
from ..training import TrainingConfig, build_model, train
from .vocabulary import build_tokenizer

logger = logging.getLogger(__name__)

NOTE = "Demo model, trained on drawings: its output says nothing about any patient."
# A ResNet of four blocks. output_stride 16 leaves a map of 7 x 7 positions.
VISION = {
    "backbone": "resnet10t",
    "projection_dim": 512,
    "in_chans": 1,
    "stem_width": 16,
    "channels": (32, 64, 128, 192),
    "output_stride": 16,
}
TEXT = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 80,
    "type_vocab_size": 1,
}
RECIPE = {
    "batch_size": 100,
    "learning_rate": 2e-3,
    "weight_decay": 1e-4,
    "warmup_ratio": 0.08,
    "label_similarity": "cosine",
    "label_temperature": 0.1,
    "precision": "bfloat16",
    "keep_last": 1,
    "device": "cpu",
}
VALIDATION_IMAGES = 300
METRICS_FILE = "metrics.json"
# Seeds of drawings, far apart: the evaluation never meets a person of the training set.
TRAINING_STREAM, REPORT_STREAM, VALIDATION_STREAM, TEST_STREAM = (k * 10**6 for k in range(1, 5))


def build_demo_model(seed: int = 0) -> tuple[MedCLIPModel, MedCLIPProcessor]:
    """The demo's model with random weights, and its processor."""
    model, processor = build_model(VISION, TEXT, build_tokenizer(), IMAGE_SIZE, seed)
    model.note = NOTE
    return model, processor


def evaluate_demo(
    model: MedCLIPModel, processor: MedCLIPProcessor, images: int, seed: int, progress: bool = True
) -> dict:
    """How well the CheXpert prompts tell exclusively drawn findings apart.

    images: number of freshly drawn chests; seed: of their drawing.

    Returns `images`, `seed`, `accuracy` (raw argmax), `accuracy_interval` (95 %, Wilson),
    `auroc` (mean over classes), `classes`: {name: {"recall", "auroc"}}, and `confusion`, rows the
    true class and columns the predicted, both in the order of CHEXPERT_COMPETITION.
    """
    from scipy.stats import binomtest
    from sklearn.metrics import confusion_matrix, roc_auc_score

    from ..classifier import classify_images

    names = list(CHEXPERT_COMPETITION)
    drawn = draw_images(images, seed, processor, exclusive=True, progress=progress)
    prompts = generate_chexpert_class_prompts()
    table = classify_images(model, processor, drawn["imgpath"], prompts, progress=progress)
    truth = np.array(true_classes(drawn))
    right = (table["predicted"] == truth).to_numpy()
    interval = binomtest(int(right.sum()), images).proportion_ci(0.95, method="wilson")
    areas = {name: roc_auc_score(truth == name, table[name].astype(float)) for name in names}
    return {
        "images": images,
        "seed": seed,
        "accuracy": float(right.mean()),
        "accuracy_interval": [float(limit) for limit in interval],
        "auroc": float(np.mean(list(areas.values()))),
        "classes": {
            name: {"recall": float(right[truth == name].mean()), "auroc": float(areas[name])}
            for name in names
        },
        "confusion": confusion_matrix(truth, table["predicted"], labels=names).tolist(),
    }


def train_demo(
    output: str | Path,
    seed: int = 0,
    samples: int = 8000,
    steps: int = 600,
    test_images: int = 1000,
    progress: bool = True,
) -> dict:
    """Train the demo model and write the checkpoint with its `metrics.json`; returns the metrics.

    output: folder for the checkpoint; the files of that name in it are replaced.
    samples: drawn images; the sentences come from as many reports about other people.
    test_images: freshly drawn chests that the written checkpoint, in half precision, is judged by.
    """
    model, processor = build_demo_model(seed)
    model.vision_model.to(memory_format=torch.channels_last)  # quicker on a CPU
    images = draw_images(samples, TRAINING_STREAM + seed * samples, processor, progress=progress)
    sentences = write_sentences(samples, REPORT_STREAM + seed * samples)
    dataset = UnpairedDataset(images, sentences, seed, match=False)
    held_out = draw_images(VALIDATION_IMAGES, VALIDATION_STREAM, processor, True, progress)
    prompts = generate_chexpert_class_prompts()
    evaluate = zero_shot_evaluator(processor, held_out["imgpath"], true_classes(held_out), prompts)
    with tempfile.TemporaryDirectory() as scratch:
        config = TrainingConfig(
            **RECIPE,
            output_dir=scratch,
            max_steps=steps,
            checkpoint_steps=max(1, steps // 4),
            seed=seed,
            progress=progress,
        )
        result = train(model, processor, dataset, config, evaluate=evaluate)
        model, processor = load_medclip(result.folder, device="cpu")
    output = Path(output)
    model.save_pretrained(output, dtype=torch.float16)
    processor.save_pretrained(output)
    model, processor = load_medclip(output, device="cpu")
    metrics = {
        "note": NOTE,
        "task": "which one of the five CheXpert competition findings is drawn, by all prompts of "
        "generate_chexpert_class_prompts(), ensembled",
        "zero_shot": evaluate_demo(model, processor, test_images, TEST_STREAM, progress),
        "recipe": {**RECIPE, "seed": seed, "samples": samples, "steps": steps,
                   "sentences": len(sentences), "best_step": result.best_step},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }  # fmt: skip
    (output / METRICS_FILE).write_text(json.dumps(metrics, indent=2) + "\n")
    return metrics


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m medclip_helpers.demo.train", description=__doc__.split("\n\n")[0]
    )
    formatted = "folder for the checkpoint (default: the one that ships with the package)"
    parser.add_argument("--output", type=Path, default=CHECKPOINT_FOLDER, help=formatted)
    parser.add_argument("--seed", type=int, default=0, help="of weights, drawings and order")
    parser.add_argument("--samples", type=int, default=8000, help="drawn images (default 8000)")
    parser.add_argument("--steps", type=int, default=600, help="of 100 images (default 600)")
    parser.add_argument("--test-images", type=int, default=1000, help="to be judged by")
    parser.add_argument("--threads", type=int, default=1, help="results depend on it (default 1)")
    options = parser.parse_args(arguments)
    for name in ("samples", "steps", "test_images", "threads"):
        if (value := getattr(options, name)) < 1:
            parser.error(f"--{name.replace('_', '-')} is {value}, expected 1 or more")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(options.threads)
    metrics = train_demo(
        options.output, options.seed, options.samples, options.steps, options.test_images
    )
    logger.info("%s", json.dumps(metrics["zero_shot"], indent=2))
