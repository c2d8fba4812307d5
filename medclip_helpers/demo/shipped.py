"""The checkpoint that ships with the package, and what its training settled."""

from __future__ import annotations

from pathlib import Path

CHECKPOINT_FOLDER = Path(__file__).parent / "checkpoint"
IMAGE_SIZE = 112  # pixels a side of its images
# Labels that follow from others, and that no sentence mentions: with them, an image of edema would
# be less similar to a sentence about edema than an image of an effusion to one about an effusion.
DERIVED_LABELS = ("Lung Opacity", "Enlarged Cardiomediastinum")
