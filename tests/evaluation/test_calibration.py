"""From scores to probabilities."""

import numpy as np
import pytest

from medclip_helpers import evaluation as ev


def test_pair_probabilities():
    scores = ev.pair_probabilities([0, 5.0, 1000.0], [0, 3.0, -1000.0])
    assert scores.tolist() == pytest.approx([0.5, 1 / (1 + np.exp(-2)), 1])
    with pytest.raises(ValueError, match="expected equal"):
        ev.pair_probabilities([0, 1], [0])


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
def test_calibration_repairs_a_badly_scaled_score(method):
    rng = np.random.default_rng(0)
    logit = rng.normal(size=8000)
    labels = (rng.random(8000) < 1 / (1 + np.exp(-logit))).astype(float)
    labels[::10] = np.nan  # not known, passed over
    scores = 30 + 8 * logit
    fitted = ev.calibrate(labels[:4000], scores[:4000], method)
    found = fitted(scores[4000:])
    assert ((found >= 0) & (found <= 1)).all()
    assert np.abs(found - 1 / (1 + np.exp(-logit[4000:]))).mean() < 0.03
    with pytest.raises(ValueError, match="one kind"):
        ev.calibrate(np.ones(4), np.arange(4.0))
    with pytest.raises(ValueError, match="method"):
        ev.calibrate([0, 1], [0, 1], "magic")
