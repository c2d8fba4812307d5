"""Report sentences about drawn chests, from a seeded grammar, each with its labels.

Every finding has noun phrases; frames put them into sentences that say it is present, absent or
uncertain, with words for degree and side that fit the drawing. Every fourth noun phrase is held
out, and so are some sentences for a normal chest: they are never used unless `held_out=True`, which
uses no others, so that a model can be tested on wording that it was not trained on. (Frames and
words of degree and side are common to both.)

A phrase has three words or more; it is a prompt or a sentence, an entry of the prompts' grammar, or
a noun phrase or whole sentence of this one. No phrase of the prompts occurs in a training sentence,
and no phrase of the training sentences in a prompt (tests/demo/test_reports.py).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..constants import CHEXPERT_LABELS

if TYPE_CHECKING:
    import pandas

    from .phantoms import Finding

STATES = ("present", "absent", "uncertain")
STATE_VALUES = {"present": 1.0, "absent": 0.0, "uncertain": -1.0}


class Sentence(NamedTuple):
    """text; labels (14,) float32, order of CHEXPERT_LABELS: 1, 0, -1 uncertain, NaN unmentioned."""

    text: str
    labels: np.ndarray


# Noun phrases; every fourth (counting from 1) is held out.
NOUNS: dict[str, list[str]] = {
    "Atelectasis": [
        "atelectasis", "plate atelectasis", "bibasilar atelectatic change", "volume loss",
        "streaky atelectasis", "basal atelectasis", "linear opacity of atelectasis",
        "partial collapse", "band of atelectasis", "dependent atelectasis",
        "atelectatic streaks", "discoid collapse",
    ],
    "Cardiomegaly": [
        "cardiomegaly", "enlargement of the heart", "cardiac enlargement",
        "cardiac silhouette enlargement", "enlargement of the cardiac silhouette",
        "increased heart size", "enlargement of the cardiac shadow", "dilated cardiac contour",
    ],
    "Consolidation": [
        "consolidation", "airspace opacity", "alveolar opacity", "consolidated lung",
        "parenchymal consolidation", "confluent opacity", "patchy airspace disease",
        "airspace filling", "focal consolidation", "opacity with air bronchograms",
        "dense opacity", "lobar opacification",
    ],
    "Edema": [
        "edema", "pulmonary edema", "pulmonary vascular congestion", "vascular engorgement",
        "interstitial pulmonary edema", "alveolar edema", "cardiogenic edema",
        "perihilar haze of edema", "fluid overload", "congestion of the pulmonary vessels",
        "batwing edema", "hydrostatic edema",
    ],
    "Pleural Effusion": [
        "pleural effusion", "effusion", "pleural fluid", "blunting of the costophrenic angle",
        "fluid in the pleural space", "subpulmonic effusion", "free pleural fluid",
        "layering of pleural fluid", "costophrenic blunting from effusion", "pleural liquid",
        "hydrothorax", "obscured costophrenic sulcus",
    ],
    "Pneumothorax": [
        "pneumothorax", "apical pneumothorax", "air in the pleural space", "pleural air collection",
        "collapse of the lung from pneumothorax", "visible pleural line",
        "apicolateral pneumothorax", "rim of pleural air",
    ],
    "Lung Lesion": [
        "pulmonary nodule", "lung nodule", "nodular lesion", "rounded lung mass", "lung mass",
        "pulmonary mass", "solitary nodule", "well defined nodule",
    ],
    "Support Devices": [
        "endotracheal tube", "central venous catheter", "pacemaker", "tracheal tube",
        "cardiac device with lead", "central line", "catheter", "implanted pulse generator",
    ],
}  # fmt: skip
DEGREES = {  # by severity: up to 0.4, up to 0.7, above
    "low": ["mild", "slight", "minimal", "subtle", "small", "faint"],
    "middle": ["moderate", "", "definite", "evident"],
    "high": ["marked", "extensive", "severe", "large", "pronounced", "gross"],
}
SIDES = {
    "left": ["on the left", "of the left hemithorax", "within the left chest", "left sided"],
    "right": ["on the right", "of the right hemithorax", "within the right chest", "right sided"],
    "both": ["bilaterally", "on both sides", "of both hemithoraces", "in each lung"],
}
SIDELESS = ("Cardiomegaly", "Support Devices")
FRAMES = {
    "present": [
        "there is {thing}", "{thing}", "{thing} is seen", "findings compatible with {thing}",
        "the image shows {thing}", "{thing} is noted", "new {thing}", "persistent {thing}",
        "interval development of {thing}", "again demonstrated is {thing}", "{thing}, unchanged",
        "appearances in keeping with {thing}", "{thing} has increased",
        "redemonstration of {thing}",
    ],
    "absent": [
        "no {noun}", "there is no {noun}", "no evidence of {noun}", "{noun} is not seen",
        "without {noun}", "no sign of {noun}", "negative for {noun}", "{noun} has resolved",
        "no {noun} or {other}", "neither {noun} nor {other} is seen", "free of {noun}",
    ],
    "uncertain": [
        "possible {thing}", "{thing} cannot be excluded", "questionable {thing}",
        "{thing} is suspected",
        "may represent {thing}", "cannot rule out {thing}", "equivocal {thing}",
    ],
}  # fmt: skip
# Whole sentences that say something without naming a noun of the grammar.
PLAIN: dict[str, dict[str, list[str]]] = {
    "Cardiomegaly": {
        "present": [
            "the heart is enlarged", "the heart appears big", "heart size is increased",
            "the cardiac contour is too wide", "the cardiothoracic ratio is increased",
            "heart is moderately enlarged", "the heart shadow is widened",
        ],
        "absent": [
            "the heart is normal in size", "heart size is within normal limits",
            "the cardiac silhouette is not enlarged", "normal cardiac size",
        ],
        "uncertain": ["the heart is at the upper limit of normal size", "borderline heart size"],
    },
    "Pleural Effusion": {
        "absent": ["the costophrenic angles are sharp", "both costophrenic angles are clear"],
    },
    "Edema": {
        "present": [
            "the pulmonary vessels are congested and indistinct",
            "hazy perihilar opacities on both sides",
        ],
        "absent": ["the pulmonary vessels are normal", "pulmonary vascularity is normal"],
    },
    "Consolidation": {"absent": ["no focal opacity is present", "the airspaces are clear"]},
    "Atelectasis": {
        "present": ["the diaphragm is elevated with streaky opacities above it"],
        "absent": ["lung volumes are preserved"],
    },
    "Pneumothorax": {
        "present": ["a thin pleural line runs parallel to the chest wall"],
        "absent": ["the lungs are fully expanded"],
    },
    "Support Devices": {
        "present": [
            "the tube ends above the carina", "leads project over the right ventricle",
            "the catheter tip lies in the superior vena cava",
        ],
        "absent": ["all tubes and lines have been removed"],
    },
}  # fmt: skip
NORMAL = [
    "the chest is normal", "normal examination of the chest", "no abnormality is seen",
    "the lungs and the heart appear normal", "no active disease", "unremarkable examination",
    "no acute process in the chest", "stable normal appearances",
]  # fmt: skip
HELD_OUT_NORMAL = [
    "the chest is unremarkable", "no disease is evident in the chest",
    "examination within normal limits",
]  # fmt: skip
# Two findings in one sentence, both present.
PAIRS = [
    "{thing} and {other}", "there is {thing} and {other}", "{thing} with {other}",
    "{thing} is seen as well as {other}",
]  # fmt: skip


def _nouns(finding: str, held_out: bool) -> list[str]:
    return [n for i, n in enumerate(NOUNS[finding], 1) if (i % 4 == 0) == held_out]


def _vector(values: Mapping[str, float]) -> np.ndarray:
    labels = np.full(len(CHEXPERT_LABELS), np.nan, np.float32)
    for name, value in values.items():
        labels[CHEXPERT_LABELS.index(name)] = value
    return labels


def _degree(severity: float) -> str:
    return "low" if severity <= 0.4 else "middle" if severity <= 0.7 else "high"


def _thing(rng: random.Random, finding: str, severity: float, side: str, held_out: bool) -> str:
    """A noun phrase with words of degree and side, or without them."""
    noun = rng.choice(_nouns(finding, held_out))
    if finding != "Support Devices" and rng.random() < 0.6:
        noun = f"{rng.choice(DEGREES[_degree(severity)])} {noun}".strip()
    if finding not in SIDELESS and rng.random() < 0.55:
        where = rng.choice(SIDES[side])
        noun = f"{where} {noun}" if where.endswith("sided") else f"{noun} {where}"
    return noun


def write_sentence(
    finding: str,
    state: str,
    rng: random.Random,
    severity: float = 0.6,
    side: str = "both",
    held_out: bool = False,
) -> Sentence:
    """One sentence that says `finding` is "present", "absent" or "uncertain".

    severity in (0, 1] and side ("left", "right", "both") choose words; absent needs neither. An
    absent sentence may deny a second finding too; its labels then say so.
    Raises ValueError for an unknown finding, state or side, or a severity out of range.
    """
    if finding not in NOUNS:
        raise ValueError(f"unknown finding {finding!r}: expected one of {list(NOUNS)}")
    if state not in STATES:
        raise ValueError(f"unknown state {state!r}: expected one of {STATES}")
    if side not in SIDES:
        raise ValueError(f"side of {finding} is {side!r}, expected one of {list(SIDES)}")
    if not 0 < severity <= 1:
        raise ValueError(f"severity of {finding} is {severity}, expected a number in (0, 1]")
    values = {finding: STATE_VALUES[state]}
    plain = [] if held_out else PLAIN.get(finding, {}).get(state, [])
    if plain and rng.random() < 0.3:
        return Sentence(rng.choice(plain), _vector(values))
    frame = rng.choice(FRAMES[state])
    words = {"noun": rng.choice(_nouns(finding, held_out))}
    if "{thing}" in frame:
        words["thing"] = _thing(rng, finding, severity, side, held_out)
    if "{other}" in frame:
        other = rng.choice([name for name in NOUNS if name != finding])
        words["other"] = rng.choice(_nouns(other, held_out))
        values[other] = 0.0
    return Sentence(frame.format(**words), _vector(values))


def _write_pair(
    finding: str, rng: random.Random, severity: float, side: str, held_out: bool
) -> Sentence:
    """One sentence that says `finding` and another are present, alike in degree and side."""
    other = rng.choice([name for name in NOUNS if name != finding])
    words = {
        "thing": _thing(rng, finding, severity, side, held_out),
        "other": _thing(rng, other, severity, side, held_out),
    }
    return Sentence(rng.choice(PAIRS).format(**words), _vector({finding: 1.0, other: 1.0}))


def write_report(
    findings: Mapping[str, Finding], seed: int, held_out: bool = False
) -> list[Sentence]:
    """The sentences of one study's report: what is there, and some of what is not.

    findings: {name: Finding(severity, side)}, as a phantom has them. A faint one (severity up to
        0.3) is sometimes called uncertain, as radiologists do.
    """
    rng = random.Random(f"report:{seed}:{held_out}")
    sentences = []
    for name, (severity, side) in findings.items():
        unsure = severity <= 0.3 and rng.random() < 0.4
        state = "uncertain" if unsure else "present"
        sentences.append(write_sentence(name, state, rng, severity, side, held_out))
    missing = [name for name in NOUNS if name not in findings]
    for name in rng.sample(missing, min(len(missing), rng.randint(1, 3))):
        # a second, denied finding must not be one that is present
        denied = write_sentence(name, "absent", rng, held_out=held_out)
        if not any(denied.labels[CHEXPERT_LABELS.index(n)] == 0 for n in findings):
            sentences.append(denied)
    if not set(findings) - {"Support Devices"}:
        normal = HELD_OUT_NORMAL if held_out else NORMAL
        sentences.append(Sentence(rng.choice(normal), _vector({"No Finding": 1.0})))
    rng.shuffle(sentences)
    return sentences


def sentence_table(
    count: int, seed: int = 0, held_out: bool = False, states: Sequence[str] = STATES
) -> pandas.DataFrame:
    """`count` sentences as a table: `Reports` and the 14 columns of CHEXPERT_LABELS.

    Findings, states, degrees and sides are drawn evenly; one in eight of those that say "present"
    names two findings. Raises ValueError for an unknown state.
    """
    import pandas as pd

    if not states or set(states) - set(STATES):
        raise ValueError(f"states are {list(states)}, expected some of {STATES}")
    rng = random.Random(f"table:{seed}:{held_out}")
    sentences = []
    for _ in range(count):
        finding, state = rng.choice(list(NOUNS)), rng.choice(list(states))
        severity, side = 1 - rng.random(), rng.choice(list(SIDES))
        if state == "present" and rng.random() < 1 / 8:
            sentences.append(_write_pair(finding, rng, severity, side, held_out))
        else:
            sentences.append(write_sentence(finding, state, rng, severity, side, held_out))
    labels = np.stack([s.labels for s in sentences]) if sentences else np.empty((0, 14))
    table = pd.DataFrame(labels, columns=list(CHEXPERT_LABELS))
    table.insert(0, "Reports", [s.text for s in sentences])
    return table


def report_phrases() -> list[str]:
    """All phrases that reports are made of, in the order of the tables, for a vocabulary."""
    groups: list[list[str]] = [*NOUNS.values(), *FRAMES.values(), *DEGREES.values()]
    groups += SIDES.values()
    groups += [sentences for states in PLAIN.values() for sentences in states.values()]
    return [phrase for group in [*groups, NORMAL] for phrase in group]
