"""Augmentation of report sentences and radiographs that leaves their labels true."""

from __future__ import annotations

import importlib.util
import random
import re
from functools import cache
from itertools import groupby
from numbers import Real
from pathlib import Path

import nltk
import numpy as np
from torchvision.transforms import v2

from ..constants import IMAGE_SIZE
from ..hub import read_settings
from ..radiographs import to_square, warn_user
from .labeller import labeller_words
from .tables import check_numbers


@cache
def protected_words() -> frozenset[str]:
    """Words that augmentation never deletes, swaps or replaces: negations, hedges, sides and
    locations, the words of the findings, and the conjunctions between them."""
    own = read_settings(Path(__file__).with_name("augmentation.yaml"))
    terms = [
        term for part in labeller_words().values() for terms in part.values() for term in terms
    ]
    optional = own.pop("optional").split()
    return frozenset(re.findall(r"[a-z]+", " ".join([*own.values(), *terms]))).difference(optional)


def _is_free(word: str) -> bool:
    return word.isalpha() and word.lower() not in protected_words()


def _runs(words: list[str]) -> list[tuple[bool, list[str]]]:
    """The words in runs: (free to change, words)."""
    return [(free, list(run)) for free, run in groupby(words, _is_free)]


@cache
def _eda() -> tuple:
    """textaugment's EDA and a private copy of its module, whose `random` is ours to set.

    Its constructor would download NLTK data and reseed Python's global generator, so it is not run.
    """
    # Here, because scikit-learn loads slowly.
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    spec = importlib.util.find_spec("textaugment.eda")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    eda = module.EDA.__new__(module.EDA)
    eda.stopwords = ENGLISH_STOP_WORDS
    return module, eda


@cache
def _has_wordnet() -> bool:
    try:
        nltk.corpus.wordnet.synsets("lung")
    except LookupError:
        warn_user(
            "NLTK's WordNet is not installed: text is augmented by swap and deletion only "
            "(for synonyms: python -m nltk.downloader wordnet)"
        )
        return False
    return True


class TextAugmentation:
    """EDA's synonyms, swap or deletion, one per call, within the free words of a sentence.

    Wei and Zou 2019, as textaugment implements them and published MedCLIP uses them, except that
    `protected_words`, numbers and punctuation stay as they are and where they are: "no" is not
    deleted, "left" does not become "right", and no word moves across them. Each operation works on
    a run of free words, and deletion leaves at least one of them. Without WordNet there are no
    synonyms, and a warning says so once.

    protect: False, as published, protects nothing.

    (text, numpy Generator) -> text. Raises ImportError where textaugment is not installed.
    """

    def __init__(self, deletion: float = 0.1, protect: bool = True):
        if not isinstance(deletion, Real) or not 0 <= deletion <= 1:
            raise ValueError(f"deletion is {deletion!r}, expected a probability, 0 to 1")
        self.deletion: float = deletion  # for each free word
        self.protect: bool = protect

    def __call__(self, text: str, rng: np.random.Generator) -> str:
        if not isinstance(text, str):
            raise ValueError(f"text is {text!r:.99}, expected a string")
        module, eda = _eda()
        module.random = random.Random(int(rng.integers(2**63)))
        operations = ["swap", "deletion", *(["synonym"] if _has_wordnet() else [])]
        operation = operations[rng.integers(len(operations))]
        change = {
            "swap": eda.random_swap,
            "deletion": lambda run: eda.random_deletion(run, p=self.deletion),
            "synonym": eda.synonym_replacement,
        }[operation]
        words = text.split()
        runs = _runs(words) if self.protect else [(True, words)]
        shortest = 1 if operation == "synonym" else 2
        chosen = [k for k, (free, words) in enumerate(runs) if free and len(words) >= shortest]
        if chosen and operation != "deletion":
            chosen = [chosen[rng.integers(len(chosen))]]
        parts = [" ".join(words) for _, words in runs]
        for k in chosen:
            parts[k] = change(parts[k])
        return " ".join(parts)


def image_augmentation(size: int = IMAGE_SIZE, flip: bool = False):
    """The published training transform: PIL image -> PIL image of `size` pixels a side.

    flip: mirror an image with probability one half, as published. Off by default, because it makes
        "left" and "right" in sentences untrue.

    Brightness and contrast vary by 20 %, rotation by 10 degrees, scale from .8 to 1.1, position by
    1/16; then resize to 8/7 of `size` (256 for 224) and crop at random. Source: the published
    pretraining script. Draws from torch's CPU generator, which `MedCLIPCollator` seeds.
    """
    check_numbers(1, size=size)
    return v2.Compose(
        [
            v2.Lambda(to_square),
            *([v2.RandomHorizontalFlip(0.5)] if flip else []),
            v2.ColorJitter(0.2, 0.2),
            v2.RandomAffine(degrees=10, scale=(0.8, 1.1), translate=(0.0625, 0.0625)),
            v2.Resize(round(size * 8 / 7)),
            v2.RandomCrop(size),
        ]
    )
