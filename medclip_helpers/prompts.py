"""Prompts: sentences that describe a class, made from a small grammar, a table or a file.

The phrases are standard radiology wording, in numbers comparable to those of the published package.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from itertools import product
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

from .constants import CHEXPERT_LABELS, MAX_TEXT_TOKENS

if TYPE_CHECKING:
    import pandas

# Class -> word lists whose product, joined by spaces, are its prompts; "" leaves a place out.
CHEXPERT_GRAMMAR: dict[str, list[list[str]]] = {
    "Atelectasis": [
        ["", "mild", "minimal"],
        [
            "subsegmental atelectasis",
            "linear atelectasis",
            "plate-like atelectasis",
            "discoid atelectasis",
            "bandlike atelectasis with volume loss",
            "trace atelectasis",
            "compressive atelectasis",
        ],
        [
            "at the lung base",
            "at the left base",
            "at the right base",
            "at both bases",
            "in the left lower lobe",
            "in the right lower lobe",
            "in the right middle lobe",
            "in the lingula",
            "in the upper lobe",
            "in the mid lung zone",
        ],
    ],
    "Cardiomegaly": [
        [
            "cardiac silhouette is enlarged",
            "heart is markedly enlarged",
            "heart size is above normal",
            "cardiomegaly is present",
            "stable cardiomegaly",
            "cardiomegaly of moderate degree",
            "cardiomegaly of severe degree",
            "enlarged heart",
            "enlarged cardiac contour",
            "cardiothoracic ratio exceeds one half",
            "increased transverse diameter of the heart",
            "globular widening of the heart shadow",
            "left ventricular enlargement with a wide heart",
            "cardiac enlargement persists",
            "widened cardiac silhouette",
        ]
    ],
    "Consolidation": [
        ["", "patchy", "dense", "increasing"],
        [
            "consolidation",
            "airspace consolidation",
            "lobar consolidation",
            "consolidation with air bronchograms",
            "confluent airspace opacity",
            "segmental consolidation",
        ],
        [
            "in the right upper lobe",
            "in the left upper lobe",
            "in the right lower lobe",
            "in the left lower lobe",
            "in the right middle lobe",
            "at the lung base",
            "in the left lung",
            "in the right lung",
        ],
    ],
    "Edema": [
        ["", "mild", "moderate", "severe", "worsening", "diffuse"],
        [
            "edema of the lungs",
            "interstitial edema with vascular congestion",
            "perihilar edema",
        ],
    ],
    "Pleural Effusion": [
        ["", "small", "moderate", "large", "layering", "loculated"],
        ["left", "right", "bilateral"],
        ["pleural effusion", "pleural fluid collection", "effusion with a blunted angle"],
    ],
}

# The published COVID and RSNA prompts name only the disease, so that every image is positive. A
# classifier needs something to choose against: these come with a normal class.
NORMAL_PROMPTS = [
    "lungs are clear",
    "clear lungs without focal opacity",
    "no acute cardiopulmonary abnormality",
    "normal chest radiograph",
    "normal heart size and clear lungs",
    "no focal airspace disease",
    "unremarkable chest radiograph",
    "lungs are well aerated and free of infiltrate",
    "no infiltrate and no fluid in the chest",
    "normal cardiac and mediastinal contours",
]
COVID_GRAMMAR = {
    "COVID-19": [
        ["", "patchy", "multifocal", "extensive"],
        ["ground glass opacities", "hazy opacities", "airspace opacities", "infiltrates"],
        ["in both lungs", "in the lung periphery", "in the lower zones of both lungs"],
    ],
    "Normal": [NORMAL_PROMPTS],
}
RSNA_GRAMMAR = {
    "Pneumonia": [
        ["", "focal", "patchy", "lobar"],
        ["pneumonia", "airspace opacity suspicious for pneumonia", "infiltrate of pneumonia"],
        ["in the right lung", "in the left lung", "at the lung base", "in the upper lobe"],
    ],
    "Normal": [NORMAL_PROMPTS],
}
PRESETS = {"chexpert": CHEXPERT_GRAMMAR, "covid": COVID_GRAMMAR, "rsna": RSNA_GRAMMAR}


def _generate(grammar: Mapping[str, list[list[str]]], n: int | None, seed: int) -> dict:
    prompts = {
        name: [" ".join(filter(None, words)) for words in product(*places)]
        for name, places in grammar.items()
    }
    return {name: _draw(name, sentences, n, seed) for name, sentences in prompts.items()}


def _draw(name: str, sentences: list[str], n: int | None, seed: int) -> list[str]:
    """At most `n` of the sentences, in random order; all of them in their own order for None."""
    if n is None:
        return sentences
    if not isinstance(n, Integral) or isinstance(n, bool) or n < 1:
        raise ValueError(f"number of prompts a class is {n!r}, expected a whole number from 1")
    # A generator for each class: what one class gets does not depend on which others there are.
    return random.Random(f"{seed}:{name}").sample(sentences, min(n, len(sentences)))


def generate_chexpert_class_prompts(n: int | None = None, seed: int = 0) -> dict[str, list[str]]:
    """Prompts for the five CheXpert competition classes, {class: [prompt, ...]}.

    n: prompts a class, drawn without replacement with `seed` (a class with fewer gives all of
    them); None gives all: Atelectasis 210, Cardiomegaly 15, Consolidation 192, Edema 18, Pleural
    Effusion 54.
    """
    return _generate(CHEXPERT_GRAMMAR, n, seed)


def generate_covid_class_prompts(n: int | None = None, seed: int = 0) -> dict[str, list[str]]:
    """Prompts for "COVID-19" (48) and "Normal" (10); `n` and `seed` as for CheXpert."""
    return _generate(COVID_GRAMMAR, n, seed)


def generate_rsna_class_prompts(n: int | None = None, seed: int = 0) -> dict[str, list[str]]:
    """Prompts for "Pneumonia" (48) and "Normal" (10); `n` and `seed` as for CheXpert."""
    return _generate(RSNA_GRAMMAR, n, seed)


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
        if only.empty:
            raise ValueError(f"no sentence is positive for {name!r} alone")
        prompts[name] = _draw(name, sorted(set(only)), n, seed)
    return prompts


def load_class_prompts(
    source: str | Path, n: int | None = None, seed: int = 0
) -> dict[str, list[str]]:
    """Prompts of a preset ("chexpert", "covid", "rsna") or of a reader's own JSON or YAML file.

    The file maps each class to a list of prompts. `n` and `seed` draw from either.
    Raises ValueError for an unknown preset, FileNotFoundError for a file that is not there (a name
    with an ending is a file's), ValueError naming what in the file is not of that form.
    """
    if source in PRESETS:
        return _generate(PRESETS[source], n, seed)
    path = Path(source).expanduser()
    if not path.is_file():
        expected = f"expected one of {sorted(PRESETS)}, or a JSON or YAML file"
        if path.suffix:
            raise FileNotFoundError(f"no prompt file at {source}: {expected}")
        raise ValueError(f"unknown prompts {str(source)!r}: {expected}")
    prompts = check_class_prompts(_read(path), str(path))
    return {name: _draw(name, sentences, n, seed) for name, sentences in prompts.items()}


def _read(path: Path):
    """What a JSON or YAML file says. Of two equal keys either parser would just keep the last."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            _refuse_repeats([key.value for key, _ in node.value], path)
            return super().construct_mapping(node, deep)

    def construct_object(pairs):
        _refuse_repeats([name for name, _ in pairs], path)
        return dict(pairs)

    is_json = path.suffix.lower() == ".json"
    try:
        text = path.read_text(encoding="utf-8-sig")  # with or without Windows' byte order mark
        if is_json:
            return json.loads(text, object_pairs_hook=construct_object)
        return yaml.load(text, Loader)
    except _RepeatedClass:
        raise
    except Exception as error:  # of YAML's values, such as dates, each has errors of its own
        raise ValueError(f"{path} is not {'JSON' if is_json else 'YAML'}: {error}") from error


class _RepeatedClass(ValueError):
    """Told apart from the ValueErrors of the parsers."""


def _refuse_repeats(names: list, path: Path) -> None:
    for i, name in enumerate(names):
        if name in names[:i]:
            raise _RepeatedClass(f"{path} names class {name!r} twice")


def check_class_prompts(prompts, where: str = "prompts") -> dict[str, list[str]]:
    """`prompts` itself if it is {class: [prompt, ...]}; else a ValueError that says what is not."""
    if not isinstance(prompts, Mapping) or not prompts:
        found = "nothing" if not prompts else type(prompts).__name__
        raise ValueError(f"{where}: expected {{class: [prompt, ...]}}, got {found}")
    for name, sentences in prompts.items():
        if not isinstance(name, str) or not name.strip():
            # YAML 1.1 reads a bare No as false
            raise ValueError(f"{where}: class name {name!r} is not a text (in YAML, quote it)")
        if not isinstance(sentences, Sequence) or isinstance(sentences, str) or not sentences:
            raise ValueError(f"{where}: class {name!r} needs a non-empty list of prompts")
        for sentence in sentences:
            if not isinstance(sentence, str) or not sentence.strip():
                raise ValueError(
                    f"{where}: {sentence!r} among the prompts of {name!r} is not a text"
                )
    return {name: list(sentences) for name, sentences in prompts.items()}


def process_class_prompts(
    cls_prompts: Mapping[str, Sequence[str]], tokenizer=None, max_length: int = MAX_TEXT_TOKENS
) -> dict:
    """Tokenise prompts, {class: {"input_ids", "attention_mask"}}, each (prompts, tokens).

    tokenizer: the one that belongs to the model, `processor.tokenizer`; by default the published
        one, whose vocabulary is fetched on first use.

    Each class is padded to its own longest prompt, as in the published package: padding is part of
    a text's embedding (see `MedCLIPTextModel`).
    """
    prompts = check_class_prompts(cls_prompts)
    if tokenizer is None:
        from .checkpoints import load_tokenizer

        tokenizer = load_tokenizer()
    settings = {"padding": True, "truncation": True, "max_length": max_length}
    settings |= {"return_tensors": "pt", "return_token_type_ids": False}
    return {name: tokenizer(sentences, **settings) for name, sentences in prompts.items()}
