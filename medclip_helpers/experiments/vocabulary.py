"""The demo model's word pieces: whole words of radiology and letters for the rest."""

from __future__ import annotations

import re
import string
from pathlib import Path

from transformers import BertTokenizer

from ..demo import report_phrases
from ..hub import read_settings
from ..prompts import prompt_grammars

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def vocabulary() -> list[str]:
    """All word pieces, in the order of their numbers; the same list every time.

    Those of vocabulary.yaml, and every word of the demo's reports and of the prompts.
    """
    lists = read_settings(Path(__file__).with_name("vocabulary.yaml"))
    endings, beginnings, words = (lists[n].split() for n in ("endings", "beginnings", "words"))
    prompts = [
        phrase
        for grammar in prompt_grammars().values()
        for places in grammar.values()
        for place in places
        for phrase in place
    ]
    spoken = re.findall(r"[a-z]+", " ".join(report_phrases() + prompts).lower())
    letters = [*string.ascii_lowercase, *string.digits]
    pieces = [*SPECIAL, *string.punctuation, *letters, *(f"##{c}" for c in letters)]
    pieces += [*(f"##{ending}" for ending in endings), *beginnings, *words, *spoken]
    return list(dict.fromkeys(pieces))  # without repeats, first place kept


def build_tokenizer() -> BertTokenizer:
    """A lower-casing tokenizer with `vocabulary()`."""
    return BertTokenizer({piece: i for i, piece in enumerate(vocabulary())}, do_lower_case=True)
