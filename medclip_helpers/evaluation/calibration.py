"""From scores to probabilities, learnt from labelled images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from .intervals import finite


def pair_probabilities(positive_scores: ArrayLike, negative_scores: ArrayLike) -> np.ndarray:
    """Softmax over a finding's positive and negative prompt: probability of the positive one.

    Both: scaled cosine similarities of the same shape, for "{}" and "no {}". The result lies in
    [0, 1]; whether it deserves the name is what `calibrate` and a reliability plot are for.
    Raises ValueError where the shapes differ.
    """
    positive = finite("positive_scores", positive_scores)
    negative = finite("negative_scores", negative_scores)
    if positive.shape != negative.shape:
        raise ValueError(
            f"scores have shapes {positive.shape} and {negative.shape}, expected equal shapes"
        )
    return expit(positive - negative)


def calibrate(
    labels: ArrayLike, scores: ArrayLike, method: str = "sigmoid"
) -> Callable[[ArrayLike], np.ndarray]:
    """Learn from labelled images how often a score is right.

    labels: (images,) 1 or 0, others are skipped; scores: (images,), of one finding.
    method: "sigmoid" (Platt: logistic regression on the score) or "isotonic", which needs hundreds
        of images. Judge the result on other images than these.

    Returns a function, scores (n,) -> probabilities (n,). Raises ValueError for another method or
    shapes, and where the labels are not both 1 and 0.
    """
    labels, scores = np.asarray(labels, float), finite("scores", scores)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(f"labels {labels.shape} and scores {scores.shape}: expected (images,)")
    known = np.isin(labels, (0, 1))
    labels, scores = labels[known], scores[known]
    if len(set(labels)) < 2:
        raise ValueError("labels are all of one kind: expected both 1 and 0 to learn from")
    if method == "isotonic":
        fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        return fitted.fit(scores, labels).predict
    if method != "sigmoid":
        raise ValueError(f"method is {method!r}, expected 'sigmoid' or 'isotonic'")
    # Standardised, so that the weak regularisation means the same for any scale of scores.
    fitted = make_pipeline(StandardScaler(), LogisticRegression(C=1e4)).fit(scores[:, None], labels)
    return lambda new: fitted.predict_proba(np.asarray(new, float)[:, None])[:, 1]
