"""What the published package and ours are both given, in arithmetic that no version changes.

Read by tools/record_published.py in the published package's environment, and by the tests in ours.
"""

import numpy as np
import pandas as pd
from PIL import Image

LABELS = [
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Lesion", "Lung Opacity",
    "Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion",
    "Pleural Other", "Fracture", "Support Devices",
]  # fmt: skip
FIVE = ["Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"]
IMAGES = 15
ITEMS = 1000  # of a pretraining set


def pictures() -> list[Image.Image]:
    """IMAGES of several sizes and shapes, wide, tall, and smaller than the model's."""
    made = []
    for i in range(IMAGES):
        y, x = np.mgrid[: 180 + 97 * (i % 4), : 200 + 61 * (i % 5)]
        waves = x * x // (5 + i) + y * (3 + i) + 60 * ((x // (9 + i) + y // 16) % 2)
        made.append(Image.fromarray((waves % 256).astype(np.uint8)))
    return made


def truth(classes: int) -> list[int]:
    """The class of each picture."""
    return [(i * i + i // 3) % classes for i in range(IMAGES)]


class Stream:
    """Numbers in [0, 1) that follow from their place alone: what both sides draw from."""

    def __init__(self):
        self.state = 1

    def number(self) -> float:
        self.state = self.state * 48271 % 2147483647  # Park and Miller's generator
        return self.state / 2147483647

    def integers(self, count: int) -> int:
        return int(self.number() * count)

    def permutation(self, count: int) -> np.ndarray:
        return np.argsort([self.number() for _ in range(count)])


def sentence_table() -> pd.DataFrame:
    """`Reports` and labels: states of each kind, repeats, short, double and unusable sentences."""
    parts = ["lungs", "heart", "left base", "right base", "hila"]
    states = ["is seen without change", "cannot be excluded .", "shows: mild (new) disease",
              "are clear. No other finding today", "n", "is 2.5 cm wide, as before"]  # fmt: skip
    rows = []
    for i in range(900):
        text = f"{parts[i % 5]} {states[i % 6]}" + (f" at level {i}" if i % 4 else "")
        labels = [np.nan] * 14
        labels[0 if i % 3 else i % 14] = 1.0
        labels[(i * 7) % 14] = (1.0, 0.0, -1.0, np.nan)[i % 4]
        rows.append([text, *labels])
    rows += [["ok", *[1.0] * 14], ["Ünklar \ufffd\ufffd but quite légible here", *[0.0] * 14]]
    return pd.DataFrame(rows, columns=["Reports", *LABELS])


def studies() -> pd.DataFrame:
    """ITEMS rows for pretraining: some with a report, some with labels alone or with none."""
    sentences = sentence_table()["Reports"].tolist()
    rows = []
    for i in range(ITEMS):
        labels = np.zeros(14)
        if i % 5:
            labels[i % 14] = 1
            labels[(i * 3) % 14] = (1, -1, 0)[i % 3]
        report = None
        if i % 4 == 0:
            some = [sentences[(i + k * 11) % 900] for k in range(3)]
            report = f"1. {some[0]}. {some[1]}\nand more of it.  2. {some[2]}. Unknown words of a report."
        rows.append([report, *labels])
    return pd.DataFrame(rows, columns=["report", *LABELS])
