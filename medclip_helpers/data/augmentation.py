"""Augmentation of report sentences and radiographs that leaves their labels true."""

from __future__ import annotations

import importlib.util
import random
import re
import warnings
from functools import cache

import numpy as np

from ..constants import IMAGE_SIZE
from ..radiographs import to_square
from . import labeller as sentences

_LATERALITY = """
    left right bilateral bilaterally unilateral both either upper mid middle lower apical apex
    basilar base bases lobe lobes medial lateral anterior posterior retrocardiac perihilar hilar
""".split()
_DENIAL = """
    no not non without none never neither nor cannot absent absence deny denies denied negative free
    clear normal unremarkable resolved resolution cleared stable unchanged
""".split()
# Words at which a denial or a doubt may end: a swap across them would move a finding out of it.
_BORDERS = """
    and or but although though however except which with versus vs yet still than nor then while
    is are was were be been has have had there this that
""".split()


def _words(terms: list[str]) -> set[str]:
    return set(re.findall(r"[a-z]+", " ".join(terms)))


@cache
def protected_words() -> frozenset[str]:
    """Words that augmentation never deletes, swaps or replaces: denials, doubts, sides and places,
    the words of the findings, and the conjunctions between them."""
    words = {*_LATERALITY, *_DENIAL, *_BORDERS}
    for name in ("TERMS", "DOUBTFUL_TERMS", "NORMAL_TERMS", "DENIAL", "DOUBT", "PAST"):
        for terms in getattr(sentences, name).values():
            words |= _words(terms)
    return frozenset(words | _words(sentences.NO_FINDING_TERMS) | _words(sentences.OTHER_TERMS))


def _is_free(word: str) -> bool:
    return word.isalpha() and word.lower() not in protected_words()


@cache
def _eda() -> tuple:
    """textaugment's EDA and a private copy of its module, whose `random` is ours to set.

    Its constructor would download NLTK data and reseed Python's global generator, so it is not run.
    """
    try:
        spec = importlib.util.find_spec("textaugment.eda")
    except ModuleNotFoundError:
        spec = None
    if spec is None:
        raise ImportError("augmenting text needs textaugment: pip install textaugment")
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    eda = module.EDA.__new__(module.EDA)
    eda.stopwords = ENGLISH_STOP_WORDS
    return module, eda


@cache
def _has_wordnet() -> bool:
    from nltk.corpus import wordnet

    try:
        wordnet.synsets("lung")
    except LookupError:
        warnings.warn(
            "NLTK's WordNet is not installed: text is augmented by swap and deletion only "
            "(for synonyms: python -m nltk.downloader wordnet)",
            stacklevel=3,
        )
        return False
    return True


class TextAugmentation:
    """EDA's synonyms, swap or deletion, one a call, within the free words of a sentence.

    Wei and Zou 2019, as textaugment implements them and published MedCLIP uses them, except that
    `protected_words`, numbers and punctuation stay as they are and where they are: "no" is not
    deleted, "left" does not become "right", and no word moves across them. Each operation works on
    a run of free words, and deletion leaves at least one of a run. Without WordNet there are no
    synonyms, which is said once.

    (text, numpy Generator) -> text. Raises ImportError where textaugment is not installed.
    """

    def __init__(self, deletion: float = 0.1):
        self.deletion = deletion  # probability for each free word

    def __call__(self, text: str, rng: np.random.Generator) -> str:
        module, eda = _eda()
        module.random = random.Random(int(rng.integers(2**63)))
        operations = ["swap", "deletion", *(["synonym"] if _has_wordnet() else [])]
        operation = operations[rng.integers(len(operations))]
        parts = _runs(text.split())
        chosen = [k for k, (free, words) in enumerate(parts) if free and len(words) > 1]
        if operation == "synonym":
            chosen = [k for k, (free, _) in enumerate(parts) if free]
        if chosen and operation != "deletion":
            chosen = [chosen[rng.integers(len(chosen))]]
        for k in chosen:
            run = " ".join(parts[k][1])
            if operation == "deletion":
                run = eda.random_deletion(run, p=self.deletion)
            elif operation == "swap":
                run = eda.random_swap(run)
            else:
                run = eda.synonym_replacement(run)
            parts[k] = (True, [run])
        return " ".join(word for _, words in parts for word in words)


def _runs(words: list[str]) -> list[tuple[bool, list[str]]]:
    """The words in runs: (free to change, words)."""
    runs: list[tuple[bool, list[str]]] = []
    for word in words:
        free = _is_free(word)
        if runs and runs[-1][0] == free:
            runs[-1][1].append(word)
        else:
            runs.append((free, [word]))
    return runs


def image_augmentation(size: int = IMAGE_SIZE, flip: bool = False):
    """The published training transform: PIL image -> PIL image of `size` pixels a side.

    flip: mirror every second image, as published. Off by default, because it makes "left" and
        "right" in sentences untrue.

    Brightness and contrast vary by 20 %, rotation by 10 degrees, scale from .8 to 1.1, place by
    1/16; then resize to 8/7 of `size` (256 for 224) and crop at random. Source: the published
    pretraining script. Draws from torch's CPU generator, which `MedCLIPCollator` seeds.
    """
    from torchvision.transforms import v2

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
