"""The written reports: labels that are true, wording that is held out, prompts that are new."""

import random
import re

import numpy as np
import pytest
from openi_reports import needs_openi, openi_reports

from medclip_helpers.constants import CHEXPERT_LABELS
from medclip_helpers.demo.phantoms import Finding, sample_findings
from medclip_helpers.demo.reports import (
    NOUNS,
    sentence_table,
    write_report,
    write_sentence,
)
from medclip_helpers.demo.vocabulary import build_tokenizer, vocabulary
from medclip_helpers.prompts import CHEXPERT_GRAMMAR, PRESETS, generate_chexpert_class_prompts


@pytest.fixture(scope="module")
def table():
    return sentence_table(20000, seed=0)


def held_out_nouns():
    return {noun for nouns in NOUNS.values() for noun in nouns[3::4]}


def test_thousands_of_distinct_sentences_the_same_each_time(table):
    assert table.Reports.nunique() > 5000
    assert list(table.columns) == ["Reports", *CHEXPERT_LABELS]
    assert table.equals(sentence_table(20000, seed=0))
    assert not table.equals(sentence_table(20000, seed=1))


def test_global_randomness_is_left_alone():
    random.seed(3)
    state = random.getstate()
    sentence_table(10, seed=0)
    write_report({"Edema": Finding(0.5, "both")}, seed=0)
    assert random.getstate() == state


@pytest.mark.parametrize(
    ("state", "value", "sign"),
    [
        ("present", 1, None),
        ("absent", 0, r"^no |^neither|^without|not seen|negative|resolved|free of|there is no "),
        ("uncertain", -1, r"possibl|cannot|questionable|suspected|may |equivocal"),
    ],
)
def test_states(state, value, sign):
    some = sentence_table(2000, seed=1, states=[state])
    labels = some[list(CHEXPERT_LABELS)].to_numpy()
    assert np.isin(labels[~np.isnan(labels)], value).all()
    assert (~np.isnan(labels)).sum(1).min() >= 1
    signed = some.Reports.str.contains(sign) if sign else ~some.Reports.str.contains(r"^no |cannot")
    assert (
        signed.mean() > 0.85
    )  # the rest are whole sentences such as "the heart is normal in size"


def test_a_second_denied_finding_is_labelled():
    both = sentence_table(4000, seed=2, states=["absent"])
    both = both[both.Reports.str.contains(" or | nor ")]
    assert len(both) > 100
    assert ((both[list(CHEXPERT_LABELS)] == 0).sum(axis=1) == 2).all()


def test_words_of_side_and_degree_fit():
    rng = random.Random(0)
    for _ in range(300):
        text = write_sentence("Pleural Effusion", "present", rng, 0.9, "left").text
        assert not re.search(r"\bright|bilateral|both|small|mild|slight", text)


def test_held_out_phrases_are_never_mixed_in(table):
    held = held_out_nouns()
    pattern = "|".join(rf"\b{re.escape(noun)}\b" for noun in sorted(held))
    assert not table.Reports.str.contains(pattern).any()
    other = sentence_table(2000, seed=0, held_out=True)
    assert other.Reports.str.contains(pattern).all()


def test_prompts_share_no_whole_phrase_with_training_sentences(table):
    """A phrase: a whole prompt, or a part of the prompts' grammar of three words or more."""
    text = "\n".join(f" {t} " for t in table.Reports.unique())
    prompts = [p for ps in generate_chexpert_class_prompts().values() for p in ps]
    parts = [part for places in CHEXPERT_GRAMMAR.values() for place in places for part in place]
    phrases = prompts + [part for part in parts if len(part.split()) >= 3]
    assert not [phrase for phrase in phrases if f" {phrase} " in text]


def test_reports_never_deny_what_is_there():
    for seed in range(400):
        findings = sample_findings(seed)
        sentences = write_report(findings, seed)
        assert sentences
        for sentence in sentences:
            for name in findings:
                assert sentence.labels[CHEXPERT_LABELS.index(name)] != 0
        said = {
            n for s in sentences for n, v in zip(CHEXPERT_LABELS, s.labels, strict=True) if v == 1
        }
        assert said <= set(findings) | {"No Finding"}
        assert ("No Finding" in said) == (not set(findings) - {"Support Devices"})


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(("Flu", "present"), "unknown finding 'Flu'"), (("Edema", "maybe"), "unknown state 'maybe'")],
)
def test_bad_arguments(arguments, expected):
    with pytest.raises(ValueError, match=expected):
        write_sentence(*arguments, random.Random(0))


def test_unknown_states_of_a_table():
    with pytest.raises(ValueError, match=r"states are \['maybe'\]"):
        sentence_table(1, states=["maybe"])


def test_vocabulary_keeps_words_whole():
    pieces = vocabulary()
    assert len(pieces) == len(set(pieces)) < 3000
    tokenizer = build_tokenizer()
    for grammar in PRESETS.values():
        for places in grammar.values():
            for phrase in (phrase for place in places for phrase in place):
                assert len(tokenizer.tokenize(phrase)) == len(re.findall(r"\w+|[^\w\s]", phrase))
    assert tokenizer.tokenize("pneumothoraces") == ["pneumothoraces"]
    assert tokenizer.unk_token not in tokenizer.tokenize("Zygapophyseal 3.5 cm?")


@needs_openi
def test_vocabulary_keeps_words_of_real_reports_whole():
    """At least nine of ten words in the Open-i reports are one piece."""
    words = re.findall(r"[a-z]+", " ".join(openi_reports()).lower())
    known = set(vocabulary())
    assert sum(word in known for word in words) / len(words) > 0.9
