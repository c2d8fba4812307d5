"""Classification: equal to scikit-learn, intervals that cover, no silent threshold."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics
from sklearn.utils import resample

from medclip_helpers import evaluation as ev
from medclip_helpers.evaluation.metrics import _Ranked, _ranking, decided, predict

CLASSES = ["a", "b", "c"]


def multiclass(images=400, seed=0, decimals=6):
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, images, p=[0.2, 0.5, 0.3])
    scores = rng.normal(size=(images, 3))
    scores[np.arange(images), labels] += 1
    return labels, scores.round(decimals)


def value(table: pd.DataFrame, metric: str, name: str = ev.AVERAGE) -> float:
    found = table[(table["metric"] == metric) & (table["class"] == name)]
    assert len(found) == 1
    return found["value"].item()


@pytest.mark.parametrize("decimals", [6, 1, 0], ids=["no ties", "ties", "mostly ties"])
def test_multiclass_equals_sklearn(decimals):
    labels, scores = multiclass(decimals=decimals)
    table = ev.evaluate_classification(labels, scores, CLASSES, resamples=2)
    predicted = scores.argmax(axis=1)
    assert value(table, "accuracy") == pytest.approx(metrics.accuracy_score(labels, predicted))
    each = metrics.precision_recall_fscore_support(labels, predicted, zero_division=0)
    macro = metrics.classification_report(labels, predicted, output_dict=True)["macro avg"]
    names = {"precision": "precision", "recall": "recall", "f1": "f1-score"}
    for (metric, sklearn_name), by_class in zip(names.items(), each, strict=False):
        assert value(table, metric) == pytest.approx(macro[sklearn_name])
        assert [value(table, metric, c) for c in CLASSES] == pytest.approx(by_class.tolist())
    for metric, function in (
        ("auroc", metrics.roc_auc_score),
        ("average_precision", metrics.average_precision_score),
    ):
        expected = [function(labels == k, scores[:, k]) for k in range(3)]
        assert [value(table, metric, c) for c in CLASSES] == pytest.approx(expected)
        assert value(table, metric) == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("decimals", [6, 1])
def test_resamples_equal_sklearn_with_weights(decimals):
    labels, scores = multiclass(decimals=decimals)
    counts = np.random.default_rng(1).poisson(1, (5, len(labels))).astype(np.float32)
    truth = np.eye(3)[labels]
    predicted = np.eye(3)[scores.argmax(axis=1)]
    ranked = [_Ranked(truth[:, k], scores[:, k]) for k in range(3)]
    found, ranking = decided(truth, predicted, True, counts), _ranking(ranked, counts)
    for row, weight in enumerate(counts):
        settings = {"sample_weight": weight}
        assert found[row, 0] == pytest.approx(
            metrics.accuracy_score(labels, scores.argmax(axis=1), **settings)
        )
        f1 = metrics.f1_score(labels, scores.argmax(axis=1), average=None, **settings)
        assert found[row, 9:12] == pytest.approx(f1)
        areas = [metrics.roc_auc_score(truth[:, k], scores[:, k], **settings) for k in range(3)]
        precision = [
            metrics.average_precision_score(truth[:, k], scores[:, k], **settings) for k in range(3)
        ]
        assert ranking[row, :3] == pytest.approx(areas)
        assert ranking[row, 4:7] == pytest.approx(precision)
        assert ranking[row, [3, 7]] == pytest.approx([np.mean(areas), np.mean(precision)])


def test_interval_is_that_of_a_plain_bootstrap():
    labels, scores = multiclass(200)
    table = ev.evaluate_classification(labels, scores, CLASSES, resamples=2000)
    found = table[(table["metric"] == "auroc") & (table["class"] == "b")].iloc[0]
    plain = []
    for seed in range(1000):
        truth, score = resample(labels == 1, scores[:, 1], random_state=seed)
        plain.append(metrics.roc_auc_score(truth, score))
    assert [found["low"], found["high"]] == pytest.approx(
        np.quantile(plain, [0.025, 0.975]).tolist(), abs=0.01
    )
    assert found["low"] < found["value"] < found["high"]


def test_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        right = (np.random.default_rng(seed).random(150) < 0.7).astype(int)
        scores = np.eye(2)[right]  # class 1 is always the truth
        table = ev.evaluate_classification(
            np.ones(150), scores, ["no", "yes"], resamples=200, seed=seed
        )
        row = table[table["metric"] == "accuracy"].iloc[0]
        covered += row["low"] <= 0.7 <= row["high"]
    assert 175 <= covered <= 198  # 95 % of 200, within sampling error


def test_bootstrap_is_seeded_and_groups_widen_it():
    labels, scores = multiclass(100)
    patients = np.repeat(np.arange(100), 4)
    labels, scores = labels.repeat(4), scores.repeat(4, axis=0)  # four identical images each

    def width(**settings):
        table = ev.evaluate_classification(labels, scores, CLASSES, **settings)
        row = table[table["metric"] == "accuracy"].iloc[0]
        return row["high"] - row["low"]

    assert width(seed=3) == width(seed=3) != width(seed=4)
    assert 1.6 < width(groups=patients) / width() < 2.4  # twice: a quarter of the evidence
    documented = {"resamples": 1000, "level": 0.95, "seed": 0}
    pd.testing.assert_frame_equal(
        ev.evaluate_classification(labels, scores, CLASSES),
        ev.evaluate_classification(labels, scores, CLASSES, **documented),
        check_exact=True,
    )


def test_binary_with_two_columns_equals_the_published_evaluator():
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=300)
    scores = rng.normal(size=(300, 2)) + np.eye(2)[labels]
    table = ev.evaluate_classification(labels, scores, ["Normal", "COVID"], "binary", resamples=2)
    predicted = scores.argmax(axis=1)  # as medclip 0.0.3's Evaluator does, there after a sigmoid
    report = metrics.classification_report(labels, predicted, output_dict=True)
    assert value(table, "accuracy") == pytest.approx(report["accuracy"])
    assert value(table, "f1") == pytest.approx(report["macro avg"]["f1-score"])
    margin = scores[:, 1] - scores[:, 0]
    assert value(table, "auroc", "COVID") == pytest.approx(metrics.roc_auc_score(labels, margin))
    assert not len(table[(table["metric"] == "auroc") & (table["class"] == "Normal")])


def test_a_single_column_is_never_silently_thresholded():
    """The published evaluator cuts at sigmoid 0.5: scaled cosines then all say yes."""
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=500)
    scores = 4 + rng.normal(size=500) + 1.5 * labels
    names = ["Normal", "COVID"]
    table = ev.evaluate_classification(labels, scores, names, "binary", resamples=2)
    assert set(table["metric"]) == {"auroc", "average_precision"}
    assert value(table, "auroc") == pytest.approx(metrics.roc_auc_score(labels, scores))
    cut = ev.evaluate_classification(labels, scores, names, "binary", threshold=4.75, resamples=2)
    assert value(cut, "accuracy") == pytest.approx(((scores > 4.75) == labels).mean())
    assert value(cut, "recall", "COVID") == pytest.approx((scores > 4.75)[labels == 1].mean())
    at_the_threshold = predict([1, 2, 3], "binary", 2)
    assert at_the_threshold.tolist() == [[1, 0], [1, 0], [0, 1]]
    everything = ev.evaluate_classification(
        labels, scores, names, "binary", threshold=0, resamples=2
    )
    assert value(everything, "accuracy") == pytest.approx(labels.mean())


def test_multilabel_counts_only_what_is_known():
    rng = np.random.default_rng(0)
    labels = rng.choice([1.0, 0.0, -1.0, np.nan], (300, 3))
    labels[:, 2] = np.where(labels[:, 2] == 1, 0, labels[:, 2])  # c is never present
    scores = rng.normal(size=(300, 3)) + 2 * (labels == 1)
    table = ev.evaluate_classification(
        labels, scores, CLASSES, "multilabel", threshold=1, resamples=2
    )
    areas = []
    for k, name in enumerate("ab"):
        known = np.isin(labels[:, k], (0, 1))
        truth, score = labels[known, k], scores[known, k]
        areas.append(metrics.roc_auc_score(truth, score))
        assert value(table, "auroc", name) == pytest.approx(areas[-1])
        assert value(table, "average_precision", name) == pytest.approx(
            metrics.average_precision_score(truth, score)
        )
        assert value(table, "f1", name) == pytest.approx(metrics.f1_score(truth, score > 1))
        assert table[table["class"] == name]["images"].unique().tolist() == [known.sum()]
    assert "c" not in set(table[table["metric"] == "auroc"]["class"])  # no positives, no curve
    assert value(table, "auroc") == pytest.approx(np.mean(areas))
    known = np.isin(labels, (0, 1))
    assert value(table, "accuracy") == pytest.approx((labels == (scores > 1))[known].mean())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"labels": [0, 1, 3]}, r"labels\[2\] is 3.0, expected one of \[0, 1, 2\]"),
        ({"labels": [0, 1]}, r"\(2 images"),
        ({"labels": ["a", "b", "c"]}, "labels are not numbers"),
        ({"labels": np.eye(3)}, r"labels have shape \(3, 3\), expected \(3,\) for multiclass"),
        ({"labels": [], "scores": np.zeros((0, 3))}, "scores are empty"),
        ({"scores": np.zeros((3, 2))}, "3 columns"),
        ({"scores": np.zeros((3, 1))}, r"\(3, 1\), expected \(3 images, 3 columns\)"),
        ({"mode": "binary", "class_names": ["no", "yes"]}, "1 or 2 columns"),
        ({"scores": np.full((3, 3), np.nan)}, "not all finite"),
        ({"mode": "multi"}, "multiclass"),
        ({"threshold": 0.5}, "highest of several"),
        ({"resamples": 0}, "at least 1"),
        ({"mode": "multilabel", "labels": [[2, 0, 0]] * 3}, r"labels\[0, 0\] is 2.0"),
        ({"mode": "binary"}, "two class names"),
        ({"groups": [1, 2]}, "one for each of 3"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"labels": [0, 1, 2], "scores": np.eye(3), "class_names": CLASSES} | change
    with pytest.raises(ValueError, match=message):
        ev.evaluate_classification(**arguments)


def test_a_class_without_images_scores_zero_without_a_warning():
    labels, scores = [0, 1, 1], [[3, 1, 0], [2, 1, 0], [0, 1, 0]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = ev.evaluate_classification(labels, scores, CLASSES, resamples=50)
    for metric, a, b in (("precision", 1 / 2, 1), ("recall", 1, 1 / 2), ("f1", 2 / 3, 2 / 3)):
        found = [value(table, metric, name) for name in (*CLASSES, ev.AVERAGE)]
        assert found == pytest.approx([a, b, 0, (a + b) / 3])
    assert (table.loc[table["class"] == "c", ["value", "low", "high"]] == 0).all(axis=None)
    assert value(table, "auroc", "a") == 1 and "c" not in set(
        table.query("metric == 'auroc'")["class"]
    )


def test_the_answer_is_the_highest_score_the_first_of_equal_ones():
    assert predict([[1, 2], [3, 3]]).tolist() == [[0, 1], [1, 0]]


def test_confusion():
    labels, scores = multiclass()
    assert ev.confusion(labels, scores, CLASSES).tolist() == (
        metrics.confusion_matrix(labels, scores.argmax(axis=1)).tolist()
    )


def test_accuracy_and_auroc_in_short():
    labels, scores = multiclass(decimals=1)
    found = ev.accuracy_and_auroc(labels, scores)
    right = ev.is_right(labels, scores)
    assert right.tolist() == (scores.argmax(axis=1) == labels).tolist()
    areas = [metrics.roc_auc_score(labels == k, scores[:, k]) for k in range(3)]
    assert found == pytest.approx({"accuracy": right.mean(), "auroc": np.mean(areas)})
    twice = ev.is_right(labels, np.stack([scores, -scores]))
    assert twice.shape == (2, len(labels)) and twice[0].tolist() == right.tolist()
    alone = ev.accuracy_and_auroc([1, 1], [[0, 1.0], [1.0, 0]])
    assert alone["accuracy"] == 0.5 and np.isnan(alone["auroc"])


def test_images_without_a_patient_count_each_by_itself():
    labels, scores = [0, 1] * 10, np.random.default_rng(0).random((20, 2))
    how = {"resamples": 200, "seed": 3}
    alone = ev.evaluate_classification(labels, scores, ["a", "b"], **how)
    for blank in (None, "", " ", float("nan")):
        grouped = ev.evaluate_classification(labels, scores, ["a", "b"], groups=[blank] * 20, **how)
        pd.testing.assert_frame_equal(grouped, alone)  # all blank: no groups
    patients = [f"p{i // 2}" for i in range(18)]
    with pytest.warns(UserWarning, match="2 of 20 images have no group: each counts as one of its"):
        some = ev.evaluate_classification(
            labels, scores, ["a", "b"], groups=[*patients, None, ""], **how
        )
    named = [*patients, "x", "y"]
    expected = ev.evaluate_classification(labels, scores, ["a", "b"], groups=named, **how)
    pd.testing.assert_frame_equal(some, expected)
    with pytest.raises(ValueError, match="group names are of several types"):
        ev.evaluate_classification(labels, scores, ["a", "b"], groups=[1, "a"] * 10, **how)


def test_a_finding_that_nobody_annotated_does_not_count():
    labels = np.array([[1, 0, np.nan], [0, 1, np.nan]] * 9)
    found = ev.evaluate_classification(
        labels, np.nan_to_num(labels), ["a", "b", "c"], "multilabel", threshold=0.5, resamples=20
    )
    for metric in ("precision", "recall", "f1"):
        assert value(found, metric) == 1 and np.isnan(value(found, metric, "c"))


def test_a_single_group_has_no_interval():
    labels, scores = np.array([0, 1] * 9), np.eye(2)[[0, 1] * 9]
    with pytest.warns(UserWarning, match="all images are of one group"):
        found = ev.evaluate_classification(
            labels, scores, ["a", "b"], "multiclass", groups=["unknown"] * 18, resamples=20
        )
    assert value(found, "accuracy") == 1 and found["low"].isna().all()


def test_columns_of_a_table_have_the_order_of_the_classes():
    table = pd.DataFrame(np.eye(3), columns=["a", "b", "c"])
    names = ["c", "a", "b"]
    with pytest.raises(ValueError, match="expected the order of class_names"):
        ev.evaluate_classification(table, np.eye(3), names, "multilabel", threshold=0.5)
