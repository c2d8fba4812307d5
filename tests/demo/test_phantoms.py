"""The drawn chests: what is said to be there is there, where it is said to be."""

import numpy as np
import pytest

from medclip_helpers.constants import CHEXPERT_COMPETITION, CHEXPERT_LABELS
from medclip_helpers.demo import (
    PHANTOM_FINDINGS,
    Finding,
    draw_phantom,
    draw_phantoms,
    sample_findings,
)
from medclip_helpers.demo.anatomy import Anatomy, canvas_of

PLACED = [name for name in PHANTOM_FINDINGS if name not in ("Cardiomegaly",)]


def label(phantom, name: str) -> float:
    return phantom.labels[CHEXPERT_LABELS.index(name)]


def test_same_arguments_same_picture_and_no_global_randomness():
    before = np.random.get_state()[1].copy()
    first = draw_phantom(5, {"Edema": 0.5})
    assert np.array_equal(first.image, draw_phantom(5, {"Edema": 0.5}).image)
    assert np.array_equal(np.random.get_state()[1], before)
    assert not np.array_equal(first.image, draw_phantom(6, {"Edema": 0.5}).image)
    assert first.image.dtype == np.uint8 and first.image.shape == (224, 224)


@pytest.mark.parametrize("size", [64, 112, 512])
def test_size_changes_the_resolution_not_the_picture(size):
    image = draw_phantom(1, size=size).image
    assert image.shape == (size, size)
    coarse = [x.reshape(8, len(x) // 8, 8, -1).mean((1, 3)) for x in (image, draw_phantom(1).image)]
    assert np.abs(coarse[0] - coarse[1]).max() < 25


@pytest.mark.parametrize("name", PHANTOM_FINDINGS)
@pytest.mark.parametrize("severity", [0.3, 1.0])
def test_a_finding_changes_the_picture_inside_its_mask(name, severity):
    for seed in range(4):
        plain, drawn = draw_phantom(seed), draw_phantom(seed, {name: severity})
        mask = drawn.masks[name]
        assert mask.shape == drawn.image.shape and mask.dtype == bool
        assert 0.0003 < mask.mean() < 0.45
        change = np.abs(drawn.image.astype(int) - plain.image)
        assert change[mask].mean() > 2 * change[~mask].mean()


@pytest.mark.parametrize("name", PLACED)
def test_left_of_the_patient_is_right_of_the_picture(name):
    if name == "Support Devices":
        pytest.skip("tubes and leads lie in the middle")
    for seed in range(4):
        columns = {
            side: draw_phantom(seed, {name: Finding(0.7, side)}).masks[name].nonzero()[1].mean()
            for side in ("left", "right")
        }
        assert columns["right"] < 112 < columns["left"]


def test_cardiothoracic_ratio_is_over_one_half_exactly_in_cardiomegaly():
    def ratio(seed: int, enlarged: float | None) -> float:
        chest = Anatomy(np.random.default_rng([seed, 0]), canvas_of(224), 0.5, enlarged, {})
        columns = (chest.heart > 0.5).any(0).nonzero()[0]
        return (columns[-1] - columns[0] + 1) / 224 / (2 * chest.wall.max())

    assert all(ratio(seed, None) < 0.5 for seed in range(30))
    assert all(0.5 < ratio(seed, severity) for seed in range(10) for severity in (0.02, 0.5, 1.0))
    assert ratio(0, 1.0) > ratio(0, 0.1) + 0.08


def test_labels():
    normal = draw_phantom(0)
    assert label(normal, "No Finding") == 1 and label(normal, "Edema") == 0
    assert np.isnan(label(normal, "Fracture")) and np.isnan(label(normal, "Pneumonia"))
    mixed = draw_phantom(0, {"Edema": 0.5, "Cardiomegaly": 0.4})
    assert label(mixed, "No Finding") == 0
    assert label(mixed, "Lung Opacity") == label(mixed, "Enlarged Cardiomediastinum") == 1
    assert label(mixed, "Pleural Effusion") == 0
    assert set(mixed.masks) == set(mixed.findings) == {"Edema", "Cardiomegaly"}
    assert label(draw_phantom(0, {"Support Devices": 0.5}), "No Finding") == 1


def test_exclusive_phantoms_have_one_competition_finding_in_turn():
    for i, phantom in enumerate(draw_phantoms(10, seed=2, exclusive=True, size=64)):
        assert list(phantom.findings) == [CHEXPERT_COMPETITION[i % 5]]
    assert draw_phantoms(1, seed=2, size=64)[0].image.shape == (64, 64)


def test_mixed_findings_look_like_a_hospital():
    drawn = [sample_findings(seed) for seed in range(600)]
    sick = [len(set(d) - {"Support Devices"}) for d in drawn]
    assert 0.25 < np.mean(np.equal(sick, 0)) < 0.42
    assert max(sick) == 3
    assert {name for d in drawn for name in d} == set(PHANTOM_FINDINGS)


def test_difficulty_brings_borderline_cases():
    easy, hard = (
        np.mean([sample_findings(s, "Edema", d)["Edema"].severity for s in range(200)])
        for d in (0.0, 1.0)
    )
    assert easy > hard + 0.1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"findings": {"Edama": 0.5}}, "unknown finding 'Edama'"),
        ({"findings": {"Edema": 0.0}}, "severity of Edema is 0.0"),
        ({"findings": {"Edema": 1.5}}, r"expected a number in \(0, 1\]"),
        ({"findings": {"Edema": Finding(0.5, "up")}}, "side of Edema is 'up'"),
        ({"size": 8}, "size is 8"),
        ({"difficulty": 2}, "difficulty is 2"),
    ],
)
def test_bad_arguments_are_named(arguments, expected):
    with pytest.raises(ValueError, match=expected):
        draw_phantom(0, **arguments)


def test_unknown_exclusive_finding():
    with pytest.raises(ValueError, match="unknown finding 'Flu'"):
        sample_findings(0, "Flu")
