"""Reports cut into sentences, and the labels that sentences bring to their studies."""

from __future__ import annotations

import re

import nltk
import numpy as np
import pandas as pd

from .labels import LABELS, combine_labels
from .tables import check_numbers, check_table


def normalize_sentence(sentence: str) -> str:
    """Lower case, words and punctuation separate, ASCII only: the form `split_report` gives."""
    if not isinstance(sentence, str):
        raise ValueError(f"sentence is {sentence!r:.99}, expected text")
    tokens = nltk.wordpunct_tokenize(sentence.replace("\ufffd\ufffd", " ").lower())
    ascii_tokens = (token.encode("ascii", "ignore").decode() for token in tokens)
    return " ".join(token for token in ascii_tokens if token)


def split_report(report: str | None, shortest: int = 5) -> list[str]:
    """Sentences of at least `shortest` tokens, split and written as by the published code.

    Breaks at ". " and at numbered items; a blank report (None, NaN) has none. Five tokens is the
    published minimum; 1 keeps "mild cardiomegaly .", which matters where a report is labelled.
    Source: medclip 0.0.3, `ImageTextContrastiveDataset._split_report_into_segment`.
    """
    check_numbers(shortest=shortest)
    if report is None or (pd.api.types.is_scalar(report) and pd.isna(report)):
        return []
    if not isinstance(report, str):
        raise ValueError(f"report is {report!r:.99}, expected a string or None")
    items = re.split(r"[0-9]+\.+[^0-9]", report.replace("\n", " "))
    sentences = [normalize_sentence(part) for item in items for part in item.split(". ")]
    return [sentence for sentence in sentences if len(sentence.split()) >= shortest]


def label_manifest(manifest: pd.DataFrame, sentences: pd.DataFrame) -> pd.DataFrame:
    """A copy in which rows with a report and without any label get their sentences' labels.

    sentences: labels by sentence (`Reports` and the 14 columns), as `label_sentences` returns; best
        for all sentences, including short ones (`split_report(report, shortest=1)`).
    A report none of whose sentences is in the table stays unlabelled.
    """
    check_table(manifest, ["report", *LABELS], "manifest")
    labels_of = labels_by_sentence(sentences)
    labels = manifest[LABELS].to_numpy(np.float32, copy=True)
    for row, report in zip(labels, manifest["report"], strict=True):
        if np.isnan(row).all():
            split = split_report(report, shortest=1)
            if known := [labels_of[s] for s in split if s in labels_of]:
                row[:] = combine_labels(np.stack(known))
    return manifest.assign(**dict(zip(LABELS, labels.T, strict=True)))


def authors_sentences(sentences: pd.DataFrame) -> pd.DataFrame:
    """The authors' sentence table: `Reports` as `split_report` gives it, labels of 1, 0 and -1.

    sentences: `Reports` and the 14 labels; what is blank is 0. Of repeats the first is kept;
    only texts of more than two characters that `split_report` turns into one sentence. Two of these
    may have become the same text: `dict(zip(...))` then takes the last, as in the published code.
    Source: medclip 0.0.3, `ImageTextContrastiveDataset._preprocess_sentence_label`.
    """
    check_table(sentences, ["Reports", *LABELS], "sentences")
    table = sentences[["Reports", *LABELS]].drop_duplicates("Reports")
    split = table["Reports"].map(split_report)
    single = (table["Reports"].str.len() > 2) & (split.str.len() == 1)
    return table.fillna(0)[single].assign(Reports=split[single].str[0]).reset_index(drop=True)


def labels_by_sentence(sentences: pd.DataFrame) -> dict[str, np.ndarray]:
    """{normalised sentence: labels (14,)} of a table with `Reports` and the 14 columns."""
    check_table(sentences, ["Reports", *LABELS], "sentences")
    labels = sentences[LABELS].to_numpy(np.float32)
    return dict(zip(map(normalize_sentence, sentences["Reports"]), labels, strict=True))
