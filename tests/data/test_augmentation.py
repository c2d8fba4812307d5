"""Augmentation must not change what a sentence or an image says."""

import pickle
import random
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from openi_reports import needs_openi, openi_reports
from PIL import Image

from medclip_helpers.data import TextAugmentation, augmentation, image_augmentation, split_report
from medclip_helpers.data.augmentation import protected_words
from medclip_helpers.radiographs import to_square

pytestmark = pytest.mark.filterwarnings("ignore:NLTK's WordNet")


@pytest.fixture(scope="module")
def augment():
    pytest.importorskip("textaugment", reason="textaugment is not installed")
    return TextAugmentation()


def protected_in(sentence):
    return [w for w in sentence.split() if not w.isalpha() or w.lower() in protected_words()]


def test_the_words_that_carry_the_label_are_protected():
    must = "no without not left right bilateral possible cannot effusion pneumothorax normal"
    assert set(must.split()) <= protected_words()
    assert not {"mild", "again", "small", "streak"} & protected_words()


@needs_openi
def test_negations_sides_and_findings_stay_in_all_real_sentences(augment):
    """All distinct Open-i sentences: protected words unchanged, in place relative to each other,
    and no word beyond them invented, moved across them or wholly lost."""
    sentences = list(dict.fromkeys(s for report in openi_reports() for s in split_report(report)))
    assert len(sentences) > 7000
    changed = 0
    for number, sentence in enumerate(sentences):
        augmented = augment(sentence, np.random.default_rng(number))
        changed += augmented != sentence
        assert protected_in(augmented) == protected_in(sentence)
        if not augmentation._has_wordnet():
            assert not Counter(augmented.split()) - Counter(sentence.split())
        before, after = (augmentation._runs(s.split()) for s in (sentence, augmented))
        assert [free for free, _ in before] == [free for free, _ in after]
    assert changed > len(sentences) / 3


@needs_openi
def test_labels_stay_what_they_were(augment):
    """What the labeller reads from a sentence it reads from the augmented one, in all reports.

    It may read more: its terms bridge six words at most, and a deletion can bring two together.
    """
    pytest.importorskip("negspacy", reason="negspaCy, an optional extra, is not installed")
    from medclip_helpers.data import SentenceLabeller

    labeller = SentenceLabeller()
    compared, wrong = 0, []
    for report in openi_reports():
        for number, sentence in enumerate(split_report(report)):
            augmented = augment(sentence, np.random.default_rng(number))
            if augmented != sentence:
                before, after = labeller(sentence), labeller(augmented)
                compared += 1
                if not (np.isnan(before) | (before == after)).all():
                    wrong.append((sentence, augmented))
    assert compared > 3000
    assert not wrong, wrong[:5]


def test_each_operation_happens(augment):
    text = "small hazy streak of gas overlying soft tissue"
    results = {augment(text, np.random.default_rng(seed)) for seed in range(300)}
    words = Counter(text.split())
    assert any(Counter(r.split()) == words and r != text for r in results)  # swap
    assert any(len(r.split()) < sum(words.values()) for r in results)  # deletion


def test_a_sentence_without_free_words_is_left_alone(augment):
    for text in ("no pneumothorax", "no", ""):
        assert {augment(text, np.random.default_rng(k)) for k in range(20)} == {text}


def test_synonyms_replace_free_words_only(augment, monkeypatch):
    module, eda = augmentation._eda()
    monkeypatch.setattr(augmentation, "_has_wordnet", lambda: True)
    monkeypatch.setattr(module.EDA, "_get_synonyms", staticmethod(lambda word: [f"{word}ish"]))
    text = "no small left hazy pneumothorax"
    results = {augment(text, np.random.default_rng(seed)) for seed in range(100)}
    assert results == {
        text,
        "no smallish left hazy pneumothorax",
        "no small left hazyish pneumothorax",
    }


def test_augmentation_is_a_function_of_its_generator_and_leaves_the_global_one(augment):
    state = random.getstate()
    text = "small hazy streak of gas overlying soft tissue"
    first = [augment(text, np.random.default_rng(k)) for k in range(20)]
    assert random.getstate() == state
    assert first == [augment(text, np.random.default_rng(k)) for k in range(20)]
    assert random.getstate() == state
    assert pickle.loads(pickle.dumps(augment)).deletion == augment.deletion


def test_missing_wordnet_is_said_once(augment, monkeypatch):
    import nltk.corpus

    class Missing:
        def synsets(self, word):
            raise LookupError

    monkeypatch.setattr(nltk.corpus, "wordnet", Missing())
    augmentation._has_wordnet.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for seed in range(5):
            augment("small hazy streak", np.random.default_rng(seed))
    augmentation._has_wordnet.cache_clear()
    assert len(caught) == 1 and "swap and deletion only" in str(caught[0].message)


@pytest.fixture(scope="module")
def image():
    """White on the left half, and not square."""
    pixels = np.zeros((60, 40), np.uint8)
    pixels[:, :20] = 255
    return Image.fromarray(pixels)


def test_image_augmentation_varies_and_keeps_left_left(image):
    transform = image_augmentation(size=28)
    torch.manual_seed(0)
    results = [np.asarray(transform(image), float) for _ in range(40)]
    assert {result.shape for result in results} == {(28, 28)}
    assert len({result.tobytes() for result in results}) == 40
    assert all(result[:, :14].sum() > result[:, 14:].sum() for result in results)


def test_flip_is_there_for_those_who_ask(image):
    transform = image_augmentation(size=28, flip=True)
    torch.manual_seed(0)
    left = [np.asarray(transform(image), float) for _ in range(40)]
    flipped = sum(result[:, :14].sum() < result[:, 14:].sum() for result in left)
    assert 8 < flipped < 32


def test_padding_is_black_and_centred(image):
    square = np.asarray(to_square(image))
    assert square.shape == (60, 60)
    assert square[:, :10].max() == square[:, -10:].max() == 0
    assert square[:, 10:30].min() == 255


def test_transforms_can_be_sent_to_workers():
    assert pickle.loads(pickle.dumps(image_augmentation(size=28)))
