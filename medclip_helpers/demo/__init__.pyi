from .phantoms import (
    PHANTOM_FINDINGS,
    Finding,
    Phantom,
    draw_phantom,
    draw_phantoms,
    sample_findings,
    sample_people,
)
from .reports import Sentence, report_phrases, sentence_table, write_report
from .shipped import CHECKPOINT_FOLDER, DERIVED_LABELS, IMAGE_SIZE

__all__ = [
    "CHECKPOINT_FOLDER",
    "DERIVED_LABELS",
    "Finding",
    "IMAGE_SIZE",
    "PHANTOM_FINDINGS",
    "Phantom",
    "Sentence",
    "draw_phantom",
    "draw_phantoms",
    "report_phrases",
    "sample_findings",
    "sample_people",
    "sentence_table",
    "write_report",
]
