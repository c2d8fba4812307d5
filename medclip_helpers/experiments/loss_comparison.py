"""The paper's claim in miniature: what contrastive losses learn from N drawn studies.

Six ways to learn from the same phantoms and reports, with the same encoders, steps and batch
(`ARMS`), each judged by how well prompts tell apart phantoms with one of the five competition
findings. Everything is a function of its seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from ..constants import CHEXPERT_COMPETITION, MAX_TEXT_TOKENS
from ..data import LABELS, PairedDataset, UnpairedDataset, encode_labels
from ..demo import draw_phantoms, sample_findings, write_report
from ..losses import info_nce_loss, label_similarity, semantic_matching_loss
from ..processor import MedCLIPImageProcessor
from ..prompts import generate_chexpert_class_prompts, process_class_prompts
from .vocabulary import build_tokenizer

CLASSES = list(CHEXPERT_COMPETITION)
IMAGE_SIZE = 64  # pixels a side
VISION = {"backbone": "test_efficientnet", "projection_dim": 128, "in_chans": 1}
TEXT = {
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
SEMANTIC = "semantic matching, paired"
# What `tune` chose of 0.001 and 0.003 with 1,000 studies at hand, 250 learnt from, 250 steps.
RATES = {
    "InfoNCE, random sentence": 1e-3,
    "InfoNCE, finding sentence": 1e-3,
    "InfoNCE, whole report": 3e-3,
    "semantic matching, paired": 3e-3,
    "semantic matching, unpaired": 3e-3,
    "supervision": 3e-3,
}
# Targets of semantic matching, side by side: kind, value of an absent finding, temperature.
TARGETS = [
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
        self.tokenizer = build_tokenizer()
        self._process = MedCLIPImageProcessor(IMAGE_SIZE)
        phantoms = draw_phantoms(studies, seed, size=IMAGE_SIZE)
        self.images = self._process([phantom.image for phantom in phantoms])
        reports = [write_report(phantom.findings, i) for i, phantom in enumerate(phantoms)]
        labels = np.stack([phantom.labels for phantom in phantoms])
        self.studies = pd.DataFrame(labels, columns=LABELS).assign(
            imgpath=range(studies),  # the row of `images`
            report=[[sentence.text for sentence in report] for report in reports],
        )
        self.sentences = _table(reports)
        strangers = range(studies, 2 * studies)
        others = [write_report(sample_findings(10**6 + i), i) for i in strangers]
        self.other_reports = [_table([report]) for report in others]
        self.held_out = {
            split: self._exclusive(held_out, seed + offset)
            for offset, split in enumerate(("validation", "test"), 1)
        }
        prompts = generate_chexpert_class_prompts(10, seed=seed)
        prompts = {name: prompts[name] for name in CLASSES}
        self.prompt_inputs = process_class_prompts(prompts, self.tokenizer)

    def _exclusive(self, count: int, seed: int) -> tuple[Tensor, np.ndarray]:
        phantoms = draw_phantoms(count, seed, exclusive=True, size=IMAGE_SIZE)
        return self._process([p.image for p in phantoms]), np.arange(count) % len(CLASSES)

    def texts(self, setting: Setting, rows: np.ndarray):
        """The dataset that a run samples its texts from, None for supervision."""
        source, _ = ARMS[setting.arm]
        studies = self.studies.iloc[rows]
        if source == "none":
            return None
        if source == "unpaired":
            sentences = pd.concat([self.other_reports[row] for row in rows], ignore_index=True)
            return UnpairedDataset(studies, sentences, setting.seed)
        return PairedDataset(studies, self.sentences, source, setting.seed)


def _table(reports) -> pd.DataFrame:
    sentences = [sentence for report in reports for sentence in report]
    table = pd.DataFrame(np.stack([s.labels for s in sentences]), columns=LABELS)
    return table.assign(Reports=[s.text for s in sentences])


def train_once(world: World, setting: Setting) -> nn.Module:
    """The model that one run gives: a `MedCLIPModel`, or image encoder and head for supervision."""
    from ..training import build_model

    if setting.arm not in ARMS:
        raise ValueError(f"unknown arm {setting.arm!r}: expected one of {list(ARMS)}")
    model, _ = build_model(VISION, TEXT, world.tokenizer, IMAGE_SIZE, setting.seed)
    loss_name = ARMS[setting.arm][1]
    if loss_name == "supervision":
        with torch.random.fork_rng():
            torch.manual_seed(setting.seed)
            head = nn.Linear(VISION["projection_dim"], len(LABELS))
        model = nn.Sequential(model.vision_model, head)
    model = model.to(memory_format=torch.channels_last).train()  # a third faster on a CPU
    rng = np.random.default_rng((setting.seed, setting.samples))
    rows = rng.permutation(len(world.studies))[: setting.samples]
    texts = world.texts(setting, rows)
    targets = encode_labels(world.studies[LABELS].to_numpy(np.float32)[rows], setting.absent)
    known = ~np.isnan(world.studies[LABELS].to_numpy(np.float32)[rows])
    optimizer = torch.optim.AdamW(model.parameters(), setting.learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, setting.learning_rate, total_steps=setting.steps, pct_start=0.1
    )
    with torch.random.fork_rng():  # for dropout
        torch.manual_seed(setting.seed)
        for _ in range(setting.steps):
            batch = rng.permutation(len(rows))[: setting.batch_size]
            images = world.images[rows[batch]]
            if loss_name == "supervision":
                logits, mask = model(images), torch.from_numpy(known[batch])
                truth = torch.from_numpy(targets[batch])
                loss = F.binary_cross_entropy_with_logits(logits[mask], truth[mask])
            else:
                sampled = [texts.sample_text(i, rng) for i in batch]
                logits = _logits(model, world, images, [text for text, _ in sampled])
                loss = _contrastive(logits, targets[batch], sampled, setting)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def _logits(model, world: World, images: Tensor, texts: Sequence[str]) -> Tensor:
    inputs = world.tokenizer(
        list(texts), padding=True, truncation=True, max_length=MAX_TEXT_TOKENS, return_tensors="pt"
    )
    text_embeds = model.encode_text(inputs["input_ids"], inputs["attention_mask"])
    return model.compute_logits(model.encode_image(images), text_embeds)


def _contrastive(logits: Tensor, image_labels: np.ndarray, sampled, setting: Setting) -> Tensor:
    if ARMS[setting.arm][1] == "info_nce":
        return info_nce_loss(logits)
    text_labels = encode_labels(np.stack([labels for _, labels in sampled]), setting.absent)
    similarity = label_similarity(
        torch.from_numpy(image_labels), torch.from_numpy(text_labels), setting.kind
    )
    return semantic_matching_loss(logits, similarity, setting.temperature)


@torch.no_grad()
def measure(world: World, model: nn.Module, split: str = "test") -> dict[str, float]:
    """accuracy and auroc (macro over the five classes) of zero-shot classification.

    For a model with prompts also `one_prompt`, the mean accuracy over ten ways to give each class a
    single prompt, and `confidence`, the mean probability of the class that is chosen.
    """
    from sklearn.metrics import roc_auc_score

    images, truth = world.held_out[split]
    if isinstance(model, nn.Sequential):
        scores = model(images)[:, [LABELS.index(name) for name in CLASSES]].numpy()
        more = {}
    else:
        embeds = model.encode_image(images)
        each = torch.stack(
            [
                model.compute_logits(embeds, model.encode_text(**_ids(inputs)))
                for inputs in world.prompt_inputs.values()
            ]
        ).numpy()  # (classes, images, prompts)
        scores = each.mean(2).T
        single = (each.argmax(0) == truth[:, None]).mean()
        chosen = torch.from_numpy(scores).softmax(1).max(1).values.mean()
        more = {"one_prompt": float(single), "confidence": float(chosen)}
    areas = [roc_auc_score(truth == k, scores[:, k]) for k in range(len(CLASSES))]
    accuracy = float((scores.argmax(1) == truth).mean())
    return {"accuracy": accuracy, "auroc": float(np.mean(areas)), **more}


def _ids(inputs: Mapping) -> dict:
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}


def run(
    world: World, settings: Sequence[Setting], split: str = "test", processes: int = -1
) -> pd.DataFrame:
    """One row a setting: its fields and what `measure` finds.

    processes: runs at a time, each on one thread; -1 takes all cores. Results do not depend on it.
    """
    jobs = (delayed(_run_one)(world, setting, split) for setting in settings)
    rows = Parallel(processes, return_as="generator")(jobs)
    return pd.DataFrame(list(tqdm(rows, desc="Training", total=len(settings))))


def _run_one(world: World, setting: Setting, split: str) -> dict:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return asdict(setting) | measure(world, train_once(world, setting), split)
    finally:
        torch.set_num_threads(threads)


def tune(world: World, base: Sequence[Setting], rates: Sequence[float]) -> dict[str, float]:
    """For each setting's arm the learning rate that is most accurate on the validation phantoms."""
    candidates = [replace(setting, learning_rate=rate) for setting in base for rate in rates]
    found = run(world, candidates, "validation").sort_values(["accuracy", "auroc"])
    return found.groupby("arm")["learning_rate"].last().to_dict()


def summarize(table: pd.DataFrame, by: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """ "mean ± standard deviation" over seeds, rows in the order of first appearance."""
    groups = table.groupby(list(by), sort=False)[list(metrics)]
    mean, spread = groups.mean(), groups.std(ddof=1)
    return mean.map("{:.2f}".format) + " ± " + spread.map("{:.2f}".format)


def plot_arms(table: pd.DataFrame, metric: str = "accuracy", note: str | None = None):
    """`metric` against the number of studies, a line an arm, mean and range over seeds."""
    from ..plots import COLORS, new_figure, tidy

    figure = new_figure(8, 4.2, note)
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
            color=COLORS[k % len(COLORS)],
        )
    axes.set_xscale("log")
    ticks = sorted(table["samples"].unique())
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.minorticks_off()
    axes.set(xlabel="studies to learn from", ylabel=metric)
    chance = {"accuracy": 0.2, "auroc": 0.5}[metric]
    axes.axhline(chance, color="0.6", linestyle=":", zorder=0, label="chance")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    tidy(axes)
    return figure
