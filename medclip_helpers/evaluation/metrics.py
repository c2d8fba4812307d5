"""Classification metrics, each with a bootstrap interval.

Pure functions of arrays, equal to scikit-learn's (tests/evaluation/test_metrics.py). They are
computed from resampling counts: sorted once, 1,000 resamples cost a few seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from .intervals import CountStatistic, bootstrap, finite, percentile_interval

MODES = ("multiclass", "binary", "multilabel")
AVERAGE = "average"  # the row over classes
METRICS = ("accuracy", "precision", "recall", "f1")  # of answers


class _Ranked:
    """AUROC and average precision of one class under any counts, from one sorting."""

    def __init__(self, truth: np.ndarray, scores: np.ndarray):
        known = np.flatnonzero(np.isin(truth, (0, 1)))
        order = known[np.argsort(-scores[known], kind="stable")]
        self.order, self.positive = order, truth[order] == 1
        # Images of equal score pass a threshold together: only the last of a run is a threshold.
        self.last = np.flatnonzero(np.diff(scores[order], append=np.nan) != 0)

    def __call__(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(resamples, images) -> AUROC (resamples,) and average precision (resamples,)."""
        drawn = counts[:, self.order]
        passed = np.cumsum(drawn, axis=1)[:, self.last]
        hits = np.cumsum(drawn * self.positive, axis=1)[:, self.last]
        gained = np.diff(hits, axis=1, prepend=0)
        false = passed - hits
        positives, negatives = hits[:, -1], false[:, -1]
        before = np.concatenate([np.zeros_like(false[:, :1]), false[:, :-1]], axis=1)
        # A positive outranks the negatives not yet passed; one of equal score counts half.
        outranked = negatives[:, None] - (false + before) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            area = np.einsum("rt,rt->r", gained, outranked, dtype=np.float64)
            area = area / (positives.astype(np.float64) * negatives)
            precision = np.where(passed > 0, hits / passed, 0)
            average = np.einsum("rt,rt->r", gained, precision, dtype=np.float64) / positives
        return area, average


def _ranking(classes: list[_Ranked], counts: np.ndarray) -> np.ndarray:
    """AUROC of each class and their mean, then average precision likewise."""
    if not classes:
        return np.empty((len(counts), 0))
    by_metric = np.stack([ranked(counts) for ranked in classes], axis=2)  # metric, resample, class
    return np.concatenate([_with_mean(values) for values in by_metric], axis=1)


def _with_mean(values: np.ndarray) -> np.ndarray:
    """Adds the mean over the classes that have a value."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean = np.where(known, values, 0).sum(axis=1) / known.sum(axis=1)
    return np.concatenate([values, mean[:, None]], axis=1)


def decided(
    truth: np.ndarray, predicted: np.ndarray, exclusive: bool, counts: np.ndarray
) -> np.ndarray:
    """Accuracy, then precision, recall and F1 of each class, each followed by its mean.

    truth, predicted: (images, classes) of 0 and 1; NaN in truth for unknown.
    exclusive: one class per image; accuracy then counts images, otherwise known image-class pairs.
    """
    known = ~np.isnan(truth)
    positive, called = (truth == 1).astype(np.float32), (predicted * known).astype(np.float32)
    total = (counts @ known.astype(np.float32)).astype(np.float64)
    right = (counts @ ((truth == predicted) & known).astype(np.float32)).astype(np.float64)
    hits, present, said = (
        (counts @ column).astype(np.float64) for column in (positive * called, positive, called)
    )
    # Zero where nothing is predicted or present, as in scikit-learn; NaN where nothing is known
    nothing = np.where(total > 0, 0, np.nan)
    if exclusive:
        right, total = hits, total[:, :1]
    accuracy = right.sum(axis=1) / total.sum(axis=1)
    parts = [accuracy[:, None]]
    for amount, of in ((hits, said), (hits, present), (2 * hits, said + present)):
        parts.append(_with_mean(np.divide(amount, of, out=nothing.copy(), where=of > 0)))
    return np.concatenate(parts, axis=1)


def _checked(
    labels: ArrayLike, scores: ArrayLike, class_names: Sequence[str], mode: str
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels as (images, classes) of 1, 0 and NaN, scores (images, columns), class names."""
    names = list(class_names)
    for table in (labels, scores):
        columns = list(getattr(table, "columns", names))
        if columns != names and sorted(map(str, columns)) == sorted(map(str, names)):
            raise ValueError(f"columns are {columns}, expected the order of class_names, {names}")
    scores = finite("scores", scores)
    try:
        labels = np.asarray(labels, float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"labels are not numbers: {error}") from error
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}, expected one of {MODES}")
    if mode == "binary" and len(names) != 2:
        raise ValueError(f"binary needs two class names (negative, positive), got {names}")
    if scores.ndim == 1:
        scores = scores[:, None]
    counts = {len(names), 1} if mode == "binary" else {len(names)}
    if scores.ndim != 2 or scores.shape[1] not in counts or len(scores) != len(labels):
        raise ValueError(
            f"scores have shape {scores.shape}, expected ({len(labels)} images, "
            f"{' or '.join(map(str, sorted(counts)))} columns)"
        )
    if not len(scores):
        raise ValueError("scores are empty: expected a number for each image")
    allowed = (1, 0, -1) if mode == "multilabel" else range(len(names))
    shape = scores.shape if mode == "multilabel" else (len(scores),)
    if labels.shape != shape:
        raise ValueError(f"labels have shape {labels.shape}, expected {shape} for {mode}")
    wrong = ~np.isin(labels, list(allowed)) & ~(np.isnan(labels) & (mode == "multilabel"))
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(f"labels{list(place)} is {labels[place]}, expected one of {list(allowed)}")
    if mode == "multilabel":
        return np.where(labels == -1, np.nan, labels), scores, names
    return (labels[:, None] == np.arange(len(names))).astype(float), scores, names


def evaluate_classification(
    labels: ArrayLike,
    scores: ArrayLike,
    class_names: Sequence[str],
    mode: str = "multiclass",
    *,
    threshold: float | Sequence[float] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    groups: ArrayLike | None = None,
) -> pd.DataFrame:
    """All metrics of a classification with their bootstrap intervals.

    mode, labels, scores:
        "multiclass": (images,) class numbers; (images, classes). The highest score is the answer.
        "binary": (images,) 0 or 1; (images, 2), of which the higher is the answer, or one column
            for the second class.
        "multilabel": (images, classes) of 1, 0, -1 and NaN, of which only 1 and 0 are counted;
            (images, classes).
    class_names: of the columns; for binary (negative, positive).
    threshold: scores above it (one for all classes, or one per class) say yes. A single column and
        several labels need it for accuracy, precision, recall and F1, which are left out without
        it: no threshold is made up. (At a sigmoid's 0.5, the published choice, a scaled cosine is
        nearly always a yes.)
    groups: see `bootstrap`.

    AUROC and average precision are of one class against the rest, from that class's own column
    as it is; binary: of the positive class, from the difference of two columns.

    Returns rows with `metric`, `class` (a name, or "average" over classes), `value`, `low`, `high`
    (ends of the interval) and `images` counted. Raises ValueError naming what does not fit.
    """
    truth, scores, names = _checked(labels, scores, class_names, mode)
    ranked_names = names
    ranked_truth, ranked_scores = truth, scores
    if mode == "binary":
        ranked_names, ranked_truth = names[1:], truth[:, 1:]
        if scores.shape[1] == 2:
            ranked_scores = scores[:, 1:] - scores[:, :1]
    predicted = predict(scores, mode, threshold)
    rows: list[tuple[str, str]] = []
    statistics: list[CountStatistic] = []
    if predicted is not None:
        statistics.append(partial(decided, truth, predicted, mode != "multilabel"))
        rows.append(("accuracy", AVERAGE))
        rows += [(m, c) for m in METRICS[1:] for c in (*names, AVERAGE)]
    both = [i for i in range(len(ranked_names)) if {0.0, 1.0} <= set(ranked_truth[:, i])]
    statistics.append(
        partial(_ranking, [_Ranked(ranked_truth[:, i], ranked_scores[:, i]) for i in both])
    )
    of_classes = [*(ranked_names[i] for i in both), AVERAGE] if both else []
    rows += [(m, c) for m in ("auroc", "average_precision") for c in of_classes]

    def statistic(counts: np.ndarray) -> np.ndarray:
        return np.concatenate([part(counts) for part in statistics], axis=1)

    table = pd.DataFrame(rows, columns=["metric", "class"])
    table["value"] = statistic(np.ones((1, len(truth)), np.float32))[0]
    samples = bootstrap(statistic, len(truth), resamples=resamples, seed=seed, groups=groups)
    table["low"], table["high"] = percentile_interval(samples, level)
    known = dict(zip(names, (~np.isnan(truth)).sum(axis=0).tolist(), strict=True))
    table["images"] = [known.get(name, len(truth)) for name in table["class"]]
    return table


def accuracy_and_auroc(labels: ArrayLike, scores: ArrayLike) -> dict[str, float]:
    """`accuracy` and `auroc` (mean over classes) of the highest score, without intervals.

    labels: (images,) class numbers. scores: (images, classes). `auroc` is NaN where all images are
    of one class.
    """
    class_names = [str(number) for number in range(np.shape(scores)[1])]
    found = evaluate_classification(labels, scores, class_names, resamples=1)
    average = found[found["class"] == AVERAGE].set_index("metric")["value"]
    return {name: float(average.get(name, np.nan)) for name in ("accuracy", "auroc")}


def is_right(labels: ArrayLike, scores: ArrayLike) -> np.ndarray:
    """Whether the highest score is that of the true class.

    labels: (images,) class numbers. scores: (..., images, classes). Returns (..., images).
    """
    return np.asarray(scores).argmax(axis=-1) == labels


def predict(
    scores: ArrayLike, mode: str = "multiclass", threshold: float | Sequence[float] | None = None
) -> np.ndarray | None:
    """Yes (1) or no (0) for each image and class, (images, classes).

    Several exclusive classes: the highest score, the first of equal ones. A single column (binary)
    or several labels: scores above `threshold`, and None where that is not given.
    """
    scores = np.asarray(scores, float)
    if scores.ndim == 1:
        scores = scores[:, None]
    if mode == "multiclass" or (mode == "binary" and scores.shape[1] == 2):
        if threshold is not None:
            raise ValueError(f"threshold is {threshold}, but the highest of several scores decides")
        return np.eye(scores.shape[1])[scores.argmax(axis=1)]
    if threshold is None:
        return None
    yes = (scores > np.asarray(threshold)).astype(float)
    return np.concatenate([1 - yes, yes], axis=1) if mode == "binary" else yes


def confusion(labels: ArrayLike, scores: ArrayLike, class_names: Sequence[str]) -> np.ndarray:
    """(classes, classes) counts, rows the true class, columns the one with the highest score."""
    truth, values, names = _checked(labels, scores, class_names, "multiclass")
    return (truth.T @ np.eye(len(names))[values.argmax(axis=1)]).astype(int)
