"""The losses in miniature: the same numbers each time, measured as anything else is."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics

from medclip_helpers import PromptClassifier
from medclip_helpers.constants import CHEXPERT_COMPETITION
from medclip_helpers.experiments import ARMS, SEMANTIC_ARM, Setting, World, run_settings, summarize
from medclip_helpers.experiments.loss_comparison import measure, plot_arms, train_once, tune


@pytest.fixture(scope="module")
def world() -> World:
    return World(12, held_out=10, seed=1)


def small(arm: str, **settings) -> Setting:
    return Setting(arm, **{"samples": 10, "steps": 2, "batch_size": 4} | settings)


def test_a_world_is_what_its_seed_says(world):
    again = World(12, held_out=10, seed=1)
    assert again.images.equal(world.images) and again.studies.equals(world.studies)
    assert not World(12, held_out=10, seed=2).images.equal(world.images)
    assert world.images.shape == (12, 1, 64, 64)
    for images, truth in world.held_out.values():
        assert images.shape == (10, 1, 64, 64) and truth.tolist() == [*range(5)] * 2
    seen = {images.numpy().tobytes() for images, _ in world.held_out.values()}
    assert len(seen) == 2


def test_unpaired_texts_are_of_other_people(world):
    own = {sentence for report in world.studies["report"] for sentence in report}
    rows = np.arange(12)
    rng = np.random.default_rng(0)
    paired = world.texts(small(SEMANTIC_ARM), rows)
    assert all(paired.sample_text(i, rng)[0] in world.studies["report"][i] for i in range(12))
    unpaired = world.texts(small("semantic matching, unpaired"), rows[:3])
    told = set(world.other_reports[world.other_reports["study"] < 3]["Reports"])
    assert {unpaired.sample_text(i % 3, rng)[0] for i in range(30)} <= told
    assert told - own


@pytest.mark.slow
def test_every_arm_runs_and_does_not_depend_on_the_processes(world):
    settings = [small(arm) for arm in ARMS]
    table = run_settings(world, settings, processes=1)
    assert table["arm"].tolist() == list(ARMS)
    assert table[["accuracy", "auroc"]].notna().all(axis=None)
    assert table["one_prompt"].isna().tolist() == [arm == "supervision" for arm in ARMS]
    two = run_settings(world, [settings[3]], processes=2)
    pd.testing.assert_frame_equal(two, table[3:4].reset_index(drop=True))
    shown = summarize(table, ["arm"], ["accuracy"])
    assert shown["accuracy"].str.contains("±").all()
    figure = plot_arms(table, note="drawn")
    assert len(figure.axes[0].containers) == len(ARMS)
    with pytest.raises(ValueError, match="unknown arm 'none'"):
        train_once(world, small("none"))


def test_measured_as_the_classifier_scores(world):
    model = train_once(world, small(SEMANTIC_ARM))
    found = measure(world, model)
    images, truth = world.held_out["test"]
    with torch.no_grad():
        outputs = PromptClassifier(model, ensemble=True)(images, world.prompt_inputs)
    scores = outputs["logits"].numpy()
    areas = [metrics.roc_auc_score(truth == k, scores[:, k]) for k in range(5)]
    single = [
        np.stack([outputs["prompt_logits"][name][:, i] for name in CHEXPERT_COMPETITION], axis=1)
        for i in range(10)
    ]
    expected = {
        "accuracy": (scores.argmax(1) == truth).mean(),
        "auroc": np.mean(areas),
        "one_prompt": np.mean([answer.argmax(1) == truth for answer in single]),
        "confidence": outputs["logits"].softmax(1).amax(1).mean().item(),
    }
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_the_rate_is_chosen_on_the_validation_phantoms(world):
    rates = tune(world, [small(SEMANTIC_ARM)], [1e-3, 3e-3])
    assert rates[SEMANTIC_ARM] in (1e-3, 3e-3)
