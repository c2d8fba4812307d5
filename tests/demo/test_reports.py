"""The written reports: labels that are true, wording that is held out, prompts that are new."""

import os
import random
import re
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
from openi_reports import ROOT, needs_openi, openi_reports
from transformers import AutoTokenizer

from medclip_helpers.constants import CHEXPERT_LABELS
from medclip_helpers.demo import Finding, sample_findings, sentence_table, write_report
from medclip_helpers.demo.reports import (
    HELD_OUT_NORMAL,
    NORMAL,
    NOUNS,
    PLAIN,
    STATE_VALUES,
    write_sentence,
)
from medclip_helpers.experiments.vocabulary import build_tokenizer, vocabulary
from medclip_helpers.prompts import generate_class_prompts, prompt_grammars


@pytest.fixture(scope="module")
def table():
    return sentence_table(20000, seed=0)


@pytest.fixture(scope="module")
def training_texts(table):
    """Both ways to training sentences: the table, and the reports that the demo learns from."""
    reports = (write_report(sample_findings(seed), seed) for seed in range(4000))
    return set(table.Reports) | {sentence.text for report in reports for sentence in report}


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


SIGNS = {
    "present": r"^(?!.*\b(?:no|not|without|neither|negative|free of|possible|cannot|may)\b)",
    "absent": r"\b(?:no|not|without|neither|negative|resolved|free of)\b",
    "uncertain": r"possible|cannot|questionable|suspected|may |equivocal",
}


@pytest.mark.parametrize(("state", "value"), STATE_VALUES.items())
def test_words_say_what_labels_say(state, value):
    some = sentence_table(2000, seed=1, states=[state])
    labels = some[list(CHEXPERT_LABELS)].to_numpy()
    assert set(labels[~np.isnan(labels)]) == {value}
    assert (~np.isnan(labels)).sum(1).min() == 1
    # whole sentences such as "the heart is normal in size" have words of their own
    plain = {text for states in PLAIN.values() for text in states.get(state, [])}
    framed = some.Reports[~some.Reports.isin(plain)]
    assert len(framed) > 1000
    assert framed.str.contains(SIGNS[state]).all()


def test_labels_name_the_findings_of_the_words(table):
    """Each finding that a framed sentence is labelled with has a noun phrase in it."""
    columns = table[list(CHEXPERT_LABELS)]
    plain = {text for states in PLAIN.values() for some in states.values() for text in some}
    for text, labels in zip(table.Reports[:3000], columns.to_numpy(), strict=False):
        for name in np.array(CHEXPERT_LABELS)[~np.isnan(labels)]:
            assert text in plain or any(noun in text for noun in NOUNS[name])


def test_two_present_findings_in_one_sentence():
    some = sentence_table(4000, seed=2, states=["present"])
    present = (some[list(CHEXPERT_LABELS)] == 1).sum(axis=1)
    assert set(present) == {1, 2}
    assert 0.09 < (present == 2).mean() < 0.16
    # such sentences are no prompts
    prompts = generate_class_prompts(some, list(NOUNS), n=None)
    assert not set(some.Reports[present == 2]) & {p for ps in prompts.values() for p in ps}


def test_a_second_denied_finding_is_labelled():
    both = sentence_table(4000, seed=2, states=["absent"])
    both = both[both.Reports.str.contains(" or | nor ")]
    assert len(both) > 100
    assert ((both[list(CHEXPERT_LABELS)] == 0).sum(axis=1) == 2).all()


@pytest.mark.parametrize(
    ("severity", "side", "unfit"),
    [
        (0.9, "left", r"\bright|bilateral|both|each|small|mild|slight|subtle"),
        (0.2, "right", r"\bleft|bilateral|both|each|large|marked|severe|extensive"),
        (0.6, "both", r"\bright|\bleft|small|mild|large|severe"),
    ],
)
def test_words_of_side_and_degree_fit(severity, side, unfit):
    rng = random.Random(0)
    texts = [
        write_sentence("Pleural Effusion", "present", rng, severity, side).text for _ in range(300)
    ]
    assert not [text for text in texts if re.search(unfit, text)]
    assert len(set(texts)) > 100


def test_held_out_phrases_are_never_mixed_in(table, training_texts):
    held = held_out_nouns()
    pattern = "|".join(rf"\b{re.escape(noun)}\b" for noun in sorted(held))
    assert not [text for text in training_texts if re.search(pattern, text)]
    other = sentence_table(2000, seed=0, held_out=True)
    assert other.Reports.str.contains(pattern).all()
    normal = write_report({}, seed=0, held_out=True)
    assert {s.text for s in normal if not re.search(pattern, s.text)} <= set(HELD_OUT_NORMAL)
    assert not set(HELD_OUT_NORMAL) & training_texts
    assert not set(other.Reports) & training_texts


def test_prompts_share_no_whole_phrase_with_training_sentences(training_texts):
    """A phrase, as the module defines it, has three words or more."""
    prompts = {
        " ".join(filter(None, words))
        for grammar in prompt_grammars().values()
        for places in grammar.values()
        for words in product(*places)
    }
    parts = {
        part
        for grammar in prompt_grammars().values()
        for places in grammar.values()
        for place in places
        for part in place
    }
    ours = training_texts | {noun for nouns in NOUNS.values() for noun in nouns} | set(NORMAL)
    ours |= {text for states in PLAIN.values() for some in states.values() for text in some}
    assert not phrases_within(prompts | parts, training_texts)
    assert not phrases_within(ours - held_out_nouns(), prompts)


def phrases_within(phrases, texts):
    """Those of three words or more that occur, as whole words, in any of the texts."""
    joined = "\n".join(f" {text} " for text in texts)
    return [p for p in phrases if len(p.split()) >= 3 and f" {p} " in joined]


def test_a_shared_phrase_would_be_found():
    assert phrases_within({"large left effusion"}, {"there is large left effusion today"})
    assert not phrases_within({"large left effusion"}, {"large left effusions"})


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
    [
        (("Flu", "present"), "unknown finding 'Flu'"),
        (("Edema", "maybe"), "unknown state 'maybe'"),
        (("Edema", "present", 0.0), r"severity of Edema is 0.0, expected a number in \(0, 1\]"),
        (("Edema", "present", 0.5, "top"), "side of Edema is 'top', expected one of"),
    ],
)
def test_bad_arguments(arguments, expected):
    finding, state, *rest = arguments
    with pytest.raises(ValueError, match=expected):
        write_sentence(finding, state, random.Random(0), *rest)


def test_unknown_states_of_a_table():
    with pytest.raises(ValueError, match=r"states are \['maybe'\]"):
        sentence_table(1, states=["maybe"])


def test_vocabulary_keeps_words_whole():
    pieces = vocabulary()
    assert len(pieces) == len(set(pieces)) < 3000
    tokenizer = build_tokenizer()
    phrases = [
        phrase
        for grammar in prompt_grammars().values()
        for places in grammar.values()
        for place in places
        for phrase in place
    ]
    for text in phrases + HELD_OUT_NORMAL + sentence_table(2000).Reports.to_list():
        assert len(tokenizer.tokenize(text)) == len(re.findall(r"\w+|[^\w\s]", text)), text
    assert tokenizer.tokenize("Pneumothoraces") == ["pneumothoraces"]
    assert tokenizer.unk_token not in tokenizer.tokenize("Zygapophyseal 3.5 cm?")


def test_vocabulary_is_the_same_from_another_process_and_after_saving(tmp_path):
    """Set order varies with the process; word pieces must not."""
    code = "from medclip_helpers.experiments.vocabulary import *; print(*vocabulary())"
    for hash_seed in "12":
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
        assert told.stdout.decode().split() == vocabulary()
    tokenizer = build_tokenizer()
    assert tokenizer.get_vocab() == {piece: i for i, piece in enumerate(vocabulary())}
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    texts = ["Small LEFT pleural effusion.", "unknownword"]
    assert again(texts)["input_ids"] == tokenizer(texts)["input_ids"]


@needs_openi
def test_vocabulary_keeps_words_of_real_reports_whole():
    """Nineteen in twenty words of the Open-i reports are one piece; "XXXX" stands for a name."""
    words = [w for w in re.findall(r"[a-z]+", " ".join(openi_reports()).lower()) if set(w) != {"x"}]
    known = set(vocabulary())
    assert sum(word in known for word in words) / len(words) > 0.95
