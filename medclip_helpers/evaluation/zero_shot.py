"""The paper's zero-shot protocol: model, images and prompts into scores, and scores into figures.

Images are embedded once (`similarity.encode_images`); every draw of prompts and every pair is then
a product of matrices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ..classifier import PromptClassifier
from ..hub import fingerprint
from ..model import MedCLIPModel
from ..processor import MedCLIPProcessor
from ..prompts import load_class_prompts, process_class_prompts
from ..radiographs import read_radiograph
from ..similarity import encode_images, eval_mode
from .intervals import bootstrap_means, percentile_interval
from .metrics import accuracy_and_auroc, is_right

# What a class with several prompts scores, and how often a draw of n prompts answers:
#   one prompt   each class has one of its prompts; n answers, which differ by wording alone
#   maximum      the highest of its prompts, what the published code does with ensemble=False
#   ensemble     the mean of its prompts
PROMPT_RULES = ("one prompt", "maximum", "ensemble")
TEMPLATES = ("{}", "no {}")  # a finding's positive and negative prompt


@torch.no_grad()
def prompt_scores(
    model: MedCLIPModel,
    processor: MedCLIPProcessor,
    image_embeds: Tensor,
    prompts: Mapping[str, Sequence[str]],
) -> dict[str, np.ndarray]:
    """{class: (images, prompts)} scaled cosines, `PromptClassifier`'s `prompt_logits`.

    image_embeds: (images, dim) of `encode_images`. prompts: {class: [prompt, ...]}.
    """
    classifier = PromptClassifier(model)
    with eval_mode(model):
        prompt_embeds = classifier.encode_prompts(process_class_prompts(prompts, processor))
    scores = classifier.score(image_embeds, prompt_embeds)["prompt_logits"]
    return {name: values.float().cpu().numpy() for name, values in scores.items()}


def class_scores(scores: Mapping[str, np.ndarray], rule: str = "ensemble") -> np.ndarray:
    """Scores of the classes by one of PROMPT_RULES, (answers, images, classes).

    scores: {class: (images, prompts)} of `prompt_scores`. "one prompt" gives as many answers as the
    class with the fewest has prompts, the others one. Raises ValueError for another rule.
    """
    if rule not in PROMPT_RULES:
        raise ValueError(f"rule is {rule!r}, expected one of {PROMPT_RULES}")
    if rule == "one prompt":
        answers = min(values.shape[1] for values in scores.values())
        by_class = [values[:, :answers].T for values in scores.values()]
    else:
        reduce = np.mean if rule == "ensemble" else np.max
        by_class = [reduce(values, axis=1)[None] for values in scores.values()]
    return np.stack(by_class, axis=-1)


class Draws(NamedTuple):
    """Zero-shot accuracy over draws of prompts.

    runs: a row an answer: `draw`, `prompts` (one of PROMPT_RULES), `accuracy`.
    summary: a row for each of them: `prompts`, `value` (mean over draws), `sd` (over answers),
        `lowest`, `highest`, `low`, `high` (interval over images and draws), `answers`, `images`.
    """

    runs: pd.DataFrame
    summary: pd.DataFrame


def zero_shot_draws(
    model: MedCLIPModel,
    processor: MedCLIPProcessor,
    image_embeds: Tensor,
    labels: ArrayLike,
    classes: Sequence[str],
    prompts: str,
    *,
    draws: int = 5,
    per_class: int = 10,
    seed: int = 0,
    **resampling,
) -> Draws:
    """Accuracy of `draws` seeded draws of `per_class` prompts, the paper's way.

    image_embeds: (images, dim). labels: (images,) places in `classes`. prompts: a preset or a file
        for `load_class_prompts` that has these classes. resampling: as for `bootstrap`.

    The interval resamples images and draws: the mean over five draws of other prompts and other
    images would land in it about 19 times in 20. (Five draws are few: it is rather too narrow.)
    """
    if draws < 1:
        raise ValueError(f"draws is {draws}, expected at least 1")
    rows: list[tuple[int, str, float]] = []
    right: dict[str, list[np.ndarray]] = {rule: [] for rule in PROMPT_RULES}
    for draw in range(draws):
        # Draw d of seed s is not draw d - 1 of seed s + 1.
        drawn = load_class_prompts(prompts, n=per_class, seed=1000 * seed + draw)
        scores = prompt_scores(model, processor, image_embeds, {c: drawn[c] for c in classes})
        for rule in PROMPT_RULES:
            answers = is_right(labels, class_scores(scores, rule))
            rows += [(draw, rule, accuracy) for accuracy in answers.mean(axis=1)]
            right[rule].append(answers.mean(axis=0))
    runs = pd.DataFrame(rows, columns=["draw", "prompts", "accuracy"])
    summary = runs.groupby("prompts", sort=False)["accuracy"].agg(
        value="mean", sd="std", lowest="min", highest="max", answers="size"
    )
    ends = [_mean_interval(np.stack(right[rule]), seed=seed, **resampling) for rule in PROMPT_RULES]
    summary[["low", "high"]] = ends
    return Draws(runs, summary.assign(images=len(image_embeds)).reset_index())


def _mean_interval(
    right: np.ndarray, level: float = 0.95, seed: int = 0, **resampling
) -> tuple[float, float]:
    """Interval of the mean of `right`, (draws, images), over images and draws."""
    by_draw = bootstrap_means(right.T, seed=seed, **resampling)
    drawn = np.random.default_rng((seed, 1)).integers(by_draw.shape[1], size=by_draw.shape)
    means = np.take_along_axis(by_draw, drawn, axis=1).mean(axis=1, keepdims=True)
    low, high = percentile_interval(means, level)
    return low.item(), high.item()


def pair_scores(
    model: MedCLIPModel,
    processor: MedCLIPProcessor,
    image_embeds: Tensor,
    names: Sequence[str],
    templates: tuple[str, str] = TEMPLATES,
) -> tuple[np.ndarray, np.ndarray]:
    """Each finding by itself: scores of "{}" and of "no {}", both (images, names).

    names: findings, which stand in the templates in lower case. `pair_probabilities` makes
    probabilities of the two, `calibrate` of their difference.
    """
    sides = []
    for template in templates:
        texts = {name: [template.format(name.lower())] for name in names}
        scores = prompt_scores(model, processor, image_embeds, texts)
        sides.append(np.concatenate(list(scores.values()), axis=1))
    return sides[0], sides[1]


class ZeroShotEvaluator:
    """Model -> metrics, for `train(evaluate=...)`; see `zero_shot_evaluator`, which makes one.

    metrics: the names of what it gives. The model stays in the mode that it is in.
    """

    metrics = ("zero_shot_accuracy", "zero_shot_auroc")

    def __init__(
        self,
        processor: MedCLIPProcessor,
        images: Iterable,
        labels: Sequence[str],
        prompts: Mapping[str, Sequence[str]],
    ):
        if unknown := sorted(set(labels) - set(prompts)):
            known = list(prompts)
            raise ValueError(f"no prompts for the classes {unknown}: expected some of {known}")
        square = processor.image_processor.square
        self.processor, self.prompts = processor, prompts
        self._squares = [square(read_radiograph(image)) for image in images]
        self._truth = [list(prompts).index(label) for label in labels]

    def __call__(self, model: MedCLIPModel) -> dict[str, float]:
        image_embeds = encode_images(model, self.processor, self._squares, progress=False)
        scores = class_scores(prompt_scores(model, self.processor, image_embeds, self.prompts))[0]
        found = accuracy_and_auroc(self._truth, scores)
        return {f"zero_shot_{name}": value for name, value in found.items()}

    def fingerprint(self) -> str:
        """A hash of what its metrics follow from, besides the model."""
        return fingerprint(self._squares, self._truth, self.prompts)


def zero_shot_evaluator(
    processor: MedCLIPProcessor,
    images: Iterable,
    labels: Sequence[str],
    prompts: Mapping[str, Sequence[str]],
) -> ZeroShotEvaluator:
    """For `train(evaluate=...)`: how well prompts tell held-out images apart.

    images: what `read_radiograph` takes; read once, and kept in the model's size. labels: the class
    of each, a key of `prompts`. prompts: {class: [prompt, ...]}.

    The result maps a model, which stays in its mode, to `zero_shot_accuracy`, the share of images
    whose own class scores highest, and `zero_shot_auroc`, the mean over classes of the area under
    the ROC curve. Raises ValueError for a label without prompts.
    """
    return ZeroShotEvaluator(processor, images, labels, prompts)
