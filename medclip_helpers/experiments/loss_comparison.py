"""What contrastive losses learn from the same drawn studies: a controlled comparison in miniature.

The same encoders, steps and batches for seven ways to learn (`ARMS`), each with settings that were
chosen among four on validation drawings (`tuning_settings`), then judged over five seeds on test
drawings (`comparison_settings`) by one metric chosen in advance, PRIMARY: how often prompts tell
which of five findings a drawing has. The full result ships with the package (`read_results`) and is
made by `tools/run_loss_comparison.py`. Everything is a function of its seeds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from importlib.resources import files
from itertools import cycle, product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from ..classifier import PromptClassifier
from ..constants import CHEXPERT_COMPETITION
from ..data import (
    LABELS,
    PRESENT,
    PairedDataset,
    UnpairedDataset,
    draw_studies,
    encode_labels,
    write_reports,
)
from ..demo import sample_people
from ..evaluation import accuracy_and_auroc
from ..losses import (
    info_nce_loss,
    label_similarity,
    semantic_matching_loss,
)
from ..model import MedCLIPModel
from ..processor import MedCLIPImageProcessor, MedCLIPProcessor
from ..prompts import generate_chexpert_class_prompts, process_class_prompts
from ..training import build_model
from .threads import cpu_threads
from .vocabulary import build_tokenizer

PRIMARY = "accuracy"
CLASSES = list(CHEXPERT_COMPETITION)
CHANCE = 1 / len(CLASSES)
IMAGE_SIZE = 64  # pixels a side
VISION: dict[str, Any] = {"backbone": "test_efficientnet", "projection_dim": 128, "in_chans": 1}
TEXT: dict[str, Any] = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 256,
}
SEMANTIC_ARM = "semantic matching, tuned"
# A batch has a sentence of each image that states a finding, in one arm the whole report.
ARMS = (
    "InfoNCE",
    "InfoNCE, whole report",
    "InfoNCE, false negatives masked",
    "multi-positive InfoNCE",
    "semantic matching, temperature 1",
    SEMANTIC_ARM,
    "supervision",
)
TUNING_SEEDS, SEEDS = (100, 101), range(5)
RATES = (1e-3, 2e-3, 4e-3, 8e-3)  # the four choices of an arm, and of the tuned one:
RATES_AND_TEMPERATURES = tuple(product((2e-3, 4e-3), (0.1, 0.3)))
SIZES, NOISE, ALIKE = (64, 250, 1000), (0.1, 0.2), (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Setting:
    """One run.

    pairing: "paired", image and text of one study, or "unpaired": the sentence is from the report
        of somebody else who shares a finding.
    images: number to learn from. sentences: if unpaired, number of reports they come from.
    shuffled: share of the images whose labels, as the loss sees them, are another image's.
    alike: share of each batch that has one finding in common; from a half on it makes more false
        negatives than chance does.
    learning_rate: at its peak. temperature: of the targets of semantic matching.
    """

    arm: str
    pairing: str = "paired"
    images: int = 250
    sentences: int = 250
    shuffled: float = 0.0
    alike: float = 0.0
    seed: int = 0
    learning_rate: float = 1e-3
    temperature: float = 1.0
    steps: int = 200
    batch_size: int = 32

    def __post_init__(self) -> None:
        if self.arm not in ARMS:
            raise ValueError(f"unknown arm {self.arm!r}: expected one of {list(ARMS)}")
        if self.pairing not in ("paired", "unpaired"):
            raise ValueError(f"pairing is {self.pairing!r}, expected 'paired' or 'unpaired'")


FIELDS = [field.name for field in fields(Setting)]


class World:
    """Studies to learn from, phantoms with one finding to be judged on, and prompts.

    studies: largest number of studies that a run may learn from; as many reports of other people
        are written, without images, for unpaired learning.
    held_out: phantoms for validation, and as many again for the test.
    """

    def __init__(self, studies: int = max(SIZES), held_out: int = 250, seed: int = 0):
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

    def fingerprint(self) -> str:
        """Eight hexadecimal digits, which change when any drawing or report changes."""
        drawn = hashlib.sha256(self.images.numpy().tobytes())
        drawn.update(self.sentences.to_csv().encode() + self.other_reports.to_csv().encode())
        return drawn.hexdigest()[:8]


class Batch(NamedTuple):
    """images: rows of `World.images`. texts: one each. image_labels, (images, labels): as the loss
    sees them; true_labels as they are; text_labels of the texts.
    """

    images: np.ndarray
    texts: list[str]
    image_labels: Tensor
    true_labels: Tensor
    text_labels: Tensor


def draw_batches(world: World, setting: Setting) -> Iterator[Batch]:
    """What the loss is shown, step by step; the same for all arms except the whole report."""
    rng = np.random.default_rng((setting.seed, setting.images))
    if max(setting.images, setting.sentences) > len(world.studies):
        raise ValueError(f"{setting} asks for more than the world's {len(world.studies)} studies")
    order = rng.permutation(len(world.studies))
    studies = world.studies.iloc[order[: setting.images]]
    texts: PairedDataset | UnpairedDataset
    if setting.pairing == "paired":
        kind = "report" if setting.arm == "InfoNCE, whole report" else "finding"
        texts = PairedDataset(studies, world.sentences, kind, setting.seed)
    else:
        sentences = world.other_reports.set_index("study").loc[order[: setting.sentences]]
        texts = UnpairedDataset(studies, sentences, setting.seed)
    labels = encode_labels(studies[LABELS].to_numpy(np.float32))
    wrong = rng.permutation(len(labels))[: round(setting.shuffled * len(labels))]
    told = labels.copy()
    told[wrong] = labels[np.roll(wrong, 1)]
    for _ in range(setting.steps):
        rows = rng.permutation(len(labels))
        if setting.alike:  # those with one finding first
            finding = LABELS.index(CLASSES[rng.integers(len(CLASSES))])
            like = rows[labels[rows, finding] == PRESENT]
            first = like[: round(setting.alike * setting.batch_size)]
            rows = np.concatenate([first, rows[~np.isin(rows, first)]])
        rows = rows[: setting.batch_size]
        sampled = [texts.sample_text(i, rng) for i in rows]
        spoken = encode_labels(np.stack([labels for _, labels in sampled]))
        yield Batch(
            studies["imgpath"].to_numpy()[rows],
            [text for text, _ in sampled],
            torch.from_numpy(told[rows]),
            torch.from_numpy(labels[rows]),
            torch.from_numpy(spoken),
        )


def false_negative_rate(batches: Iterable[Batch]) -> float:
    """Share of the pairs off the diagonal that share a label, "No Finding" included, in truth."""
    rates = []
    for batch in batches:
        alike = label_similarity(batch.true_labels, batch.text_labels) > 0
        others = ~torch.eye(len(alike), dtype=torch.bool)
        rates.append(alike[others].float().mean().item())
    return float(np.mean(rates))


def multi_positive_info_nce_loss(logits_per_image: Tensor, positives: Tensor) -> Tensor:
    """InfoNCE with several right answers: the mean of their losses, in both directions.

    logits_per_image: (images, texts), scaled cosine similarities. Returns a scalar.
    positives: (images, texts), bool: which belong together. An image or a text that belongs to
        nothing counts as a loss of 0.
    Source: the outer sum of Khosla et al. 2020 (equation 2), between images and texts.
    """
    shape = tuple(logits_per_image.shape)
    if positives.shape != shape:
        raise ValueError(f"positives has shape {tuple(positives.shape)}, expected {shape}")

    def one_way(logits: Tensor, right: Tensor) -> Tensor:
        return F.cross_entropy(logits, right / right.sum(dim=1, keepdim=True).clamp_min(1))

    logits, right = logits_per_image.float(), positives.bool().float()
    return (one_way(logits, right) + one_way(logits.T, right.T)) / 2


def contrastive_loss(logits: Tensor, batch: Batch, setting: Setting) -> Tensor:
    """The loss of a contrastive arm; logits: (images, texts)."""
    similarity = label_similarity(batch.image_labels, batch.text_labels)
    alike = (similarity > 0) | torch.eye(len(similarity), dtype=torch.bool)
    return {
        "InfoNCE": partial(info_nce_loss, logits),
        "InfoNCE, whole report": partial(info_nce_loss, logits),
        "InfoNCE, false negatives masked": partial(info_nce_loss, logits, alike),
        "multi-positive InfoNCE": partial(multi_positive_info_nce_loss, logits, alike),
        "semantic matching, temperature 1": partial(semantic_matching_loss, logits, similarity),
        SEMANTIC_ARM: partial(semantic_matching_loss, logits, similarity, setting.temperature),
    }[setting.arm]()


def train_once(world: World, setting: Setting) -> MedCLIPModel | nn.Sequential:
    """The model that one run trains, for supervision image encoder and head, in eval mode."""
    medclip, _ = build_model(VISION, TEXT, world.processor.tokenizer, IMAGE_SIZE, setting.seed)
    model: MedCLIPModel | nn.Sequential = medclip
    if setting.arm == "supervision":
        with torch.random.fork_rng():
            torch.manual_seed(setting.seed)
            head = nn.Linear(VISION["projection_dim"], len(LABELS))
        model = nn.Sequential(medclip.vision_model, head)
    model.to(memory_format=torch.channels_last).train()  # a third faster on a CPU
    optimizer = torch.optim.AdamW(model.parameters(), setting.learning_rate, weight_decay=1e-2)
    rise = 0.1 if setting.steps != 10 else 0.2  # torch divides by the first step's number, 0
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, setting.learning_rate, total_steps=setting.steps, pct_start=rise
    )
    with torch.random.fork_rng():  # for dropout
        torch.manual_seed(setting.seed)
        for batch in draw_batches(world, setting):
            images = world.images[batch.images]
            if setting.arm == "supervision":
                loss = F.binary_cross_entropy_with_logits(model(images), batch.image_labels)
            else:
                inputs = world.processor(text=batch.texts)
                logits = model(**inputs, pixel_values=images).logits_per_image
                loss = contrastive_loss(logits, batch, setting)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def measure(
    world: World, model: MedCLIPModel | nn.Sequential, split: str = "test"
) -> dict[str, float]:
    """`accuracy` and `auroc` (mean over the five classes) of zero-shot classification."""
    images, truth = world.held_out[split]
    if isinstance(model, nn.Sequential):
        columns = [LABELS.index(name) for name in CLASSES]
        return accuracy_and_auroc(truth, model(images)[:, columns].numpy())
    outputs = PromptClassifier(model, ensemble=True)(images, world.prompt_inputs)
    return accuracy_and_auroc(truth, outputs["logits"].numpy())


def run_settings(
    world: World, settings: Sequence[Setting], split: str = "test", processes: int = -1
) -> pd.DataFrame:
    """One row per setting: `split`, its fields, what `measure` finds, and `false_negatives`, the
    share of the negatives that are false.

    processes: runs at a time, each on one thread; -1 takes all cores. Results do not depend on it.
    """
    jobs = (delayed(_run_one)(world, setting, split) for setting in settings)
    rows = Parallel(processes, return_as="generator")(jobs)
    return pd.DataFrame(list(tqdm(rows, desc="Training", total=len(settings))))


def _run_one(world: World, setting: Setting, split: str) -> dict[str, Any]:
    with cpu_threads(1):
        found = measure(world, train_once(world, setting), split)
        rate = false_negative_rate(draw_batches(world, setting))
    return {"split": split, **asdict(setting), **found, "false_negatives": rate}


def tuning_settings() -> list[Setting]:
    """Four candidates for each arm, paired, over two seeds that the test does not use."""
    return [
        Setting(arm, seed=seed, learning_rate=rate, temperature=temperature)
        for arm in ARMS
        for rate, temperature in (
            RATES_AND_TEMPERATURES if arm == SEMANTIC_ARM else [(rate, 1.0) for rate in RATES]
        )
        for seed in TUNING_SEEDS
    ]


def tuned(results: pd.DataFrame, arm: str, **options: Any) -> Setting:
    """The candidate of `arm` that was most accurate on validation drawings, with `options`.

    results: of `read_results` or `run_settings`. Raises ValueError where the arm was not tuned.
    """
    tried = results[(results["split"] == "validation") & (results["arm"] == arm)]
    if tried.empty:
        raise ValueError(f"no run of {arm!r} on validation drawings: nothing to choose from")
    means = tried.groupby(["learning_rate", "temperature"])[[PRIMARY, "auroc"]].mean()
    rate, temperature = map(float, means.sort_values([PRIMARY, "auroc"]).index[-1])
    return Setting(arm, **{"learning_rate": rate, "temperature": temperature} | options)


def comparison_settings(results: pd.DataFrame) -> list[Setting]:
    """All runs of the comparison, with the settings that `results` on validation drawings chose.

    Chosen paired, and kept for everything else: unpaired, other sizes, noise, batches that are
    more alike, and the control, whose image labels are all shuffled.
    """
    conditions: list[tuple[str, dict[str, Any]]] = [(arm, {}) for arm in ARMS]
    conditions += [(SEMANTIC_ARM, {"shuffled": 1.0})]
    own = ("InfoNCE, whole report", "supervision")  # which there is no unpaired version of
    conditions += [(arm, {"pairing": "unpaired"}) for arm in ARMS if arm not in own]
    conditions += [
        (SEMANTIC_ARM, {"pairing": "unpaired", "images": images, "sentences": sentences})
        for images, sentences in product(SIZES, SIZES)
        if min(SIZES) in (images, sentences)
    ]
    conditions += [
        (arm, {"shuffled": share})
        for arm, share in product(("multi-positive InfoNCE", SEMANTIC_ARM, "supervision"), NOISE)
    ]
    conditions += [
        (arm, {"alike": share}) for arm, share in product(("InfoNCE", SEMANTIC_ARM), ALIKE)
    ]
    return [
        tuned(results, arm, seed=seed, **options) for arm, options in conditions for seed in SEEDS
    ]


def read_results() -> pd.DataFrame:
    """The full comparison as it ships: rows of `run_settings`, with `date` and `drawings`, the
    fingerprint of the world that they were run in.
    """
    with files(__package__).joinpath("loss_comparison.csv").open() as file:
        return pd.read_csv(file)


def select(results: pd.DataFrame, **wanted: Any) -> pd.DataFrame:
    """The test rows with the default fields of `Setting`, except those in `wanted`; None: any."""
    expected = {name: value for name, value in asdict(Setting(ARMS[0])).items()
                if name in ("pairing", "images", "sentences", "shuffled", "alike")}  # fmt: skip
    expected |= {"split": "test"} | wanted
    keep = pd.Series(True, results.index)
    for name, value in expected.items():
        if value is not None:
            keep &= results[name] == value
    return results[keep]


def with_intervals(named: Mapping[str, pd.DataFrame], metric: str = PRIMARY) -> pd.DataFrame:
    """A row for each table of runs: `value`, the mean of `metric` over its rows, with `low` and
    `high`, the 95 % interval of Student's t; no interval for a single run.
    """
    from scipy import stats

    rows = {}
    for name, table in named.items():
        values = table[metric].to_numpy()
        ends = stats.ttest_1samp(values, 0).confidence_interval() if len(values) > 1 else None
        low, high = (ends.low, ends.high) if ends else (np.nan, np.nan)
        rows[name] = {"value": values.mean(), "low": low, "high": high}
    return pd.DataFrame(rows).T


def paired_differences(
    results: pd.DataFrame, others: Mapping[str, pd.DataFrame], metric: str = PRIMARY
) -> pd.DataFrame:
    """`metric` of each of `others` minus that of `results`, seed by seed: one row each with `mean`,
    `low` and `high`, as in `with_intervals`.

    Raises ValueError where the two do not have a row for each of the same seeds.
    """
    first, pairs = results.set_index("seed")[metric].sort_index(), {}
    for name, table in others.items():
        second = table.set_index("seed")[metric].sort_index()
        if not second.index.equals(first.index) or not first.index.is_unique:
            raise ValueError(f"{name}: expected a row for each of the seeds {first.index.tolist()}")
        pairs[name] = pd.DataFrame({metric: second - first})
    return with_intervals(pairs, metric).rename(columns={"value": "mean"})
