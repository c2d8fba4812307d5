"""Prompts: sentences that describe a class, made from a small grammar, a table or a file.

The phrases are standard radiology wording, in numbers comparable to those of the published package.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import product
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

from .constants import CHEXPERT_LABELS, MAX_TEXT_TOKENS
from .hub import published_constants, read_settings
from .processor import MedCLIPProcessor

if TYPE_CHECKING:
    import pandas


@cache
def prompt_grammars() -> dict[str, dict[str, list[list[str]]]]:
    """{preset: {class: word lists}}, from prompts.yaml; a prompt takes one word from each list."""
    return read_settings(Path(__file__).with_name("prompts.yaml"))


# Presets whose phrases are read from the published wheel -> the table there.
AUTHORS = {
    "authors:chexpert": "CHEXPERT_CLASS_PROMPTS",
    "authors:covid": "COVID_CLASS_PROMPTS",
    "authors:rsna": "RSNA_CLASS_PROMPTS",
}


def _generate(preset: str, n: int | None, seed: int) -> dict[str, list[str]]:
    authors = preset in AUTHORS  # theirs: an empty word leaves its space
    if authors:
        tables = published_constants()[AUTHORS[preset]]
        names = [name.replace("COVID", "COVID-19") for name in tables]  # as everywhere else
        grammar = dict(zip(names, (list(table.values()) for table in tables.values()), strict=True))
    else:
        grammar = prompt_grammars()[preset]
    prompts = {
        name: [" ".join(words if authors else filter(None, words)) for words in product(*places)]
        for name, places in grammar.items()
    }
    return {name: _draw(name, sentences, n, seed) for name, sentences in prompts.items()}


def _draw(name: str, sentences: list[str], n: int | None, seed: int) -> list[str]:
    """At most `n` of the sentences, in random order; all of them in their own order for None."""
    if n is None:
        return sentences
    if not isinstance(n, Integral) or isinstance(n, bool) or n < 1:
        raise ValueError(f"prompts per class: {n!r}, expected a whole number, 1 or more")
    # A generator for each class: what one class gets does not depend on which others there are.
    return random.Random(f"{seed}:{name}").sample(sentences, min(n, len(sentences)))


def generate_chexpert_class_prompts(n: int | None = None, seed: int = 0) -> dict[str, list[str]]:
    """Prompts for the five CheXpert competition classes, {class: [prompt, ...]}.

    n: prompts per class, drawn without replacement with `seed` (a class with fewer gives all of
    them); None gives all: Atelectasis 210, Cardiomegaly 15, Consolidation 192, Edema 18, Pleural
    Effusion 54.
    """
    return _generate("chexpert", n, seed)


def generate_covid_class_prompts(n: int | None = None, seed: int = 0) -> dict[str, list[str]]:
    """Prompts for "COVID-19" (48) and "Normal" (10); `n` and `seed` as for CheXpert."""
    return _generate("covid", n, seed)


def generate_rsna_class_prompts(n: int | None = None, seed: int = 0) -> dict[str, list[str]]:
    """Prompts for "Pneumonia" (48) and "Normal" (10); `n` and `seed` as for CheXpert."""
    return _generate("rsna", n, seed)


def generate_class_prompts(
    sentences: pandas.DataFrame,
    labels: Sequence[str] | None = None,
    n: int | None = 10,
    seed: int = 0,
) -> dict[str, list[str]]:
    """Prompts from a sentence table: for each class, sentences positive for it and nothing else.

    sentences: columns `Reports` and the 14 of CHEXPERT_LABELS (1 present, 0 absent, -1 uncertain,
        blank not mentioned).
    labels: classes wanted; by default all except "No Finding".

    Raises ValueError for a missing column, an unknown or repeated label, or a class without such a
    sentence.
    """
    missing = [name for name in ("Reports", *CHEXPERT_LABELS) if name not in sentences.columns]
    if missing:
        raise ValueError(f"sentence table lacks the columns {missing}")
    labels = CHEXPERT_LABELS[1:] if labels is None else labels
    if unknown := [name for name in labels if name not in CHEXPERT_LABELS]:
        raise ValueError(f"unknown labels {unknown}: expected some of {list(CHEXPERT_LABELS)}")
    if len(set(labels)) < len(labels):
        raise ValueError(f"labels {list(labels)} name a class twice")
    positive = sentences[list(CHEXPERT_LABELS)] == 1
    prompts = {}
    for name in labels:
        only = sentences.loc[positive[name] & (positive.sum(axis=1) == 1), "Reports"].dropna()
        only = only[only.astype(str).str.strip() != ""]
        if only.empty:
            raise ValueError(f"no sentence is positive for {name!r} alone")
        prompts[name] = _draw(name, sorted(set(only)), n, seed)
    return prompts


def load_class_prompts(
    source: str | Path, n: int | None = None, seed: int = 0
) -> dict[str, list[str]]:
    """Prompts of a preset ("chexpert", "covid", "rsna") or of a custom JSON or YAML file.

    The file maps each class to a list of prompts. `n` and `seed` draw from either.

    "authors:chexpert", "authors:covid" and "authors:rsna" are the phrases of MedCLIP's authors
    (210, 15, 192, 18, 54; COVID 12; Pneumonia 312, of which one is blank and none says pneumonia),
    from the wheel of the published package, which pip fetches once. The latter two have no normal
    class: the authors drew it from a sentence table, as `evaluation.draw_prompts` does.
    Which of them `seed` picks is our own draw, not one of the authors' five.

    Raises ValueError for an unknown preset, FileNotFoundError for a file that is not there (a name
    with an ending is a file's), ValueError naming what in the file is not of that form, and for the
    authors' what `hub.published_constants` raises.
    """
    presets = [*sorted(prompt_grammars()), *AUTHORS]
    if source in presets:
        return _generate(str(source), n, seed)
    path = Path(source).expanduser()
    if not path.is_file():
        expected = f"expected one of {presets}, or a JSON or YAML file"
        if path.suffix:
            raise FileNotFoundError(f"no prompt file at {source}: {expected}")
        raise ValueError(f"unknown prompts {str(source)!r}: {expected}")
    prompts = check_class_prompts(read_settings(path), str(path))
    return {name: _draw(name, sentences, n, seed) for name, sentences in prompts.items()}


def check_class_prompts(
    prompts, where: str = "prompts", blank: bool = False
) -> dict[str, list[str]]:
    """`prompts` itself if it is {class: [prompt, ...]}; else a ValueError that says what is not.

    blank: whether a prompt may be blank, as one of the authors' is.
    """
    if not isinstance(prompts, Mapping) or not prompts:
        found = "nothing" if not prompts else type(prompts).__name__
        raise ValueError(f"{where}: expected {{class: [prompt, ...]}}, got {found}")
    for name, sentences in prompts.items():
        if not isinstance(name, str) or not name.strip():
            # YAML 1.1 reads a bare No as false
            raise ValueError(f"{where}: class name {name!r} is not text (in YAML, quote it)")
        if not isinstance(sentences, Sequence) or isinstance(sentences, str) or not sentences:
            raise ValueError(f"{where}: class {name!r} needs a non-empty list of prompts")
        for sentence in sentences:
            if not isinstance(sentence, str) or not (blank or sentence.strip()):
                raise ValueError(f"{where}: {sentence!r} among the prompts of {name!r} is not text")
    return {name: list(sentences) for name, sentences in prompts.items()}


def process_class_prompts(
    cls_prompts: Mapping[str, Sequence[str]], processor=None, max_length: int = MAX_TEXT_TOKENS
) -> dict:
    """Tokenise prompts, {class: {"input_ids", "attention_mask"}}, each (prompts, tokens).

    processor: the one that belongs to the model, or its tokenizer; by default the published one,
        whose vocabulary is fetched on first use.

    Each class is padded to its own longest prompt, as in the published package: padding is part of
    a text's embedding (see `similarity`, which says where else texts are padded, and where not).
    """
    prompts = check_class_prompts(cls_prompts, blank=True)
    if not isinstance(processor, MedCLIPProcessor):
        processor = MedCLIPProcessor(tokenizer=processor)
    return {
        name: processor(text=sentences, max_length=max_length)
        for name, sentences in prompts.items()
    }
