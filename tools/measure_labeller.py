"""Precision, recall and F1 of the sentence labeller on the Open-i reports.

    python tools/measure_labeller.py ../shared/openi/NLMCXR_reports.tgz [--engine medspacy]

A report counts as positive for an observation if one of its sentences is labelled present or
uncertain; the truth is the experts' MeSH/major headings. The terms were written while reading
reports with odd numbers only; the even ones are the test. `--engine medspacy`
uses medspaCy's ConText instead of negspaCy's NegEx, with the same terms.
"""

from __future__ import annotations

import argparse
import sys
import tarfile
import time
import xml.etree.ElementTree as ET
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_fscore_support

from medclip_helpers.data import (
    ABSENT,
    LABELS,
    UNCERTAIN,
    SentenceLabeller,
    combine_labels,
    split_report,
)
from medclip_helpers.data.labeller import labeller_words

# CheXpert's Edema includes vascular congestion, its Cardiomegaly an enlarged cardiac shadow.
HEADINGS = {
    "Cardiomegaly": ("Cardiomegaly", "Cardiac Shadow/enlarged", "Cardiac Shadow/borderline"),
    "Pleural Effusion": ("Pleural Effusion", "Hydropneumothorax", "Hemothorax"),
    "Atelectasis": ("Pulmonary Atelectasis",),
    "Edema": ("Pulmonary Edema", "Pulmonary Congestion"),
    "Consolidation": ("Consolidation",),
    "Pneumothorax": ("Pneumothorax", "Hydropneumothorax", "Hemopneumothorax"),
}


class MedspacyLabeller(SentenceLabeller):
    """The same terms with medspaCy's ConText instead of NegEx; the nearest qualifier counts."""

    def _add_context(self) -> None:
        from medspacy.context import ConText, ConTextRule

        self._context = ConText(self._nlp)
        directions = {
            "preceding": "FORWARD",
            "following": "BACKWARD",
            "pseudo": "PSEUDO",
            "ends": "TERMINATE",
        }
        for category, name in (
            ("NEGATED_EXISTENCE", "denial"),
            ("POSSIBLE_EXISTENCE", "doubt"),
            ("HISTORICAL", "past"),
        ):
            for place, terms in labeller_words()[name].items():
                rules = [ConTextRule(t, category, direction=directions[place]) for t in terms]
                self._context.add(rules)

    def _states(self, doc) -> list[float | None]:
        self._context(doc)
        states = {"NEGATED_EXISTENCE": ABSENT, "POSSIBLE_EXISTENCE": UNCERTAIN}

        def distance(modifier, mention) -> int:
            start, end = modifier.modifier_span
            return max(start - mention.end, mention.start - end)

        nearest = [
            min(ent._.modifiers, key=lambda m, ent=ent: distance(m, ent), default=None)
            for ent in doc.ents
        ]
        return [states.get(m.category, np.nan) if m else None for m in nearest]


def read_reports(archive: Path) -> pd.DataFrame:
    """number, text (findings and impression) and headings (MeSH/major) of each report.

    ValueError if there is none.
    """
    rows = []
    with tarfile.open(archive) as files:
        for member in files:
            if not member.name.endswith(".xml"):
                continue
            study = ET.parse(files.extractfile(member)).getroot()
            parts = {a.get("Label"): (a.text or "").strip() for a in study.iter("AbstractText")}
            text = ". ".join(filter(None, (parts.get("FINDINGS"), parts.get("IMPRESSION"))))
            headings = [(major.text or "").strip() for major in study.iter("major")]
            rows.append({"number": int(Path(member.name).stem), "text": text, "headings": headings})
    if not rows:
        raise ValueError("no report in it: expected .xml files")
    return pd.DataFrame(rows).sort_values("number", ignore_index=True)


def label_reports(reports: pd.DataFrame, labeller) -> np.ndarray:
    """(reports, 14), from all sentences of each."""
    cache: dict[str, np.ndarray] = {}
    rows = []
    for text in reports["text"]:
        split = split_report(text, shortest=1)
        cache.update((s, labeller(s)) for s in split if s not in cache)
        rows.append(combine_labels(np.stack([cache[s] for s in split])))
    return np.stack(rows)


def score(reports: pd.DataFrame, labels: np.ndarray, states: list[float]) -> pd.DataFrame:
    rows = {}
    for label, starts in HEADINGS.items():
        truth = [any(heading.startswith(starts) for heading in row) for row in reports["headings"]]
        predicted = np.isin(labels[:, LABELS.index(label)], states)
        p, r, f1, _ = precision_recall_fscore_support(
            truth, predicted, average="binary", zero_division=0
        )
        rows[label] = {"reports": sum(truth), "precision": p, "recall": r, "F1": f1}
    table = pd.DataFrame(rows).T
    table.loc["mean"] = table.mean()
    return table.round(2).astype({"reports": int})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("--engine", choices=["negspacy", "medspacy"], default="negspacy")
    arguments = parser.parse_args()
    try:
        reports = read_reports(arguments.archive)
    except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError, ET.ParseError) as error:
        reason = " ".join(str(error).split())  # tarfile's have several lines
        print(f"{arguments.archive}: {reason}", file=sys.stderr)
        return 2
    reports = reports[reports["text"].map(lambda text: bool(split_report(text, 1)))]
    reports = reports.reset_index(drop=True)
    engines = {"negspacy": SentenceLabeller, "medspacy": MedspacyLabeller}
    labeller = engines[arguments.engine]()
    start = time.perf_counter()
    labels = label_reports(reports, labeller)
    seconds = time.perf_counter() - start
    print(f"{arguments.engine}: {len(reports)} reports in {seconds:.0f} s")
    odd = reports["number"] % 2 == 1
    parts = (("odd numbers (terms written on these)", odd), ("even numbers", ~odd))
    for name, part in parts:
        name = f"{part.sum()} reports with {name}"
        for states in ([1.0, -1.0], [1.0]):
            what = "present or uncertain" if len(states) == 2 else "present"
            print(f"\n{name}, {what}:")
            print(score(reports[part], labels[part.to_numpy()], states).to_string())
    return 0


if __name__ == "__main__":
    sys.exit(main())
