"""The paper's figures, and what is made of a difference to them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medclip_helpers import evaluation as ev


def measured(maximum: float, ensemble: float, half: float = 0.01) -> pd.DataFrame:
    """As of `evaluate_zero_shot`, with rows that are not to be looked at."""
    found = pd.DataFrame(
        [
            ("all", "maximum", "accuracy", maximum),
            ("all", "maximum", "f1", 0.1),
            ("never seen", "maximum", "accuracy", 0.1),
            ("all", "ensemble", "accuracy", ensemble),
        ],
        columns=["patients", "prompts", "metric", "value"],
    )
    return found.assign(low=found["value"] - half, high=found["value"] + half)


def test_published_table_is_whole():
    shown = ev.published_zero_shot()
    assert shown.shape == (5, 8) and not shown.isna().any(axis=None)
    assert shown.loc["MedCLIP-ViT", ("covid", "maximum")] == 0.8013
    assert shown.loc["GLoRIA", ("rsna", "ensemble")] == 0.4752
    assert ev.zero_shot_of("rsna", "resnet") == {"maximum": 0.7418, "ensemble": 0.7584}
    file = Path(ev.__file__).with_name("published.csv")
    assert ev.PUBLISHED_SOURCE in file.read_text()


def test_judgement():
    found = ev.compare_with_published(measured(0.60, 0.50), "chexpert-5x200", "vit")
    assert found["prompts"].tolist() == ["maximum", "ensemble"]
    assert found["judgement"].tolist() == ["agrees", "lower"]
    assert found["difference"].tolist() == pytest.approx([0.0058, -0.0942])
    # 1,000 published images: their share of 0.5942 is known to 0.0304
    half = np.hypot(0.01, 1.96 * np.sqrt(0.5942 * 0.4058 / 1000))
    width = found["difference high"] - found["difference low"]
    assert width.tolist() == pytest.approx([2 * half] * 2)
    ours = measured(0.6, 0.5)[3:]  # our protocol has no maximum
    assert ev.compare_with_published(ours, "rsna", "vit")["published"].tolist() == [0.7682]
    better = ev.compare_with_published(measured(0.9, 0.9), "rsna", "vit")
    assert better["judgement"].tolist() == ["higher", "higher"]
    wide = ev.compare_with_published(measured(0.9, 0.9, half=0.2), "rsna", "vit")
    assert wide["judgement"].tolist() == ["agrees", "agrees"]


@pytest.mark.parametrize("place", [("demo", "vit"), ("covid", "demo"), ("chexpert", "vit")])
def test_nothing_is_judged_that_has_no_counterpart(place):
    with pytest.raises(ValueError, match="nothing is published for"):
        ev.compare_with_published(measured(0.9, 0.9), *place)
