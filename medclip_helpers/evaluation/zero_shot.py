"""Zero-shot scores: of prompts, classes and pairs, and for an evaluation during training.

Images are embedded once (`similarity.encode_images`); every draw of prompts and every pair is then
a product of matrices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..classifier import PromptClassifier
from ..hub import fingerprint
from ..model import MedCLIPModel
from ..processor import MedCLIPProcessor
from ..prompts import process_class_prompts
from ..radiographs import read_radiograph
from ..similarity import encode_images, eval_mode
from .metrics import accuracy_and_auroc

# How a class with several prompts is scored, and how many answers n prompts give:
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

    image_embeds: (images, dim) from `encode_images`. prompts: {class: [prompt, ...]}.
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


def pair_scores(
    model: MedCLIPModel,
    processor: MedCLIPProcessor,
    image_embeds: Tensor,
    names: Sequence[str],
    templates: tuple[str, str] = TEMPLATES,
) -> tuple[np.ndarray, np.ndarray]:
    """Each finding by itself: scores of "{}" and of "no {}", both (images, names).

    names: findings, which are put into the templates in lower case. `pair_probabilities` makes
    probabilities of the two, `calibrate` of their difference.

    Raises ValueError for a single text, and for a finding that is named twice.
    """
    if isinstance(names, str) or len(set(names)) < len(names):
        raise ValueError(f"names is {names!r}, expected a list of different findings")
    sides = []
    for template in templates:
        texts = {name: [template.format(name.lower())] for name in names}
        scores = prompt_scores(model, processor, image_embeds, texts)
        sides.append(np.concatenate(list(scores.values()), axis=1))
    return sides[0], sides[1]


class ZeroShotEvaluator:
    """Model -> metrics, for `train(evaluate=...)`; see `zero_shot_evaluator`, which makes one.

    metrics: the names of what it gives. The model keeps its mode.
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
        if len(self._truth) != len(self._squares) or not self._truth:
            count = len(self._truth), len(self._squares)
            raise ValueError(f"{count[0]} labels for {count[1]} images: expected one for each")

    def __call__(self, model: MedCLIPModel) -> dict[str, float]:
        image_embeds = encode_images(model, self.processor, self._squares, progress=False)
        scores = class_scores(prompt_scores(model, self.processor, image_embeds, self.prompts))[0]
        found = accuracy_and_auroc(self._truth, scores)
        return {f"zero_shot_{name}": value for name, value in found.items()}

    def fingerprint(self) -> str:
        """A hash of what determines its metrics, besides the model."""
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

    The result maps a model, which keeps its mode, to `zero_shot_accuracy`, the share of images
    whose own class scores highest, and `zero_shot_auroc`, the mean over classes of the area under
    the ROC curve. Raises ValueError for a label without prompts.
    """
    return ZeroShotEvaluator(processor, images, labels, prompts)
