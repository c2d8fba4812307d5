"""Drawn chests and written reports as the tables that real studies come in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, repeat
from numbers import Integral

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from PIL import Image
from tqdm.auto import tqdm

from ..constants import CHEXPERT_COMPETITION
from ..demo import (
    DERIVED_LABELS,
    IMAGE_SIZE,
    draw_phantom,
    sample_findings,
    sample_people,
    write_report,
)
from ..processor import MedCLIPImageProcessor, MedCLIPProcessor
from .labels import LABELS
from .splits import SPLITS
from .tables import FIRST_COLUMNS, check_numbers, class_numbers, listed

DEMO_SIZES = {"train": 500, "valid": 100, "test": 500}  # drawings
DEMO_STREAM = 10**8  # seeds of drawings, far from those that the demo model was trained on
_BLOCK = 100  # people whom `draw_images` samples with one seed
_MANY = 100  # drawings from which on all cores draw: starting the others takes a second


def draw_studies(
    people: Sequence[int],
    exclusive: Iterable[str] | None = None,
    size: int = IMAGE_SIZE,
    drawn_size: int = 224,
    derived: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Drawn chests and the reports about them as a manifest, a row per person.

    people: their seeds, as `sample_people` gives them; a person is the same in any table.
    exclusive: the one finding that each of them has; by default a mix as in a hospital.
    size: pixels a side of the images that a processor of this size makes from the drawings.
    drawn_size: pixels a side of the drawings.
    derived: keep the DERIVED_LABELS, which follow from others and which no sentence mentions;
        otherwise they are blank, as in the demo model's training.

    Returns `imgpath` (PIL images, mode "L"), `subject_id`, `report` and the 14 labels, float32.
    """
    people = listed(people, "people", Integral)
    square = MedCLIPImageProcessor(size).square
    given = [exclusive] if isinstance(exclusive, str) else exclusive
    one_each: Iterable[str | None] = given or repeat(None)
    # `one_each` may be endless
    chosen = [sample_findings(*pair) for pair in zip(people, one_each, strict=False)]
    if len(chosen) != len(people):
        raise ValueError(
            f"exclusive has {len(chosen)}, expected one for each of {len(people)} people"
        )
    drawings = Parallel(-1 if len(people) >= _MANY else 1, return_as="generator")(
        delayed(draw_phantom)(*of, drawn_size) for of in zip(people, chosen, strict=True)
    )
    rows = []
    bar = tqdm(drawings, desc="drawing", total=len(people), disable=not progress)
    for person, findings, drawn in zip(people, chosen, bar, strict=True):
        report = ". ".join(sentence.text for sentence in write_report(findings, person))
        image = square(Image.fromarray(drawn.image))
        rows.append([image, f"drawing-{person}", f"{report}.", *drawn.labels])
    table = pd.DataFrame(rows, columns=[*FIRST_COLUMNS, *LABELS])
    if not derived:
        table[list(DERIVED_LABELS)] = np.nan
    return table.astype(dict.fromkeys(LABELS, np.float32))


def draw_demo(sizes: Mapping[str, int], seed: int, progress: bool) -> pd.DataFrame:
    """Drawn chests with one of the five findings each, of people whom the demo model never saw."""
    stream = DEMO_STREAM * (seed + 1)
    drawings = [(place, i) for place, split in enumerate(SPLITS) for i in range(sizes[split])]
    people = [stream + DEMO_STREAM // 10 * place + i for place, i in drawings]
    exclusive = [CHEXPERT_COMPETITION[i % len(CHEXPERT_COMPETITION)] for _, i in drawings]
    table = draw_studies(people, exclusive, progress=progress)
    table.insert(len(FIRST_COLUMNS), "split", [SPLITS[place] for place, _ in drawings])
    return table


def draw_images(
    count: int,
    seed: int,
    processor: MedCLIPProcessor,
    exclusive: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """`draw_studies` of `count` people, at the processor's size; what the demo model learns from.

    exclusive: exactly one of the five competition findings each, in turn.
    """
    check_numbers(count=count, seed=seed)
    people = [
        person
        for start in range(0, count, _BLOCK)
        for person in sample_people(min(_BLOCK, count - start), seed + start)
    ]
    one = cycle(CHEXPERT_COMPETITION) if exclusive else None
    return draw_studies(people, one, processor.image_processor.size, progress=progress)


def true_classes(images: pd.DataFrame) -> list[str]:
    """The one competition finding of each exclusively drawn image."""
    return [CHEXPERT_COMPETITION[i] for i in class_numbers(images, CHEXPERT_COMPETITION)]


def write_reports(people: Iterable[int], seeds: Iterable[int] | None = None) -> pd.DataFrame:
    """The sentences of reports about people as a table: `study`, `Reports` and the 14 labels.

    people: their seeds, as for `draw_studies`. seeds: of the reports' wording; by default `people`.
    study: the place of the person in `people`.
    """
    people = listed(people, "people", Integral)
    reports = [
        write_report(sample_findings(person), seed)
        for person, seed in zip(people, people if seeds is None else seeds, strict=True)
    ]
    rows = [(i, s.text, *s.labels) for i, report in enumerate(reports) for s in report]
    table = pd.DataFrame(rows, columns=["study", "Reports", *LABELS])
    return table.astype(dict.fromkeys(LABELS, np.float32))


def write_sentences(count: int, seed: int) -> pd.DataFrame:
    """The sentences of `count` reports as a table: `Reports` and the 14 labels."""
    check_numbers(count=count, seed=seed)
    return write_reports(range(seed, seed + count)).drop(columns="study")
