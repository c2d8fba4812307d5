"""The pointing game counts as it says."""

import numpy as np
import pytest

from medclip_helpers.demo import draw_phantom
from medclip_helpers.evaluation import pointing_game, pointing_hits
from medclip_helpers.similarity import encode_texts, similarity_map


def test_pointing_counts_cells_on_and_next_to_the_lesion():
    masks = np.zeros((1, 70, 70), bool)
    masks[0, 30:40, 30:50] = True  # cells (3, 3) and (3, 4)
    maps = np.zeros((49, 7, 7))
    maps.reshape(49, 49)[np.arange(49), np.arange(49)] = 1  # every cell once
    masks = np.repeat(masks, 49, axis=0)
    hits, chance = pointing_hits(maps, masks)
    expected = np.zeros((7, 7), bool)
    expected[2:5, 2:6] = True
    np.testing.assert_array_equal(hits.reshape(7, 7), expected)
    np.testing.assert_allclose(chance, 12 / 49)
    hits, chance = pointing_hits(maps, masks, reach=0)
    assert np.flatnonzero(hits).tolist() == [24, 25]
    np.testing.assert_allclose(chance, 2 / 49)


def test_pointing_needs_a_lesion_and_matching_shapes():
    with pytest.raises(ValueError, match=r"masks\[1\] is empty"):
        pointing_hits(np.zeros((2, 7, 7)), [np.ones((9, 9)), np.zeros((9, 9))])
    with pytest.raises(ValueError, match=r"\(1, 7, 7\) and masks \(2, 9, 9\)"):
        pointing_hits(np.zeros((1, 7, 7)), np.ones((2, 9, 9)))


def test_pointing_game_on_phantoms(small_model, standin_processor):
    model, processor = small_model, standin_processor
    texts = {"Cardiomegaly": "the heart is enlarged .", "Pleural Effusion": "effusion on left"}
    table = pointing_game(model, processor, texts, count=3, seed=5)
    assert table["finding"].tolist() == list(texts) and table["phantoms"].tolist() == [3, 3]
    drawn = [draw_phantom(seed, {"Cardiomegaly": 0.8}) for seed in (5, 6, 7)]
    pixel_values = processor(images=[p.image for p in drawn])["pixel_values"]
    text_embeds = encode_texts(model, processor, texts["Cardiomegaly"])
    maps = similarity_map(model, pixel_values, text_embeds)[:, 0]
    hits, chance = pointing_hits(maps, [p.masks["Cardiomegaly"] for p in drawn])
    assert table["accuracy"][0] == pytest.approx(hits.mean())
    assert table["chance"][0] == pytest.approx(chance.mean()) and 0 < chance.mean() < 1
    hits, chance = pointing_hits(maps, [p.masks["Cardiomegaly"] for p in drawn], reach=0)
    assert table["strict_accuracy"][0] == pytest.approx(hits.mean())
    assert table["strict_chance"][0] == pytest.approx(chance.mean())
    again = pointing_game(model, processor, texts, count=3, seed=5)
    assert again.equals(table)
