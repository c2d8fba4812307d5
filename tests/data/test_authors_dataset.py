"""The authors' choice of sentences, beside the published package's from the same numbers."""

import hashlib
import json

import inputs
import numpy as np
import pytest
from openi_reports import ARCHIVE, openi_reports
from PIL import Image
from standin import PARITY

from medclip_helpers.data import LABELS, AuthorsDataset, split_report
from medclip_helpers.data.sentences import authors_sentences

RECORDED = json.loads((PARITY / "protocol.json").read_text())  # by tools/record_published.py


class Fed:
    """In place of a generator: the numbers that tools/record_published.py fed."""

    def __init__(self):
        stream = inputs.Stream()
        self.integers, self.permutation = stream.integers, stream.permutation


def hashed(found) -> str:
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def test_sentences_dictionary_is_the_published_one():
    table = authors_sentences(inputs.sentence_table())
    labels = table[LABELS].astype(float).to_numpy().tolist()
    known = dict(zip(table["Reports"], labels, strict=True))
    assert len(known) == RECORDED["pretraining"]["sentences"]
    assert hashed(known) == RECORDED["pretraining"]["dictionary"]


def test_a_thousand_training_items_are_the_published_ones():
    rows = inputs.studies().assign(imgpath="one.png")
    data = AuthorsDataset(rows, inputs.sentence_table(), first_character=True)
    fed = Fed()
    data._pools = 0, data.draw_bank(fed)
    items = []
    for i, row in enumerate(rows[LABELS].to_numpy(float).tolist()):
        text, labels = data.sample_text(i, fed)
        items.append([text, row, labels.astype(float).tolist()])
    assert hashed(items) == RECORDED["pretraining"]["items"]


def test_authors_dataset_repeats_no_mistake_unasked():
    rows = inputs.studies().assign(imgpath=[Image.new("L", (8, 8))] * inputs.ITEMS)
    unlabelled = next(i for i in range(inputs.ITEMS) if i % 5 == 0 and i % 4)
    mistaken, data = (
        AuthorsDataset(rows, inputs.sentence_table(), first_character=wrong)
        for wrong in (True, False)
    )
    assert len(mistaken[unlabelled]["text"]) == 1 < len(data[unlabelled]["text"])
    assert data[unlabelled]["text_labels"][0] == 1
    banks = [data.draw_bank(np.random.default_rng((0, epoch))) for epoch in (0, 1)]
    assert not np.array_equal(*banks)  # drawn anew
    without = inputs.sentence_table().assign(**{"No Finding": 0})
    with pytest.raises(ValueError, match="none of .* sentences has No Finding"):
        AuthorsDataset(rows, without)


def test_reports_are_cut_as_by_the_published_code():
    def cut(reports):
        found = [split_report(report) for report in reports]
        return {"count": sum(map(len, found)), "sha256": hashed(found)}

    assert cut(inputs.studies()["report"]) == RECORDED["sentences"]
    if ARCHIVE.is_file():
        assert cut(openi_reports()) == RECORDED["openi"]
