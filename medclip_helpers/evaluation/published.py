"""What the paper reports, as data with its source, and how a measurement compares with it.

The numbers (published.csv) are quoted second-hand from the table that PUBLISHED_SOURCE names, not
read from the paper itself: check there before quoting them. Those of its other tables are not
included.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

PUBLISHED_SOURCE = "Wang et al., EMNLP 2022, Table 2 (arXiv:2210.10163)"
# name for `load_medclip` -> what the paper calls it
PUBLISHED_METHODS = {"vit": "MedCLIP-ViT", "resnet": "MedCLIP-ResNet"}
# data set -> test images behind its numbers
PUBLISHED_TEST_IMAGES = {"chexpert-5x200": 1000, "mimic-5x200": 1000, "covid": 3000, "rsna": 3538}
# CheXpert's labels supervised MedCLIP's image side in pretraining: patients may be new in the test,
# hospital and labeller are not.
IN_DOMAIN = ("chexpert", "chexpert-5x200")


# What our two rules are compared with, and why that is not certain.
PUBLISHED_RULES = (
    "The maximum over ten prompts is laid beside the paper's column without ensemble, their mean "
    "beside the one with it. The authors' code has both and calls them so (a comment says that the "
    "maximum is 'equivalent' to one prompt); that it made these columns is likely, not proved."
)


def published_zero_shot() -> pd.DataFrame:
    """The paper's zero-shot accuracies: a row per method, columns (data set, "maximum" or
    "ensemble"; PUBLISHED_RULES says why).
    """
    file = Path(__file__).with_name("published.csv")
    table = pd.read_csv(file, comment="#", header=[0, 1], index_col=0)
    table.columns.names = [None, None]
    return table.rename_axis("method")


def zero_shot_of(dataset: str, model: str) -> dict[str, float]:
    """{"maximum": accuracy, "ensemble": accuracy} as published (see PUBLISHED_RULES).

    dataset: one of PUBLISHED_TEST_IMAGES. model: "vit" or "resnet". Raises ValueError for others:
    a demo model, or any model on drawings, has no counterpart in the paper.
    """
    for name, value, known in (
        ("data set", dataset, PUBLISHED_TEST_IMAGES),
        ("model", model, PUBLISHED_METHODS),
    ):
        if value not in known:
            raise ValueError(
                f"nothing is published for {name} {value!r}: expected one of {list(known)}"
            )
    published = published_zero_shot().xs(PUBLISHED_METHODS[model])[dataset]
    return {str(rule): accuracy for rule, accuracy in published.items()}


def compare_with_published(measured: pd.DataFrame, dataset: str, model: str) -> pd.DataFrame:
    """Measured zero-shot accuracies beside the published ones, and what to make of the difference.

    measured: of `evaluate_zero_shot`, by either protocol; the accuracy over all patients counts.
    dataset: one of PUBLISHED_TEST_IMAGES. model: "vit" or "resnet", whose published weights were
        measured.

    Returns per rule `prompts`, `published`, `measured`, `low`, `high`, `difference` (measured
    less published), `difference low`, `difference high`, `judgement`. The published number is a
    measurement too, on other images of the same data set: its own sampling error (that of a share
    of PUBLISHED_TEST_IMAGES) goes into the interval of the difference. "agrees" means that 0 lies
    in it, no more: with few images nearly everything agrees.

    Raises ValueError as `zero_shot_of` does.
    """
    wanted = (measured["metric"] == "accuracy") & (measured["patients"] == "all")
    found = measured[wanted].set_index("prompts")[["value", "low", "high"]]
    published = pd.Series(zero_shot_of(dataset, model))[found.index]
    value, low, high = (found[name] for name in found)
    error = 1.96 * np.sqrt(published * (1 - published) / PUBLISHED_TEST_IMAGES[dataset])
    difference = value - published
    lowest = difference - np.hypot(value - low, error)
    highest = difference + np.hypot(high - value, error)
    judgement = np.select([lowest > 0, highest < 0], ["higher", "lower"], "agrees")
    table = {"published": published, "measured": value, "low": low, "high": high}
    table |= {"difference": difference, "difference low": lowest, "difference high": highest}
    return pd.DataFrame(table).assign(judgement=judgement).rename_axis("prompts").reset_index()
