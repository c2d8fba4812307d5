"""Chest radiographs of people who do not exist, drawn from a seed.

A phantom is a frontal chest drawing with any of eight findings, the labels that belong to it and a
mask of where each finding is. It is for trials, teaching and tests, not a substitute for patients.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from ..constants import CHEXPERT_COMPETITION, CHEXPERT_LABELS
from .anatomy import Anatomy, canvas_of, clouds, edge
from .findings import DRAW, sides

PHANTOM_FINDINGS: tuple[str, ...] = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Pleural Effusion",
    "Pneumothorax",
    "Lung Lesion",
    "Support Devices",
)
SIDES = ("left", "right", "both")  # of the patient: left is on the right of the picture
# Findings that CheXpert's hierarchy counts as opacity of the lung (Irvin et al. 2019, figure 1).
OPACITIES = ("Atelectasis", "Consolidation", "Edema", "Lung Lesion")


class Finding(NamedTuple):
    """severity: from just visible (near 0) to gross (1). side: "left", "right" or "both"."""

    severity: float
    side: str


class Phantom(NamedTuple):
    """A drawing and the truth about it.

    image: (size, size) uint8. labels: (14,) float32 in the order of CHEXPERT_LABELS: 1 drawn, 0 not
    drawn, NaN for what phantoms never show. masks: {finding: (size, size) bool}.
    findings: {name: Finding}.
    """

    image: np.ndarray
    labels: np.ndarray
    masks: dict[str, np.ndarray]
    findings: dict[str, Finding]


def draw_phantom(
    seed: int,
    findings: Mapping[str, Finding | float] | None = None,
    size: int = 224,
    difficulty: float = 0.5,
) -> Phantom:
    """Draw a chest; the same arguments always give the same picture.

    seed: the person, the pose and the film. findings: name -> `Finding`, or just its severity in
        (0, 1] (the side then follows from the seed); None draws a normal chest.
    size: pixels a side, 32 or more.
    difficulty: in [0, 1]; raises normal variation, blur and noise and lowers contrast.

    Raises ValueError naming an unknown finding, a severity, side, size or difficulty out of range.
    """
    if size < 32:
        raise ValueError(f"size is {size}, expected at least 32 pixels")
    if not 0 <= difficulty <= 1:
        raise ValueError(f"difficulty is {difficulty}, expected a number in [0, 1]")
    # One stream for each purpose, so that a finding does not change the person who has it.
    person, film, grain, *others = (
        np.random.default_rng([seed, k]) for k in range(3 + len(PHANTOM_FINDINGS))
    )
    own = dict(zip(PHANTOM_FINDINGS, others, strict=True))
    chosen = {name: _check(name, value, own) for name, value in (findings or {}).items()}

    raised = {}
    if plates := chosen.get("Atelectasis"):
        raised = {s: 0.012 + 0.045 * plates.severity for s in sides(plates.side)}
    heart = chosen.get("Cardiomegaly")
    canvas = canvas_of(size)
    chest = Anatomy(person, canvas, difficulty, heart and heart.severity, raised)
    density = chest.density()
    masks = {}
    for name, (severity, side) in chosen.items():
        if name == "Cardiomegaly":
            masks[name] = chest.heart > 0.5
        else:
            added, masks[name] = DRAW[name](chest, own[name], severity, side)
            density = density + added * (1.12 - 0.24 * difficulty)
    pixels, pose = _expose(density, film, grain, canvas, difficulty)
    image = Image.fromarray(pixels).transform(
        (size, size), Image.Transform.AFFINE, pose, Image.Resampling.BILINEAR
    )
    masks = {name: _posed(mask, pose) for name, mask in masks.items()}
    image = _mark(image, film)
    return Phantom(np.asarray(image), _labels(chosen), masks, chosen)


def _check(name: str, value, own: Mapping) -> Finding:
    if name not in PHANTOM_FINDINGS:
        raise ValueError(f"unknown finding {name!r}: expected some of {list(PHANTOM_FINDINGS)}")
    finding = value if isinstance(value, tuple) else Finding(value, _some_side(name, own[name]))
    finding = Finding(*finding)
    if not 0 < finding.severity <= 1:
        raise ValueError(f"severity of {name} is {finding.severity}, expected a number in (0, 1]")
    if finding.side not in SIDES:
        raise ValueError(f"side of {name} is {finding.side!r}, expected one of {SIDES}")
    return finding


def _some_side(name: str, rng) -> str:
    if name in ("Cardiomegaly", "Edema"):
        return "both"
    both = {"Pleural Effusion": 0.3, "Atelectasis": 0.3, "Consolidation": 0.15}.get(name, 0.0)
    return str(rng.choice(SIDES, p=[(1 - both) / 2, (1 - both) / 2, both]))


def _expose(density: np.ndarray, rng, grain_rng, canvas, difficulty: float):
    """Density -> film (uint8), and the pose: an affine map for `Image.transform`."""
    x, y, size = canvas
    blur = 0.0012 + 0.0022 * difficulty * rng.random()
    density = gaussian_filter(density, blur * size)
    density += 0.02 * difficulty * clouds(rng, size, 2, 1)
    gain = 1.18 + 0.22 * difficulty * rng.uniform(-1, 1)
    film = np.clip(density * gain - 0.10 + 0.08 * difficulty * rng.uniform(-1, 1), 0, None)
    film = 1 - np.exp(-1.9 * film ** rng.uniform(0.95, 1.25))
    # its own stream: the number of draws depends on the size, and all else must not
    grain = grain_rng.standard_normal((size, size), dtype=np.float32)
    grain = 0.6 * grain + 1.2 * gaussian_filter(grain, 0.8)
    film += (0.008 + 0.018 * difficulty * rng.random()) * grain * (0.5 + film)
    margin = rng.uniform(-0.01, 0.03, 4)  # collimation: the beam may end inside the picture
    beam = edge(x - margin[0], 0.012) * edge(1 - margin[1] - x, 0.012)
    film *= beam * edge(y - margin[2], 0.012) * edge(1 - margin[3] - y, 0.012)
    pixels = np.clip(film * 262, 0, 255).astype(np.uint8)
    turn = 0.022 * (0.4 + difficulty) * rng.standard_normal()
    zoom = 1 + 0.035 * (0.4 + difficulty) * rng.standard_normal()
    shift = 0.012 * (0.4 + difficulty) * rng.standard_normal(2)
    cos, sin = np.cos(turn) / zoom, np.sin(turn) / zoom
    half = size / 2
    offset = half - np.array([cos * half + sin * half, cos * half - sin * half]) + shift * size
    pose = (cos, sin, offset[0], -sin, cos, offset[1])
    return pixels, pose


def _posed(mask: np.ndarray, pose) -> np.ndarray:
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    return (
        np.asarray(
            image.transform(image.size, Image.Transform.AFFINE, pose, Image.Resampling.BILINEAR)
        )
        > 127
    )


def _mark(image: Image.Image, rng) -> Image.Image:
    """The letter of the patient's side, at that edge of the film."""
    size, letter = image.size[0], "LR"[int(rng.random() < 0.5)]
    at = (0.90 if letter == "L" else 0.05, rng.uniform(0.04, 0.12))
    font = ImageFont.load_default(max(8, size * 0.055))
    ImageDraw.Draw(image).text((at[0] * size, at[1] * size), letter, fill=235, font=font)
    return image


def _labels(findings: Mapping[str, Finding]) -> np.ndarray:
    labels = np.full(len(CHEXPERT_LABELS), np.nan, np.float32)
    values = {name: float(name in findings) for name in PHANTOM_FINDINGS}
    # CheXpert's convention: devices alone leave "No Finding" true.
    values["No Finding"] = float(not set(findings) - {"Support Devices"})
    values["Lung Opacity"] = float(any(name in findings for name in OPACITIES))
    values["Enlarged Cardiomediastinum"] = values["Cardiomegaly"]
    for name, value in values.items():
        labels[CHEXPERT_LABELS.index(name)] = value
    return labels


def sample_findings(
    seed: int, exclusive: str | None = None, difficulty: float = 0.5
) -> dict[str, Finding]:
    """Findings for one phantom.

    exclusive: this finding and no other of the eight; None gives a mix as in a hospital: none in a
        third, otherwise one to three, sometimes with a device.
    difficulty: in [0, 1]; makes more cases borderline.
    """
    rng = np.random.default_rng([seed, 1000])
    if exclusive is not None:
        if exclusive not in PHANTOM_FINDINGS:
            raise ValueError(
                f"unknown finding {exclusive!r}: expected one of {list(PHANTOM_FINDINGS)}"
            )
        names = [exclusive]
    elif rng.random() < 0.33:
        names = []
    else:
        count = rng.choice([1, 2, 3], p=[0.55, 0.33, 0.12])
        names = list(rng.choice(PHANTOM_FINDINGS[:-1], count, replace=False))
    if exclusive is None and rng.random() < 0.2:
        names.append("Support Devices")
    least = 0.45 - 0.35 * difficulty
    return {
        str(name): Finding(float(rng.uniform(least, 1.0)), _some_side(name, rng)) for name in names
    }


def sample_people(count: int, seed: int = 0) -> list[int]:
    """The seeds of `count` different people, for `draw_phantom` and `sample_findings`."""
    return [int(np.random.SeedSequence([seed, i]).generate_state(1)[0]) for i in range(count)]


def draw_phantoms(
    count: int,
    seed: int = 0,
    *,
    exclusive: bool = False,
    size: int = 224,
    difficulty: float = 0.5,
) -> list[Phantom]:
    """`count` different people.

    exclusive: exactly one of the five CheXpert competition findings each, in turn (phantom i has
        CHEXPERT_COMPETITION[i % 5]); otherwise `sample_findings` decides.
    """
    phantoms = []
    for i, person in enumerate(sample_people(count, seed)):
        one = CHEXPERT_COMPETITION[i % len(CHEXPERT_COMPETITION)] if exclusive else None
        findings = sample_findings(person, one, difficulty)
        phantoms.append(draw_phantom(person, findings, size, difficulty))
    return phantoms
