"""Retrieval: by hand, honest about ties, texts of the same words merged."""

import numpy as np
import pytest

from medclip_helpers import evaluation as ev
from medclip_helpers.similarity import encode_texts


def test_precision_at_k_by_hand():
    texts = np.eye(4)
    classes = ["x", "y", "x", "y"]
    images = np.array([[0.9, 0.1, 0.5, 0], [0.9, 0.1, 0.5, 0]])
    table = ev.precision_at_k(images, texts, ["x", "y"], classes, ks=(1, 2, 4), resamples=10)
    # image 0 sees x, x, y, y and image 1 the same order
    assert table.set_index("metric")["value"].to_dict() == {"P@1": 0.5, "P@2": 0.5, "P@4": 0.5}
    first = ev.precision_at_k(images[:1], texts, ["x"], classes, ks=(1, 2, 3), resamples=10)
    assert first["value"].tolist() == pytest.approx([1, 1, 2 / 3])


def test_a_constant_retrieves_nothing():
    images, texts = np.ones((6, 2)), np.ones((10, 2))
    words = [f"text {i}" for i in range(10)]
    found = ev.precision_at_k(images, texts, [0] * 6, [0] * 5 + [1] * 5, ks=(1, 5), resamples=5)
    assert found["value"].tolist() == [0, 0]
    found = ev.recall_at_k(images, texts, words[:6], words, ks=(1, 5), resamples=5)
    assert found["value"].tolist()[:2] == [0, 0]


def test_recall_merges_texts_of_the_same_words():
    texts = ["normal", "normal", "effusion"]
    embeds = np.array([[1, 0], [1, 0], [0, 1.0]])
    images = np.array([[1, 0.1], [1, 0.2], [0.1, 1]])
    table = ev.recall_at_k(images, embeds, texts, texts, ks=(1,), resamples=5)
    assert table["value"].tolist() == [1, 1]  # R@1 and median rank
    two = ["normal", "clear", "effusion"]
    apart = ev.recall_at_k(images, embeds, two, two, ks=(1,), resamples=5)
    assert apart["value"].tolist()[0] == pytest.approx(1 / 3)


def test_retrieval_errors():
    with pytest.raises(ValueError, match=r"ks are \[5\], expected 1 to the 2 texts"):
        ev.precision_at_k(np.eye(2), np.eye(2), [0, 1], [0, 1], ks=(5,))
    with pytest.raises(ValueError, match="not among texts"):
        ev.recall_at_k(np.eye(2), np.eye(2), ["a", "z"], ["a", "b"])
    with pytest.raises(ValueError, match="one for each embedding"):
        ev.precision_at_k(np.eye(2), np.eye(2), [0, 1, 1], [0, 1], ks=(1,))


def test_retrieval_of_the_own_text_from_encoded_texts(small_model, standin_processor):
    """Embeddings of `similarity` are what it takes: a text finds itself."""
    texts = ["edema", "effusion", "cardiac silhouette is enlarged"]
    embeds = encode_texts(small_model, standin_processor, texts)
    found = ev.recall_at_k(embeds, embeds, texts, texts, ks=(1,), resamples=10)
    assert found["value"][0] == 1


def test_equal_texts_are_equal_whatever_the_last_digit():
    rng = np.random.default_rng(0)
    for _ in range(20):
        text = rng.normal(size=(1, 512)).astype(np.float32)
        image = rng.normal(size=(1, 512)).astype(np.float32)
        text, image = text / np.linalg.norm(text), image / np.linalg.norm(image)
        texts = np.repeat(text, 5, axis=0) * (1 + 1e-7 * np.arange(5)[:, None])
        found = ev.precision_at_k(image, texts, ["a"], [*"abbbb"], ks=(1,))
        assert found["value"].tolist() == [0]


def test_classes_of_two_kinds_and_no_images_are_refused():
    with pytest.raises(ValueError, match="no class of an image is among those of the texts"):
        ev.precision_at_k(np.eye(2), np.eye(2), ["Edema", "Fracture"], [0, 1], ks=(1,))
    with pytest.raises(ValueError, match="image_embeds is empty"):
        ev.precision_at_k(np.zeros((0, 2)), np.eye(2), [], [0, 1], ks=(1,))
