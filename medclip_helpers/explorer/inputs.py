"""What goes into the explorer: presets, sample images, uploads and pairs of texts."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ..constants import CHEXPERT_COMPETITION
from ..demo import PHANTOM_FINDINGS, Phantom, draw_phantom
from ..prompts import load_class_prompts
from ..radiographs import find_radiographs, open_radiograph
from . import pieces


def default_presets() -> dict[str, list[str]]:
    """Name -> texts: plain sentences, prompts of three data sets, present against absent."""
    findings = [finding.lower() for finding in CHEXPERT_COMPETITION]
    plain = [f"There is {finding}." for finding in findings]
    plain[findings.index("cardiomegaly")] = "The heart is enlarged."
    by_class = {
        "CheXpert classes": load_class_prompts("chexpert", n=1),
        "COVID": load_class_prompts("covid", n=2),
        "RSNA pneumonia": load_class_prompts("rsna", n=2),
    }
    return {
        "Five findings": [*plain, "The lungs are clear."],
        **{name: list(chain(*prompts.values())) for name, prompts in by_class.items()},
        "Positive against negative": [f"There is {f}. | There is no {f}." for f in findings],
    }


def demo_images() -> dict[str, Phantom]:
    """Name -> drawing: one chest phantom for each finding that the demo world knows.

    An effusion comes first: people see it at once.
    """
    findings = sorted(PHANTOM_FINDINGS, key=lambda finding: finding != "Pleural Effusion")
    drawn: list[dict[str, float]] = [*({finding: 0.8} for finding in findings), {}]
    return {
        f"drawing, {' '.join(findings).lower() or 'no finding'}": draw_phantom(i, findings)
        for i, findings in enumerate(drawn, 1)
    }


def split_pair(line: str) -> tuple[str, str]:
    """ "present | absent" -> both texts; a line without a bar gets an opposite made from it.

    Raises ValueError where there are several bars, or one with nothing on one side.
    """
    positive, *others = (part.strip() for part in line.split("|"))
    if not positive or "" in others:
        raise ValueError(f"half of the pair is empty in “{line}”: expected “present | absent”")
    if len(others) > 1:
        raise ValueError(f"“{line}” has {len(others)} bars: expected “present | absent”")
    return positive, others[0] if others else _negated(positive)


def _negated(text: str) -> str:
    """A plain opposite; the explorer shows it, so that a clumsy one can be replaced."""
    for pattern, negative in (
        (r"(.*?)\bwithout\b(.*)", "{}with{}"),
        (r"(.*?)\b(?:no|not)\s+(.+)", "{}{}"),
        (r"(there (?:is|are)) (?:an? )?(.+)", "{} no {}"),
        (r"(.+? (?:is|are)) (.+)", "{} not {}"),
    ):
        if found := re.fullmatch(pattern, text, re.IGNORECASE):
            return negative.format(*found.groups())
    first = text[0] if text[1:2].isupper() else text[0].lower()  # “ARDS” stays as it is
    return f"no evidence of {first}{text[1:]}"


class Picture(NamedTuple):
    """image: mode "L". small: as the page shows it. drawing: known to be one of the demo world.
    warning: what must be known before its scores are, such as that it is in colour; or empty.
    """

    image: Image.Image
    small: Image.Image
    drawing: bool
    warning: str


def read_picture(source) -> Picture:
    """From a `Phantom`, or what `read_radiograph` takes; raises what that raises."""
    drawing = isinstance(source, Phantom)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with open_radiograph(source.image if drawing else source, (__file__, 1)) as image:
            pass
    # not what a library has to say of the file's form
    said = [str(warning.message) for warning in caught if warning.filename == __file__]
    if len(set(image.getextrema())) == 1:
        said.append("The image is blank: of uniform brightness, so its scores mean nothing.")
    return Picture(image, pieces.small(image), drawing, " ".join(said))


def named_images(images) -> dict[str, Picture]:
    """Name -> picture, from whatever `SimilarityExplorer` takes as `images`."""
    if isinstance(images, (str, Path)):
        images = find_radiographs(images)
    elif isinstance(images, (Phantom, Image.Image)):
        images = [images]
    if not isinstance(images, Mapping):
        named: dict[str, object] = {}
        for i, image in enumerate(images, 1):
            name = Path(image).name if isinstance(image, (str, Path)) else f"image {i}"
            named[free_name(name, named)] = image
        images = named
    if not images:
        raise ValueError("images is empty: expected at least one radiograph")
    return {str(name): read_picture(image) for name, image in images.items()}


def unknown_words(tokenizer, text: str) -> list[str]:
    """Words that the vocabulary lacks: unknown, or spelled in pieces of fewer than two letters."""
    words = re.findall(r"\w+", text)
    pieces = [tokenizer.tokenize(word) for word in words]
    return [
        word
        for word, found in zip(words, pieces, strict=True)
        if tokenizer.unk_token in found or len(word) > 3 and len(found) > len(word) / 2
    ]


def free_name(name: str, taken) -> str:
    """`name`, with a number where another image has it already."""
    number, free = 2, name
    while free in taken:
        free, number = f"{name} ({number})", number + 1
    return free


def uploaded_files(value) -> list[tuple[str, bytes]]:
    """(name, content) of a FileUpload's value: a dict in ipywidgets 7, a tuple in 8."""
    if isinstance(value, Mapping):
        return [(name, bytes(file["content"])) for name, file in value.items()]
    return [(file["name"], bytes(file["content"])) for file in value]
