"""Makes the demo checkpoint from scratch: `medclip train demo --out FOLDER`.

A small convolutional encoder that ends in a mean over positions, a BERT of two layers, drawn chests
and written reports of other drawn chests, joined by their labels alone. The same arguments on the
same machine, with the same number of threads, give the same checkpoint.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from scipy.stats import binomtest

from ..classifier import classify_images
from ..constants import CHEXPERT_COMPETITION
from ..data import UnpairedDataset, draw_images, true_classes, write_sentences
from ..demo import CHECKPOINT_FOLDER, IMAGE_SIZE
from ..evaluation import AVERAGE, confusion, evaluate_classification, zero_shot_evaluator
from ..hub import write_text
from ..loading import load_medclip
from ..model import MedCLIPModel
from ..processor import MedCLIPProcessor
from ..prompts import generate_chexpert_class_prompts
from ..runs import versions
from ..training import TrainingConfig, build_model, train
from .threads import cpu_threads
from .vocabulary import build_tokenizer

NOTE = "Demo model, trained on drawings: its output says nothing about any patient."
# A ResNet of four blocks. output_stride 16 leaves a map of 7 x 7 positions.
VISION: dict[str, Any] = {
    "backbone": "resnet10t",
    "projection_dim": 512,
    "in_chans": 1,
    "stem_width": 16,
    "channels": (32, 64, 128, 192),
    "output_stride": 16,
}
TEXT: dict[str, Any] = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 80,
    "type_vocab_size": 1,
}
RECIPE: dict[str, Any] = {
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
    model.vision_model.to(memory_format=torch.channels_last)  # as convolutions train fastest
    return model, processor


def evaluate_demo(
    model: MedCLIPModel, processor: MedCLIPProcessor, images: int, seed: int, progress: bool = True
) -> dict[str, Any]:
    """How well the CheXpert prompts tell drawings with one finding each apart.

    images: number of freshly drawn chests, five or more; seed: of their drawing.

    Returns `images`, `seed`, `accuracy` (raw argmax), `accuracy_interval` (95 %, Wilson),
    `auroc` (mean over classes), `classes`: {name: {"recall", "auroc"}}, and `confusion`, rows the
    true class and columns the predicted, both in the order of CHEXPERT_COMPETITION.
    """
    names = list(CHEXPERT_COMPETITION)
    drawn = draw_images(images, seed, processor, exclusive=True, progress=progress)
    prompts = generate_chexpert_class_prompts()
    table = classify_images(model, processor, drawn["imgpath"], prompts, progress=progress)
    truth = [names.index(name) for name in true_classes(drawn)]
    scores = table[names].to_numpy(float)
    found = evaluate_classification(truth, scores, names, resamples=1)
    values = found.set_index(["metric", "class"])["value"].to_dict()
    accuracy = values["accuracy", AVERAGE]
    interval = binomtest(round(accuracy * images), images).proportion_ci(0.95, method="wilson")
    return {
        "images": images,
        "seed": seed,
        "accuracy": accuracy,
        "accuracy_interval": [float(limit) for limit in interval],
        "auroc": values["auroc", AVERAGE],
        "classes": {
            name: {"recall": values["recall", name], "auroc": values["auroc", name]}
            for name in names
        },
        "confusion": confusion(truth, scores, names).tolist(),
    }


def train_demo(
    output: str | Path,
    seed: int = 0,
    samples: int = 8000,
    steps: int = 600,
    test_images: int = 1000,
    threads: int = 1,
    progress: bool = True,
) -> dict[str, Any]:
    """Train the demo model and write the checkpoint with its `metrics.json`; returns the metrics.

    output: folder for the checkpoint; the files of that name in it are replaced.
    seed: for weights, drawings and order. steps: of 100 images each.
    samples: drawn images; the sentences come from as many reports about other people.
    test_images: new drawings on which the written checkpoint, in half precision, is evaluated.
    threads: that torch computes with; the result depends on their number.

    Raises ValueError, before anything is written, for a number that is too small, and for an
    `output` that is, or lies in, the folder of the checkpoint that ships with the package.
    """
    numbers = {"samples": samples, "steps": steps, "threads": threads, "test_images": test_images}
    for name, number in numbers.items():
        least = len(CHEXPERT_COMPETITION) if name == "test_images" else 1
        if number < least:
            raise ValueError(f"{name} is {number}, expected {least} or more")
    output = Path(output).expanduser()
    if output.resolve().is_relative_to(CHECKPOINT_FOLDER.resolve()):
        raise ValueError(
            f"output is {output}, the folder of the demo model that ships: expected another folder"
        )
    with cpu_threads(threads), tempfile.TemporaryDirectory() as scratch:
        model, processor = build_demo_model(seed)
        images = draw_images(samples, TRAINING_STREAM + seed * samples, processor, False, progress)
        sentences = write_sentences(samples, REPORT_STREAM + seed * samples)
        dataset = UnpairedDataset(images, sentences, seed, match=False)
        held_out = draw_images(VALIDATION_IMAGES, VALIDATION_STREAM, processor, True, progress)
        evaluate = zero_shot_evaluator(
            processor,
            held_out["imgpath"],
            true_classes(held_out),
            generate_chexpert_class_prompts(),
        )
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
        model.save_pretrained(output, dtype=torch.float16)
        processor.save_pretrained(output)
        model, processor = load_medclip(output, device="cpu")
        zero_shot = evaluate_demo(model, processor, test_images, TEST_STREAM, progress)
    metrics = {
        "note": NOTE,
        "task": "which one of the five CheXpert competition findings is drawn, by all prompts of "
        "generate_chexpert_class_prompts(), ensembled",
        "zero_shot": zero_shot,
        "recipe": {**RECIPE, "seed": seed, "samples": samples, "steps": steps,
                   "sentences": len(sentences), "best_step": result.best_step},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "threads": threads,
        "versions": versions(),
    }  # fmt: skip
    write_text(output / METRICS_FILE, json.dumps(metrics, indent=2))
    return metrics
