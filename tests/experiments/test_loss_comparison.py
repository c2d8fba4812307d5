"""The losses in miniature: the same numbers each time, chosen and compared as it is said."""

import math
from collections import Counter
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn import metrics

from medclip_helpers import PromptClassifier, losses
from medclip_helpers.experiments import (
    ARMS,
    FIELDS,
    PRIMARY,
    SEMANTIC_ARM,
    Setting,
    World,
    comparison_settings,
    draw_batches,
    paired_differences,
    read_results,
    run_settings,
    select,
    tuned,
    tuning_settings,
    with_intervals,
)
from medclip_helpers.experiments.loss_comparison import (
    SEEDS,
    TUNING_SEEDS,
    contrastive_loss,
    false_negative_rate,
    measure,
    multi_positive_info_nce_loss,
    train_once,
)


@pytest.fixture(scope="module")
def world() -> World:
    return World(40, held_out=10, seed=1)


def small(arm: str = SEMANTIC_ARM, **settings) -> Setting:
    return Setting(arm, **{"images": 30, "sentences": 30, "steps": 2, "batch_size": 8} | settings)


def test_a_world_is_what_its_seed_says(world):
    again = World(40, held_out=10, seed=1)
    assert again.images.equal(world.images) and again.studies.equals(world.studies)
    assert again.fingerprint() == world.fingerprint()
    assert World(40, held_out=10, seed=2).fingerprint() != world.fingerprint()
    assert world.images.shape == (40, 1, 64, 64)
    for images, truth in world.held_out.values():
        assert images.shape == (10, 1, 64, 64) and truth.tolist() == [*range(5)] * 2
    seen = {images.numpy().tobytes() for images, _ in world.held_out.values()}
    assert len(seen) == 2


def test_all_arms_are_shown_the_same(world):
    first, *others = ([*draw_batches(world, small(arm))] for arm in ARMS)
    for arm, batches in zip(ARMS[1:], others, strict=True):
        for ours, theirs in zip(first, batches, strict=True):
            assert ours.images.tolist() == theirs.images.tolist()
            assert ours.image_labels.equal(theirs.image_labels)
            assert (ours.texts == theirs.texts) == (arm != "InfoNCE, whole report")


def test_unpaired_texts_are_of_other_people(world):
    own = {sentence for report in world.studies["report"] for sentence in report}
    for batch in draw_batches(world, small()):
        rows = zip(batch.images, batch.texts, strict=True)
        assert all(text in world.studies["report"][row] for row, text in rows)
    told = set(world.other_reports["Reports"])
    texts = {text for batch in draw_batches(world, small(pairing="unpaired", steps=9))
             for text in batch.texts}  # fmt: skip
    assert texts <= told and texts - own
    few = world.other_reports.groupby("study")["Reports"].agg(set)
    texts = {text for batch in draw_batches(world, small(pairing="unpaired", sentences=2))
             for text in batch.texts}  # fmt: skip
    assert any(texts <= few[a] | few[b] for a in few.index for b in few.index)


def test_shuffled_labels_are_another_images_and_the_truth_stays(world):
    shares = {}
    for share in (0.0, 0.5, 1.0):
        [batch] = draw_batches(world, small(shuffled=share, steps=1, batch_size=30))
        counts = Counter(map(tuple, batch.image_labels.tolist()))
        assert counts == Counter(map(tuple, batch.true_labels.tolist()))  # only their places
        shares[share] = (batch.image_labels != batch.true_labels).any(1).float().mean().item()
    assert shares[0] == 0 < shares[0.5] < shares[1] and shares[0.5] <= 0.5


def test_batches_that_are_more_alike_have_more_false_negatives(world):
    rates = [false_negative_rate(draw_batches(world, small(alike=a, steps=20))) for a in (0, 0.5)]
    assert rates[1] > rates[0]
    [batch] = draw_batches(world, small(steps=1))
    images, texts = batch.true_labels.numpy(), batch.text_labels.numpy()
    shared = [float(images[i] @ texts[j]) > 0 for i in range(8) for j in range(8) if i != j]
    assert false_negative_rate([batch]) == pytest.approx(np.mean(shared))
    for batch in draw_batches(world, small(alike=0.5, steps=5)):
        assert len(set(batch.images)) == 8
        assert batch.true_labels.sum(0).max() >= 3  # of some finding four are there, or all


def test_each_arm_has_the_loss_of_its_name(world):
    [batch] = draw_batches(world, small(steps=1))
    logits = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    similarity = losses.label_similarity(batch.image_labels, batch.text_labels)
    alike = (similarity > 0) | torch.eye(8).bool()
    expected = [
        losses.info_nce_loss(logits),
        losses.info_nce_loss(logits),
        losses.info_nce_loss(logits, similarity > 0),
        multi_positive_info_nce_loss(logits, alike),
        losses.semantic_matching_loss(logits, similarity),
        losses.semantic_matching_loss(logits, similarity, 0.3),
    ]
    found = [contrastive_loss(logits, batch, small(arm, temperature=0.3)) for arm in ARMS[:-1]]
    torch.testing.assert_close(found, expected)
    assert len({round(value.item(), 5) for value in found}) == 5


def test_multi_positive_info_nce_by_hand():
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    positives = torch.tensor([[True, True, False], [False, True, False]])
    first = math.log(math.exp(2) + 2) - (2 + 0) / 2  # the mean over both right answers
    second = math.log(math.e + 2) - 1
    columns = [math.log(math.exp(2) + 1) - 2, math.log(1 + math.e) - (0 + 1) / 2, 0]
    expected = ((first + second) / 2 + sum(columns) / 3) / 2
    found = multi_positive_info_nce_loss(logits, positives).item()
    assert found == pytest.approx(expected)


def test_multi_positive_info_nce_with_one_right_answer_each_is_info_nce():
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    found = multi_positive_info_nce_loss(logits, torch.eye(6).bool())
    torch.testing.assert_close(found, losses.info_nce_loss(logits))
    for loss in (multi_positive_info_nce_loss, losses.info_nce_loss):
        with pytest.raises(ValueError, match=r"has shape \(6, 5\), expected \(6, 6\)"):
            loss(logits, torch.ones(6, 5, dtype=torch.bool))


@pytest.mark.slow
def test_every_arm_runs_and_does_not_depend_on_the_processes(world):
    settings = [small(arm) for arm in ARMS]
    table = run_settings(world, settings, processes=1)
    assert table["arm"].tolist() == list(ARMS) and (table["split"] == "test").all()
    assert table[["accuracy", "auroc", "false_negatives"]].notna().all(axis=None)
    two = run_settings(world, [settings[3]], processes=2)
    pd.testing.assert_frame_equal(two, table[3:4].reset_index(drop=True))


def test_measured_as_the_classifier_scores(world):
    model = train_once(world, small())
    found = measure(world, model)
    images, truth = world.held_out["test"]
    with torch.no_grad():
        outputs = PromptClassifier(model, ensemble=True)(images, world.prompt_inputs)
    scores = outputs["logits"].numpy()
    areas = [metrics.roc_auc_score(truth == k, scores[:, k]) for k in range(5)]
    expected = {"accuracy": (scores.argmax(1) == truth).mean(), "auroc": np.mean(areas)}
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"arm": "none"}, "unknown arm 'none'"), ({"pairing": "both"}, "pairing is 'both'")],
)
def test_an_unknown_word_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Setting(**{"arm": ARMS[0]} | wrong)


def rows_of(settings, split, accuracy) -> pd.DataFrame:
    rows = [{"split": split, **asdict(s), "accuracy": accuracy(s), "auroc": 0.5} for s in settings]
    return pd.DataFrame(rows)


def test_each_arm_is_tuned_on_as_many_candidates_and_by_validation_alone():
    candidates = tuning_settings()
    per_arm = Counter(s.arm for s in candidates)
    assert set(per_arm) == set(ARMS) and len(set(per_arm.values())) == 1
    assert not set(TUNING_SEEDS) & set(SEEDS)
    valid = rows_of(candidates, "validation", lambda s: s.learning_rate + s.temperature)
    # the test says the opposite, and is not asked
    tested = rows_of(candidates, "test", lambda s: 9 - s.learning_rate)
    both = pd.concat([tested, valid])
    assert tuned(both, "InfoNCE").learning_rate == 8e-3
    chosen = tuned(both, SEMANTIC_ARM, seed=3, shuffled=0.1)
    assert (chosen.learning_rate, chosen.temperature) == (4e-3, 0.3)
    assert (chosen.seed, chosen.shuffled) == (3, 0.1)
    with pytest.raises(ValueError, match="no run of 'supervision' on validation"):
        tuned(tested, "supervision")
    settings = comparison_settings(both)
    assert {s.seed for s in settings} == set(SEEDS)
    assert {(s.learning_rate, s.temperature) for s in settings if s.arm == SEMANTIC_ARM} == {
        (4e-3, 0.3)
    }  # chosen once, kept for all


def test_differences_are_taken_seed_by_seed():
    first = pd.DataFrame({"seed": range(5), PRIMARY: [0.1, 0.5, 0.9, 0.3, 0.7]})
    second = first.assign(**{PRIMARY: first[PRIMARY] + [0.1, 0.2, 0.1, 0.2, 0.1]})
    found = paired_differences(first, {"b": second.sample(frac=1, random_state=0)}).loc["b"]
    scale = np.std([0.1, 0.2, 0.1, 0.2, 0.1], ddof=1) / 5**0.5
    low, high = stats.t.interval(0.95, 4, loc=0.14, scale=scale)
    assert found.tolist() == pytest.approx([0.14, low, high])
    with pytest.raises(ValueError, match="b: expected a row for each of the seeds"):
        paired_differences(first, {"b": second[1:]})
    alone = with_intervals({"one": first[:1]}).loc["one"]
    assert alone["value"] == 0.1 and np.isnan(alone["low"])


def test_the_result_that_ships_is_whole():
    """Every run that the comparison asks for, with the settings that validation chose."""
    results = read_results()
    assert not results.duplicated(["split", *FIELDS]).any()
    assert results["drawings"].nunique() == 1
    for split, settings in (
        ("validation", tuning_settings()),
        ("test", comparison_settings(results)),
    ):
        rows = results.loc[results["split"] == split, FIELDS].to_dict("records")
        assert {Setting(**row) for row in rows} == set(settings)
    assert results[["accuracy", "false_negatives"]].stack().between(0, 1).all()
    assert len(select(results, arm="InfoNCE")) == len(SEEDS)
    shuffled, honest = select(results, shuffled=1.0), select(results, arm=SEMANTIC_ARM)
    assert shuffled["accuracy"].mean() < 0.35 < honest["accuracy"].mean()
