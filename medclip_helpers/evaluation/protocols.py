"""Zero-shot classification of a manifest's images, by the authors' protocol and by ours.

The authors' is that of `eval_zeroshot_classification.py` at 4e87409 and 926bde9 and of the
published package: five draws of ten prompts per class, images resized bilinearly, binary answers
after a float32 sigmoid. Ours uses all prompts at once, on images resized as by the published
processor.
"""

from __future__ import annotations

import random
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..constants import CHEXPERT_LABELS
from ..data import DATASETS, class_numbers, is_exclusive, never_seen
from ..model import MedCLIPModel
from ..processor import MedCLIPImageProcessor, MedCLIPProcessor
from ..prompts import load_class_prompts
from ..similarity import encode_images
from .intervals import bootstrap, percentile_interval
from .metrics import AVERAGE, METRICS, decided, evaluate_classification
from .zero_shot import class_scores, prompt_scores

PROTOCOLS = ("authors", "ours")
SEED = 42  # the authors', of both streams
SHORTEST = 5  # characters of a sentence for a normal image


def draw_prompts(
    source: str, sentences: pd.DataFrame | None = None, *, runs: int = 5, per_class: int = 10
) -> list[dict[str, list[str]]]:
    """The prompts of the authors' runs: {class: [prompt, ...]} for each of them.

    source: as for `load_class_prompts`; of its classes those with more than `per_class` prompts are
        drawn from by Python's generator, seeded with 42 once for all runs.
    sentences: `Reports` and the 14 labels, as `pandas.read_csv` gives them. Where the source has
        one class alone, as the authors' for COVID and RSNA, the prompts of "Normal" are drawn from
        them by NumPy's generator, seeded likewise: those of more than 4 characters that are
        labelled No Finding and nothing else. What is blank is not labelled, what is uncertain is.

    Raises ValueError for such a source without sentences, where no sentence qualifies, for
    numbers below 1, and what `load_class_prompts` raises.
    """
    for name, count in (("runs", runs), ("per_class", per_class)):
        if count < 1:
            raise ValueError(f"{name} is {count}, expected at least 1")
    phrases, normal = load_class_prompts(source), None
    if len(phrases) == 1 and sentences is not None:
        normal = _normal(sentences)
    elif len(phrases) == 1:
        raise ValueError(
            f"{source!r} has prompts for {list(phrases)} only: its authors drew those of normal "
            "images from a table of labelled sentences, which is not public; pass one as sentences"
        )
    python, numpy = random.Random(SEED), np.random.RandomState(SEED)
    drawn = []
    for _ in range(runs):
        prompts = {}
        if normal is not None:
            some = (
                normal.sample(per_class, random_state=numpy) if len(normal) > per_class else normal
            )
            prompts["Normal"] = some.tolist()
        for name, all_ in phrases.items():
            prompts[name] = python.sample(all_, per_class) if len(all_) > per_class else all_
        drawn.append(prompts)
    return drawn


def _normal(sentences: pd.DataFrame) -> pd.Series:
    labels = sentences[list(CHEXPERT_LABELS)].fillna(0)
    alone = (labels.pop("No Finding") == 1) & (labels == 0).all(axis=1)
    found = sentences.loc[alone & (sentences["Reports"].str.len() >= SHORTEST), "Reports"]
    if found.empty:
        raise ValueError(f"none of {len(sentences)} sentences is labelled No Finding and no other")
    return found


def evaluate_zero_shot(
    model: MedCLIPModel,
    processor: MedCLIPProcessor,
    table: pd.DataFrame,
    dataset: str,
    *,
    protocol: str = "ours",
    source: str | None = None,
    sentences: pd.DataFrame | None = None,
    runs: int = 5,
    image_embeds: Tensor | None = None,
    progress: bool = True,
    **resampling,
) -> pd.DataFrame:
    """Zero-shot classification of images that have exactly one of the data set's classes.

    table: rows of a manifest (`data.build_manifest`). dataset: a key of `data.DATASETS`.
    protocol: "authors" or "ours", as the module says.
    source: of the prompts, as for `load_class_prompts`; by default the data set's preset, for the
        authors' protocol "authors:" and that.
    sentences, runs: of the authors' protocol, see `draw_prompts`.
    image_embeds: (rows, dim) from `encode_images`, resized in the protocol's way, if available.
    resampling: as for `bootstrap`; groups are the patients.

    Returns the rows of `evaluate_classification` (the authors' protocol: the averages that they
    report, means over runs), after the columns `patients` ("all", and, where some are and some are
    not, "never seen": those of whom the authors pretrained on no image) and `prompts` ("maximum"
    over a class's prompts, or "ensemble", their mean; ours is the latter), before `sd`, the
    population standard deviation over runs. Intervals are over patients, of the prompts as drawn.

    Raises ValueError for an unknown protocol or data set, for prompts of classes other than the
    data set's, and what reading the images and the prompts raises.
    """
    for name, value, choices in (
        ("protocol", protocol, PROTOCOLS),
        ("dataset", dataset, tuple(DATASETS)),
    ):
        if value not in choices:
            raise ValueError(f"{name} is {value!r}, expected one of {choices}")
    known = DATASETS[dataset]
    single = is_exclusive(table, known.classes)
    rows = table[single]
    truth = class_numbers(rows, known.classes)
    if protocol == "authors":
        drawn = draw_prompts(source or f"authors:{known.prompts}", sentences, runs=runs)
        processor = _bilinear(processor)
    else:
        drawn = [load_class_prompts(source or known.prompts)]
    if set(drawn[0]) != set(known.classes):
        raise ValueError(f"prompts for {list(drawn[0])}, expected {list(known.classes)}")
    if image_embeds is None:
        embeds = encode_images(model, processor, rows["imgpath"], progress=progress)
    else:
        embeds = image_embeds[single]
    by_run = [
        prompt_scores(model, processor, embeds, {name: prompts[name] for name in known.classes})
        for prompts in drawn
    ]
    patients = {"all": np.ones(len(rows), bool)}
    if 0 < (new := never_seen(rows)).sum() < len(rows):
        patients["never seen"] = new
    mode = "binary" if known.mode == "binary" else "multiclass"
    evaluate = _evaluate_runs if protocol == "authors" else _evaluate_all
    rules = ("maximum", "ensemble") if protocol == "authors" else ("ensemble",)
    tables = {}
    for (who, chosen), rule in product(patients.items(), rules):
        scores = np.concatenate([class_scores(run, rule) for run in by_run])[:, chosen]
        groups = rows["subject_id"][chosen]
        tables[who, rule] = evaluate(
            truth[chosen], scores, known.classes, mode, groups=groups, **resampling
        )
    return pd.concat(tables, names=["patients", "prompts"]).reset_index([0, 1])


def _bilinear(processor: MedCLIPProcessor) -> MedCLIPProcessor:
    settings = vars(processor.image_processor) | {"resample": "bilinear"}
    return MedCLIPProcessor(MedCLIPImageProcessor(**settings), processor.tokenizer)


def answers(scores: np.ndarray, mode: str) -> np.ndarray:
    """The authors' answers, (images, classes) of 0 and 1, from (images, classes) float32.

    Binary ones are read after a sigmoid in float32, where logits above some 17 are all 1: if both
    are, the first class, the normal one, wins.
    """
    if mode == "binary":
        scores = torch.from_numpy(scores).sigmoid().numpy()
    return np.eye(scores.shape[1])[scores.argmax(axis=1)]


def _evaluate_all(truth, scores: np.ndarray, classes, mode: str, **resampling) -> pd.DataFrame:
    """scores: (1, images, classes)."""
    return evaluate_classification(truth, scores[0], classes, mode, **resampling)


def _evaluate_runs(truth, scores: np.ndarray, classes, mode: str, **resampling) -> pd.DataFrame:
    """scores: (runs, images, classes)."""
    one_hot = (truth[:, None] == np.arange(len(classes))).astype(float)
    by_run = [partial(decided, one_hot, answers(run, mode), True) for run in scores]

    def averages(counts: np.ndarray) -> np.ndarray:  # (runs, resamples, metrics)
        return np.stack([of_run(counts)[:, :: len(classes) + 1] for of_run in by_run])

    found = averages(np.ones((1, len(truth)), np.float32))[:, 0]
    samples = bootstrap(lambda counts: averages(counts).mean(axis=0), len(truth), **resampling)
    low, high = percentile_interval(samples)
    table = {"metric": METRICS, "class": AVERAGE, "value": found.mean(axis=0)}
    table |= {"low": low, "high": high, "images": len(truth), "sd": found.std(axis=0)}
    return pd.DataFrame(table)
