"""What torch trains on: images with sentences, unpaired and paired, and images with labels.

Datasets hold no random state. `dataset[g]` is sample `i` of epoch `epoch`, where
`epoch, i = divmod(g, len(dataset))`, and depends on (seed, epoch, i) alone: whatever the workers,
and however often a run is interrupted, it sees the same samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..hub import fingerprint
from ..processor import MedCLIPProcessor
from ..radiographs import read_radiograph, warn_user
from .labels import LABELS, PRESENT, UNCERTAIN
from .sentences import authors_sentences, labels_by_sentence, normalize_sentence, split_report
from .tables import PATHS, check_numbers, check_table


class _StudyDataset(Dataset):
    """Images with labels; a subclass chooses the text of a sample."""

    def __init__(self, rows: pd.DataFrame, seed: int):
        check_numbers(seed=seed)
        self.seed = seed
        self._images = rows["imgpath"].tolist()
        self._labels = rows[LABELS].to_numpy(np.float32)

    def __len__(self) -> int:
        return len(self._images)

    def sample_text(self, i: int, rng: np.random.Generator) -> tuple[str, np.ndarray]:
        raise NotImplementedError

    def __getitem__(self, g: int) -> dict:
        if g < 0:
            raise IndexError(f"sample {g}: expected 0 or more (epoch x {len(self)} + row)")
        epoch, i = divmod(int(g), len(self))
        key = (self.seed, epoch, i)
        text, text_labels = self.sample_text(i, np.random.default_rng(key))
        return {
            "image": read_radiograph(self._images[i]),
            "text": text,
            "image_labels": self._labels[i].copy(),
            "text_labels": text_labels.copy(),
            "random_key": key,  # what `MedCLIPCollator` seeds its transforms from
        }

    def fingerprint(self) -> str:
        """A hash of all that determines a sample; files count by their names."""
        facts = {name: value for name, value in sorted(vars(self).items()) if name != "_pools"}
        return fingerprint(type(self).__name__, facts)

    def __iter__(self):
        """One epoch, the first: indices past it are legal, so iteration must be told to end."""
        return (self[i] for i in range(len(self)))


class UnpairedDataset(_StudyDataset):
    """Images, each with a sentence from anywhere that shares one of its findings.

    images: rows with `imgpath` (anything `read_radiograph` takes) and the 14 labels; reports are
        ignored, rows without an image are skipped.
    sentences: rows with `Reports` and the 14 labels.
    match: True draws a label that is present in the image, then a sentence in which it is present,
        each uniformly. False draws the sentence whatever the image: the two are then joined only
        by the loss, and sentences that state an absence come up as well.

    A sample is {"image": PIL "L", "text", "image_labels" (14,), "text_labels" (14,), "random_key"}.

    Two cases differ from the published dataset. An image about which nothing is known (no label
    mentioned) is left out, with a warning: it matches no sentence, and the published code gives
    it a "sentence" of one character. An image with labels but none present, or only ones that no
    sentence has, gets a sentence of No Finding if all its labels are absent, else any sentence.
    Every sentence comes with its own labels.

    Raises ValueError if no labelled image or no labelled sentence is left, and for tables that lack
    a column or have other labels.
    """

    def __init__(
        self, images: pd.DataFrame, sentences: pd.DataFrame, seed: int = 0, match: bool = True
    ):
        if not isinstance(match, bool):
            raise ValueError(f"match is {match!r}, expected True or False")
        check_table(images, ["imgpath", *LABELS], "images")
        check_table(sentences, ["Reports", *LABELS], "sentences")
        rows = images[images["imgpath"].notna()]
        labelled = rows[LABELS].notna().any(axis=1)
        if not labelled.all():
            warn_user(f"{(~labelled).sum()} of {len(rows)} images have no label and are left out")
        super().__init__(rows[labelled], seed)
        known = sentences[sentences[LABELS].notna().any(axis=1)]
        for name, table in (("image", self._images), ("sentence", known)):
            if not len(table):
                raise ValueError(f"no {name} with a label: expected at least one")
        self._texts = known["Reports"].tolist()
        self._text_labels = known[LABELS].to_numpy(np.float32)
        self._match, self._pools = match, self._index(match)  # the pools follow from the rest

    def _index(self, match: bool) -> list[list[np.ndarray]]:
        """For each image, the pools of sentence numbers to draw from; images share the arrays."""
        everything = np.arange(len(self._texts))
        if not match:
            return [[everything]] * len(self)
        by_label = [np.flatnonzero(column == PRESENT) for column in self._text_labels.T]
        normal = by_label[LABELS.index("No Finding")]
        pools = []
        for labels in self._labels:
            shared = [by_label[k] for k in np.flatnonzero(labels == PRESENT) if len(by_label[k])]
            nothing_found = not np.isin(labels, [PRESENT, UNCERTAIN]).any()
            rest = normal if nothing_found and len(normal) else everything
            pools.append(shared or [rest])
        return pools

    def sample_text(self, i: int, rng: np.random.Generator) -> tuple[str, np.ndarray]:
        """A sentence for image `i` and its labels (14,), in constant time."""
        pools = self._pools[i]
        pool = pools[rng.integers(len(pools))]
        chosen = pool[rng.integers(len(pool))]
        return self._texts[chosen], self._text_labels[chosen]


class PairedDataset(_StudyDataset):
    """Images, each with a text from its own report.

    rows: `imgpath`, `report` (text, or a list of sentences) and the 14 labels; rows without an
        image or without a sentence are left out, with a warning.
    text: "sentence", any sentence of the report; "finding", one in which a label is present, No
        Finding included (any sentence where there is none); or "report", all sentences.
    sentences: labels by sentence (`Reports` and the 14 columns), looked up in the normalised form
        of `split_report`. A sentence that is not in it has unknown labels, NaN (the published
        dataset calls it No Finding). A whole report has the labels of its row.

    A sample is as in `UnpairedDataset`. Raises ValueError for an unknown `text` and where no pair
    is left.
    """

    def __init__(
        self,
        rows: pd.DataFrame,
        sentences: pd.DataFrame | None = None,
        text: str = "sentence",
        seed: int = 0,
    ):
        if text not in ("sentence", "finding", "report"):
            raise ValueError(f"text={text!r}: expected 'sentence', 'finding' or 'report'")
        check_table(rows, ["imgpath", "report", *LABELS], "rows")
        split = [r if isinstance(r, list) else split_report(r) for r in rows["report"]]
        paired = rows["imgpath"].notna().to_numpy() & np.array([bool(s) for s in split], bool)
        if not paired.all():
            warn_user(
                f"{(~paired).sum()} of {len(rows)} rows have no image or no report sentence and "
                "are left out"
            )
        if not paired.any():
            raise ValueError("no row with an image and a report sentence: expected at least one")
        super().__init__(rows[paired], seed)
        reports = [s for s, keep in zip(split, paired, strict=True) if keep]
        labels_of = {} if sentences is None else labels_by_sentence(sentences)
        unknown = np.full(len(LABELS), np.nan, np.float32)
        if text == "report":
            self._texts = [
                [(" ".join(report), labels)]
                for report, labels in zip(reports, self._labels, strict=True)
            ]
            return
        self._texts = [
            [(s, labels_of.get(normalize_sentence(s), unknown)) for s in report]
            for report in reports
        ]
        if text == "finding":
            self._texts = [
                [pair for pair in texts if (pair[1] == PRESENT).any()] or texts
                for texts in self._texts
            ]

    def sample_text(self, i: int, rng: np.random.Generator) -> tuple[str, np.ndarray]:
        """A text of row `i` and its labels (14,)."""
        return self._texts[i][rng.integers(len(self._texts[i]))]


class AuthorsDataset(_StudyDataset):
    """Images, each with a sentence chosen as in the authors' pretraining.

    rows: `imgpath`, `report` (text or none) and the 14 labels; unknown ones count as 0.
    sentences: `Reports` and the 14 labels, see `data.sentences.authors_sentences`.
    bank: number of sentences per label, redrawn for each epoch, for the images without a report.
    first_character: repeat the authors' mistake for images without a report or label, whose
        "sentence" is the first character of a No Finding sentence; otherwise it is all of it.

    An image with a report gets any sentence of it, with the labels that the table has for exactly
    this text; if it has none, No Finding and nothing else. An image without gets a sentence of the
    bank with one of its findings (No Finding does not count), else one of No Finding.

    A sample is as in `UnpairedDataset`. Raises ValueError for tables that lack a column or have
    other labels, and where no sentence is one of No Finding.
    Source: medclip 0.0.3, `ImageTextContrastiveDataset`.
    """

    def __init__(
        self,
        rows: pd.DataFrame,
        sentences: pd.DataFrame,
        seed: int = 0,
        bank: int = 200,
        first_character: bool = False,
    ):
        check_table(rows, ["imgpath", "report", *LABELS], "rows")
        check_numbers(1, bank=bank)
        rows = rows[rows["imgpath"].notna()]
        super().__init__(rows.fillna(dict.fromkeys(LABELS, 0)), seed)
        self._size, self._first_character = bank, first_character
        self._reports = rows["report"].map(split_report).tolist()
        table = authors_sentences(sentences)
        self._texts = table["Reports"].tolist()
        self._text_labels = table[LABELS].to_numpy(np.float32)
        self._labels_of = dict(zip(self._texts, self._text_labels, strict=True))
        self._normal = np.flatnonzero(self._text_labels[:, 0] == PRESENT)
        if not len(self._normal):
            raise ValueError(f"none of {len(table)} sentences has No Finding: expected one or more")
        self._pools: tuple[int, np.ndarray] = (-1, self._normal)  # epoch, its bank

    def __getitem__(self, g: int) -> dict:
        if (epoch := g // len(self)) != self._pools[0]:
            self._pools = epoch, self.draw_bank(np.random.default_rng((self.seed, epoch)))
        return super().__getitem__(g)

    def draw_bank(self, rng: np.random.Generator) -> np.ndarray:
        """Numbers of the bank's sentences, label by label, each sentence once."""
        chosen: dict[tuple[str, bytes], int] = {}
        for column in self._text_labels.T:
            having = np.flatnonzero(column == PRESENT)
            if len(having) >= self._size:
                having = having[rng.permutation(len(having))[: self._size]]
            for k in having.tolist():
                chosen.setdefault((self._texts[k], self._text_labels[k].tobytes()), k)
        return np.array(list(chosen.values()))

    def sample_text(self, i: int, rng: np.random.Generator) -> tuple[str, np.ndarray]:
        """A sentence for row `i` and its labels (14,)."""
        if report := self._reports[i]:
            text = report[rng.integers(len(report))]
            return text, self._labels_of.get(text, np.eye(len(LABELS), dtype=np.float32)[0])
        pool, labelled = self._normal, self._labels[i].any()
        if labelled:
            bank = self._pools[1]
            shared = (self._text_labels[bank] * self._labels[i] > 0)[:, 1:].any(axis=1)
            pool = bank[shared if shared.any() else self._text_labels[bank, 0] == PRESENT]
        chosen = pool[rng.integers(len(pool))]
        text = self._texts[chosen]
        mistaken = self._first_character and not labelled
        return text[0] if mistaken else text, self._text_labels[chosen]


class LabelledImages(Dataset):
    """Images with labels, read on demand: {"pixel_values" (1, size, size), "labels"}.

    images: what `read_radiograph` takes. labels: (images,) or (images, classes);
    the training decides what unknown ones, -1 and NaN, count as. Raises ValueError for others.
    transform: PIL image -> PIL image (`image_augmentation`), by torch's generator.
    """

    def __init__(
        self,
        images: Sequence,
        labels: np.ndarray,
        processor: MedCLIPProcessor,
        transform: Callable | None = None,
    ):
        labels = np.asarray(labels)
        if labels.ndim not in (1, 2) or labels.dtype.kind not in "biuf" or np.isinf(labels).any():
            raise ValueError(f"labels are {labels!r:.99}, expected numbers, (images[, classes])")
        images = [images] if isinstance(images, PATHS) else images
        count = len(images) if isinstance(images, Sized) else repr(images)
        if count != len(labels):
            raise ValueError(f"{count} images and {len(labels)} labels: expected equal numbers")
        self.images, self.labels, self.processor = list(images), labels, processor
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        image = self.images[i]
        if self.transform is not None:
            image = self.transform(read_radiograph(image))
        pixels = self.processor(images=image)["pixel_values"][0]
        return {"pixel_values": pixels, "labels": torch.as_tensor(self.labels[i])}
