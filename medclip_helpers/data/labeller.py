"""CheXpert labels for report sentences that have none: a term list and negspaCy's NegEx.

The words that name a finding are in labeller.yaml; whether a mention is negated, uncertain or
affirmed is decided by NegEx (Chapman et al. 2001), as negspaCy implements it, once what it would
misread ("cannot exclude") has been rewritten. An optional extra: `pip install negspacy`.

Measured on the 1,962 Open-i reports with even numbers (the terms were written on the odd ones)
against the experts' MeSH/major headings, by `tools/measure_labeller.py`; a report is positive where
a sentence is labelled present:

                      reports  precision  recall    F1
    Cardiomegaly          203       0.99    0.94  0.96
    Pleural Effusion       79       0.95    0.90  0.92
    Atelectasis           158       0.95    0.92  0.93
    Edema                  47       0.84    0.66  0.74
    Consolidation          16       0.94    0.94  0.94
    Pneumothorax           13       0.83    0.77  0.80
    mean                   86       0.92    0.85  0.88

medspaCy's ConText gave the same within the noise (mean F1 0.87, before there were rewrites) and
needs numpy 1 on Python 3.11.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from ..hub import read_settings
from .labels import ABSENT, LABELS, PRESENT, UNCERTAIN, combine_labels
from .sentences import normalize_sentence
from .tables import listed

_INSTALL = "labelling sentences needs negspaCy: pip install negspacy"
_OTHER = "other"  # the label, in labeller.yaml, of what only looks like a finding
_GAP = 6  # words that "..." may skip


@cache
def labeller_words() -> dict[str, dict[str, list[str]]]:
    """Terms and qualifiers from labeller.yaml, which explains them.

    {"rewrites": {new words: terms}}, {"present", "uncertain", "absent": {label: terms}}, {"denial",
    "doubt", "past", "contrast": {place: words}}.
    """
    return read_settings(Path(__file__).with_name("labeller.yaml"))


def _words(term: str) -> list[tuple[list[str], bool]]:
    """Each word of a term: what it may be, and whether it may be left out."""
    return [(word.rstrip("?").split("|"), word.endswith("?")) for word in term.split()]


@cache
def _rewrites() -> list[tuple[re.Pattern, str]]:
    def pattern(term: str) -> re.Pattern:
        words = (
            f"(?: (?:{'|'.join(map(re.escape, either))})){'?' if optional else ''}"
            for either, optional in _words(term)
        )
        return re.compile("".join(words) + "(?= )")

    rewrites = labeller_words()["rewrites"].items()
    return [(pattern(term), f" {new}".rstrip()) for new, terms in rewrites for term in terms]


def _rewritten(sentence: str) -> str:
    """The normal form of a sentence, with a full stop, and negations in words that NegEx knows."""
    text = f" {normalize_sentence(sentence).rstrip(' .')} . "
    for pattern, new in _rewrites():
        text = pattern.sub(new, text)
    return text.strip()


def _token_patterns(term: str) -> tuple[list[dict], list[dict]]:
    """A term's words before "..." with the gap, and those of the mention, as spaCy patterns."""

    def tokens(words: str) -> list[dict]:
        return [
            {"LOWER": {"IN": either}, **({"OP": "?"} if optional else {})}
            for either, optional in _words(words)
        ]

    before, gap, mention = term.rpartition(" ... ")
    return (tokens(before) + [{"OP": f"{{0,{_GAP}}}"}] if gap else []), tokens(mention)


class SentenceLabeller:
    """(sentence) -> labels (14,): 1 present, 0 absent, -1 uncertain, NaN not mentioned.

    Where a sentence says several things about one observation, present outweighs uncertain, which
    outweighs absent. What is past counts as not mentioned. No Finding is present where the
    sentence says so in general ("no acute disease") and nothing else is present or uncertain.

    Raises ImportError where negspaCy is not installed.
    """

    def __init__(self) -> None:
        try:
            import spacy
            from spacy.matcher import Matcher
        except ImportError as error:
            raise ImportError(_INSTALL) from error
        self._nlp = spacy.blank("en")
        self._matcher = Matcher(self._nlp.vocab)
        self._rules: dict[str, tuple[str, float, int]] = {}  # label, state, length of the lead
        for name, state in (("present", PRESENT), ("uncertain", UNCERTAIN), ("absent", ABSENT)):
            for label, terms in labeller_words()[name].items():
                for term in terms:
                    lead, mention = _token_patterns(term)
                    key = f"{label}: {state}: {term}"
                    self._rules[key] = (label, state, len(lead))
                    self._matcher.add(key, [lead + mention])
        self._add_context()

    def _add_context(self) -> None:
        try:
            from negspacy.negation import Negex
            from negspacy.termsets import termset
        except ImportError as error:
            raise ImportError(_INSTALL) from error
        clinical = termset("en_clinical").get_patterns()
        names = ("denial", "doubt", "past", "contrast")
        denial, doubt, past, contrast = (labeller_words()[name] for name in names)
        doubting = {word for words in doubt.values() for word in words}
        ends = [*clinical["termination"], *denial["ends"]]

        def negex(name: str, words: dict[str, list[str]], base: dict, ends: list[str]) -> Negex:
            terms = {
                f"{place}_negations": [
                    *(word for word in base.get(f"{place}_negations", []) if word not in doubting),
                    *words.get(place, []),
                ]
                for place in ("pseudo", "preceding", "following")
            }
            return Negex(self._nlp, name, {**terms, "termination": ends}, extension_name=name)

        # In order of precedence: the first that applies decides.
        self._qualifiers = {
            "denied": (ABSENT, negex("denied", denial, clinical, [*ends, *doubt["preceding"]])),
            "doubted": (UNCERTAIN, negex("doubted", doubt, {}, ends)),
            "past": (np.nan, negex("past", past, {}, ends)),
            "contrasted": (ABSENT, negex("contrasted", contrast, {}, ends)),
        }

    def _states(self, doc) -> list[float | None]:
        """The state that a qualifier gives each of `doc.ents`, if one does."""
        for _, negex in self._qualifiers.values():
            negex(doc)
        return [
            next((s for name, (s, _) in self._qualifiers.items() if ent._.get(name)), None)
            for ent in doc.ents
        ]

    def _mentions(self, doc) -> list[tuple[str, float, int, int]]:
        """(label, state by itself, start, end) of each mention, in tokens."""
        mentions = []
        found = self._matcher(doc, with_alignments=True)
        for key, start, end, alignment in found:  # type: ignore[misc]  # spaCy types three alone
            label, state, lead = self._rules[self._nlp.vocab.strings[key]]
            mentions.append((label, state, start + sum(i < lead for i in alignment), end))
        return mentions

    def __call__(self, sentence: str) -> np.ndarray:
        from spacy.tokens import Span
        from spacy.util import filter_spans

        doc = self._nlp.make_doc(_rewritten(sentence))
        for token in doc:
            token.is_sent_start = token.i == 0
        mentions = self._mentions(doc)
        doc.ents = filter_spans(
            [
                Span(doc, start, end, "finding")
                for label, state, start, end in mentions
                if state != ABSENT and label != "No Finding"
            ]
        )
        # A mention within another takes its state, so that "no pleural effusion" has no "effusion".
        entities = zip(doc.ents, self._states(doc), strict=True)
        state_at = {token.i: s for entity, s in entities if s is not None for token in entity}
        other = {end for label, _, _, end in mentions if label == _OTHER}
        mentions = [mention for mention in mentions if mention[-1] not in other]
        labels = np.full((len(mentions) + 1, len(LABELS)), np.nan, np.float32)
        for row, (label, state, _, end) in enumerate(mentions):
            labels[row, LABELS.index(label)] = state_at.get(end - 1, state)
        combined = combine_labels(labels)
        # CheXpert's rule for a study would call any sentence without a finding normal.
        if "No Finding" not in {mention[0] for mention in mentions}:
            combined[LABELS.index("No Finding")] = np.nan
        return combined


_labeller = cache(SentenceLabeller)


def label_sentences(sentences: str | Iterable[str], progress: bool = True) -> pd.DataFrame:
    """A sentence table, `Reports` and the 14 columns, for sentences without labels.

    Each distinct sentence is labelled once and has one row, in the order of first appearance.
    Raises ImportError where negspaCy is not installed, ValueError for what is not text.

    >>> label_sentences(["There is no pleural effusion"])["Pleural Effusion"][0]
    0.0
    """
    distinct = list(dict.fromkeys(listed(sentences, "sentences")))
    labeller = _labeller()
    rows = [labeller(s) for s in tqdm(distinct, desc="Labelling", disable=not progress)]
    labels = np.array(rows, np.float32).reshape(len(distinct), len(LABELS))
    reports = pd.Series(distinct, dtype=str)  # of strings even when empty
    return pd.DataFrame(labels, columns=LABELS).assign(Reports=reports)[["Reports", *LABELS]]
