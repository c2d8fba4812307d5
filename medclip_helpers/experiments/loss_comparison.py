"""The paper's claim in miniature: what contrastive losses learn from N drawn studies.

Six ways to learn from the same phantoms and reports, with the same encoders, steps and batch
(`ARMS`), each judged by how well prompts tell apart phantoms with one of the five competition
findings. Everything is a function of its seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from .. import plots  # through its face, which loads matplotlib when it draws
from ..classifier import PromptClassifier
from ..constants import CHEXPERT_COMPETITION
from ..data import (
    LABELS,
    PairedDataset,
    UnpairedDataset,
    draw_studies,
    encode_labels,
    write_reports,
)
from ..demo import sample_people
from ..evaluation import accuracy_and_auroc, class_scores, is_right
from ..losses import info_nce_loss, label_similarity, semantic_matching_loss
from ..model import MedCLIPModel
from ..processor import MedCLIPImageProcessor, MedCLIPProcessor
from ..prompts import generate_chexpert_class_prompts, process_class_prompts
from ..training import build_model
from .threads import cpu_threads
from .vocabulary import build_tokenizer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES = list(CHEXPERT_COMPETITION)
IMAGE_SIZE = 64  # pixels a side
VISION: dict[str, Any] = {"backbone": "test_efficientnet", "projection_dim": 128, "in_chans": 1}
TEXT: dict[str, Any] = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 256,
}
# Arm -> (where its texts come from, its loss).
ARMS: dict[str, tuple[str, str]] = {
    "InfoNCE, random sentence": ("sentence", "info_nce"),
    "InfoNCE, finding sentence": ("finding", "info_nce"),
    "InfoNCE, whole report": ("report", "info_nce"),
    "semantic matching, paired": ("finding", "semantic"),
    "semantic matching, unpaired": ("unpaired", "semantic"),
    "supervision": ("none", "supervision"),
}
SEMANTIC_ARM = "semantic matching, paired"
# What `tune` chose of 0.001 and 0.003 with 1,000 studies at hand, 250 learnt from, 250 steps.
ARM_RATES = {
    "InfoNCE, random sentence": 1e-3,
    "InfoNCE, finding sentence": 1e-3,
    "InfoNCE, whole report": 3e-3,
    "semantic matching, paired": 3e-3,
    "semantic matching, unpaired": 3e-3,
    "supervision": 3e-3,
}
# Targets of semantic matching, side by side: kind, value of an absent finding, temperature.
TARGET_KINDS = [
    ("cosine", 0.0, 1.0),
    ("cosine", 0.0, 0.1),
    ("cosine", -1.0, 1.0),
    ("cosine", 0.0, 0.3),
    ("cosine", 0.0, 0.03),
    ("cosine", -1.0, 0.3),
    ("dot", 0.0, 1.0),
    ("dot", 0.0, 0.3),
    ("dot", -1.0, 1.0),
]


@dataclass(frozen=True)
class Setting:
    """One run. `kind`, `absent` and `temperature` make the targets of semantic matching."""

    arm: str
    samples: int = 250
    seed: int = 0
    learning_rate: float = 3e-3
    steps: int = 250
    batch_size: int = 32
    kind: str = "cosine"
    absent: float = 0.0
    temperature: float = 0.3


class World:
    """Studies to learn from, phantoms with one finding to be judged by, and prompts.

    studies: largest number of studies that a run may learn from; as many reports of other people
        are written, without images, for the unpaired arm.
    held_out: phantoms for validation, and again as many for the test.
    """

    def __init__(self, studies: int = 1000, held_out: int = 250, seed: int = 0):
        self.processor = MedCLIPProcessor(MedCLIPImageProcessor(IMAGE_SIZE), build_tokenizer())
        people = sample_people(studies, seed)
        self.images, table = self._draw(people)
        self.sentences = write_reports(people, range(studies))
        self.studies = table[LABELS].assign(
            imgpath=range(studies),  # the row of `images`
            report=self.sentences.groupby("study")["Reports"].agg(list),
        )
        strangers = range(studies, 2 * studies)
        self.other_reports = write_reports([10**6 + i for i in strangers], strangers)
        self.held_out: dict[str, tuple[Tensor, np.ndarray]] = {}
        for split, offset in (("validation", 1), ("test", 2)):
            images, _ = self._draw(sample_people(held_out, seed + offset), cycle(CLASSES))
            self.held_out[split] = images, np.arange(held_out) % len(CLASSES)
        prompts = generate_chexpert_class_prompts(10, seed=seed)
        prompts = {name: prompts[name] for name in CLASSES}
        self.prompt_inputs = process_class_prompts(prompts, self.processor)

    def _draw(
        self, people: Sequence[int], exclusive: Iterable[str] | None = None
    ) -> tuple[Tensor, pd.DataFrame]:
        """(images, 1, IMAGE_SIZE, IMAGE_SIZE), and the table that they are from."""
        table = draw_studies(people, exclusive, IMAGE_SIZE, IMAGE_SIZE, True, progress=False)
        return self.processor(images=table["imgpath"].tolist())["pixel_values"], table

    def texts(self, setting: Setting, rows: np.ndarray) -> PairedDataset | UnpairedDataset | None:
        """The dataset that a run samples its texts from, None for supervision."""
        source, _ = ARMS[setting.arm]
        studies = self.studies.iloc[rows]
        if source == "none":
            return None
        if source == "unpaired":
            sentences = self.other_reports.set_index("study").loc[rows]
            return UnpairedDataset(studies, sentences, setting.seed)
        return PairedDataset(studies, self.sentences, source, setting.seed)


def train_once(world: World, setting: Setting) -> MedCLIPModel | nn.Sequential:
    """The model that one run gives, for supervision image encoder and head, in eval mode.

    Raises ValueError for an unknown arm.
    """
    if setting.arm not in ARMS:
        raise ValueError(f"unknown arm {setting.arm!r}: expected one of {list(ARMS)}")
    medclip, _ = build_model(VISION, TEXT, world.processor.tokenizer, IMAGE_SIZE, setting.seed)
    model: MedCLIPModel | nn.Sequential = medclip
    if ARMS[setting.arm][1] == "supervision":
        with torch.random.fork_rng():
            torch.manual_seed(setting.seed)
            head = nn.Linear(VISION["projection_dim"], len(LABELS))
        model = nn.Sequential(medclip.vision_model, head)
    model.to(memory_format=torch.channels_last).train()  # a third faster on a CPU
    rng = np.random.default_rng((setting.seed, setting.samples))
    rows = rng.permutation(len(world.studies))[: setting.samples]
    texts = world.texts(setting, rows)
    labels = world.studies[LABELS].to_numpy(np.float32)[rows]
    targets = encode_labels(labels, setting.absent)
    optimizer = torch.optim.AdamW(model.parameters(), setting.learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, setting.learning_rate, total_steps=setting.steps, pct_start=0.1
    )
    with torch.random.fork_rng():  # for dropout
        torch.manual_seed(setting.seed)
        for _ in range(setting.steps):
            batch = rng.permutation(len(rows))[: setting.batch_size]
            images = world.images[rows[batch]]
            if texts is None:
                known = torch.from_numpy(~np.isnan(labels[batch]))
                truth = torch.from_numpy(targets[batch])
                loss = F.binary_cross_entropy_with_logits(model(images)[known], truth[known])
            else:
                sampled = [texts.sample_text(i, rng) for i in batch]
                inputs = world.processor(text=[text for text, _ in sampled])
                logits = model(**inputs, pixel_values=images).logits_per_image
                loss = _contrastive(logits, targets[batch], sampled, setting)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def _contrastive(logits: Tensor, image_labels: np.ndarray, sampled, setting: Setting) -> Tensor:
    if ARMS[setting.arm][1] == "info_nce":
        return info_nce_loss(logits)
    text_labels = encode_labels(np.stack([labels for _, labels in sampled]), setting.absent)
    similarity = label_similarity(
        torch.from_numpy(image_labels), torch.from_numpy(text_labels), setting.kind
    )
    return semantic_matching_loss(logits, similarity, setting.temperature)


@torch.no_grad()
def measure(
    world: World, model: MedCLIPModel | nn.Sequential, split: str = "test"
) -> dict[str, float]:
    """`accuracy` and `auroc` (mean over the five classes) of zero-shot classification.

    For a model with prompts also `one_prompt`, the mean accuracy over ten ways to give each class a
    single prompt, and `confidence`, the mean probability of the class that is chosen.
    """
    images, truth = world.held_out[split]
    if isinstance(model, nn.Sequential):
        columns = [LABELS.index(name) for name in CLASSES]
        return accuracy_and_auroc(truth, model(images)[:, columns].numpy())
    outputs = PromptClassifier(model, ensemble=True)(images, world.prompt_inputs)
    by_prompt = {name: scores.numpy() for name, scores in outputs["prompt_logits"].items()}
    found = accuracy_and_auroc(truth, outputs["logits"].numpy())
    found["one_prompt"] = float(is_right(truth, class_scores(by_prompt, "one prompt")).mean())
    found["confidence"] = outputs["logits"].softmax(1).amax(1).mean().item()
    return found


def run_settings(
    world: World, settings: Sequence[Setting], split: str = "test", processes: int = -1
) -> pd.DataFrame:
    """One row a setting: its fields and what `measure` finds.

    processes: runs at a time, each on one thread; -1 takes all cores. Results do not depend on it.
    """
    jobs = (delayed(_run_one)(world, setting, split) for setting in settings)
    rows = Parallel(processes, return_as="generator")(jobs)
    return pd.DataFrame(list(tqdm(rows, desc="Training", total=len(settings))))


def _run_one(world: World, setting: Setting, split: str) -> dict[str, Any]:
    with cpu_threads(1):
        return asdict(setting) | measure(world, train_once(world, setting), split)


def tune(world: World, base: Sequence[Setting], rates: Sequence[float]) -> dict[str, float]:
    """For each setting's arm the learning rate that is most accurate on the validation phantoms."""
    candidates = [replace(setting, learning_rate=rate) for setting in base for rate in rates]
    found = run_settings(world, candidates, "validation").sort_values(["accuracy", "auroc"])
    best = found.groupby("arm")["learning_rate"].last()
    return {str(arm): rate for arm, rate in best.items()}


def summarize(table: pd.DataFrame, by: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """“mean ± standard deviation” over seeds, rows in the order of first appearance."""
    groups = table.groupby(list(by), sort=False)[list(metrics)]
    mean, spread = groups.mean(), groups.std(ddof=1)
    return mean.map("{:.2f}".format) + " ± " + spread.map("{:.2f}".format)


def plot_arms(table: pd.DataFrame, metric: str = "accuracy", note: str | None = None) -> Figure:
    """`metric` against the number of studies, a line an arm, mean and range over seeds."""
    figure = plots.new_figure(8, 4.2, note)
    axes = figure.subplots()
    for k, (arm, rows) in enumerate(table.groupby("arm", sort=False)):
        values = rows.groupby("samples")[metric]
        mean = values.mean()
        spread = [mean - values.min(), values.max() - mean]
        axes.errorbar(
            mean.index * (1 + 0.02 * (k - 2.5)),
            mean,
            spread,
            marker="o",
            capsize=3,
            label=arm,
            color=plots.COLORS[k % len(plots.COLORS)],
        )
    axes.set_xscale("log")
    ticks = sorted(table["samples"].unique())
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.minorticks_off()
    axes.set(xlabel="studies to learn from", ylabel=metric)
    chance = {"accuracy": 0.2, "auroc": 0.5}[metric]
    axes.axhline(chance, color="0.6", linestyle=":", zorder=0, label="chance")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    plots.tidy(axes)
    return figure
