"""What the paper reports, as data with its source, and how a measurement compares with it.

The figures are quoted second-hand from the table that SOURCE names, not read off the paper itself:
look there before quoting them on. Those of its other tables are not here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas

SOURCE = "Wang et al., EMNLP 2022, Table 2 (arXiv:2210.10163)"
# Zero-shot accuracy: method -> data set -> (a single prompt a class, an ensemble of prompts).
ZERO_SHOT: dict[str, dict[str, tuple[float, float]]] = {
    "MedCLIP-ViT": {
        "chexpert-5x200": (0.5942, 0.5942),
        "mimic-5x200": (0.5006, 0.5024),
        "covid": (0.8013, 0.7943),
        "rsna": (0.7447, 0.7682),
    },
    "MedCLIP-ResNet": {
        "chexpert-5x200": (0.5476, 0.5712),
        "mimic-5x200": (0.5022, 0.5430),
        "covid": (0.8472, 0.8369),
        "rsna": (0.7418, 0.7584),
    },
    "GLoRIA": {
        "chexpert-5x200": (0.4328, 0.4210),
        "mimic-5x200": (0.3306, 0.3382),
        "covid": (0.7090, 0.5702),
        "rsna": (0.5808, 0.4752),
    },
    "ConVIRT": {
        "chexpert-5x200": (0.4188, 0.4224),
        "mimic-5x200": (0.4018, 0.4010),
        "covid": (0.5184, 0.6647),
        "rsna": (0.4731, 0.4647),
    },
    "CLIP": {
        "chexpert-5x200": (0.2016, 0.2036),
        "mimic-5x200": (0.1918, 0.2254),
        "covid": (0.5069, 0.5090),
        "rsna": (0.4989, 0.5055),
    },
}
RULES = ("one prompt", "ensemble")  # what the two columns are called in `reproduce`
METHODS = {"vit": "MedCLIP-ViT", "resnet": "MedCLIP-ResNet"}  # name for `load_medclip` -> paper's
TEST_IMAGES = {"chexpert-5x200": 1000, "mimic-5x200": 1000, "covid": 3000, "rsna": 3538}
# CheXpert's labels supervised MedCLIP's image side in pretraining: patients may be new in the test,
# hospital and labeller are not.
IN_DOMAIN = ("chexpert", "chexpert-5x200")


def published_zero_shot() -> pandas.DataFrame:
    """The paper's zero-shot accuracies: a row a method, columns (data set, "one prompt" or
    "ensemble").
    """
    import pandas as pd

    rows = {
        method: {
            (dataset, rule): value
            for dataset, values in by_dataset.items()
            for rule, value in zip(RULES, values, strict=True)
        }
        for method, by_dataset in ZERO_SHOT.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def zero_shot_of(dataset: str, model: str) -> dict[str, float]:
    """{"one prompt": accuracy, "ensemble": accuracy} as published.

    dataset: one of TEST_IMAGES. model: "vit" or "resnet". Raises ValueError for others: what a demo
    model does, or any model with drawings, has no counterpart in the paper.
    """
    for name, value, allowed in (("data set", dataset, TEST_IMAGES), ("model", model, METHODS)):
        if value not in allowed:
            raise ValueError(
                f"nothing is published for {name} {value!r}: expected one of {list(allowed)}"
            )
    return dict(zip(RULES, ZERO_SHOT[METHODS[model]][dataset], strict=True))


def compare_with_published(
    measured: pandas.DataFrame, dataset: str, model: str
) -> pandas.DataFrame:
    """Measured zero-shot accuracies beside the published ones, and what to make of the difference.

    measured: rows as `reproduce.zero_shot_draws` summarises them: `prompts` ("one prompt",
        "ensemble"), `value`, `low`, `high` (95 %); others are passed over.
    dataset: one of TEST_IMAGES. model: "vit" or "resnet", whose published weights were measured.

    Returns a row a rule: `prompts`, `published`, `measured`, `low`, `high`, `difference` (measured
    less published), `difference low`, `difference high`, `judgement`. The published figure is a
    measurement too, on other images of the same data set: its own sampling error (that of a share
    of TEST_IMAGES) goes into the interval of the difference. "agrees" means that 0 lies in it, no
    more: with few images nearly everything agrees.

    Raises ValueError as `zero_shot_of` does.
    """
    import pandas as pd

    known = measured.set_index("prompts")
    rows = []
    for rule, published in zero_shot_of(dataset, model).items():
        value, low, high = known.loc[rule, ["value", "low", "high"]]
        error = 1.96 * np.sqrt(published * (1 - published) / TEST_IMAGES[dataset])
        difference = value - published
        ends = (
            difference - np.hypot(value - low, error),
            difference + np.hypot(high - value, error),
        )
        judgement = "agrees" if ends[0] <= 0 <= ends[1] else "higher" if difference > 0 else "lower"
        rows.append([rule, published, value, low, high, difference, *ends, judgement])
    columns = ["prompts", "published", "measured", "low", "high"]
    columns += ["difference", "difference low", "difference high", "judgement"]
    return pd.DataFrame(rows, columns=columns)
