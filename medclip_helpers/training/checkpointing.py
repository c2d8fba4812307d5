"""Checkpoints of a training run on disk, written atomically.

A checkpoint is written into a scratch folder, flushed to the disk, and renamed. It carries a list
of its files and their sizes, so that one that lost files later (a network drive that went away
during an upload, an interrupted deletion) is told from a complete one as well.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from pathlib import Path

from ..hub import whole_file

logger = logging.getLogger(__name__)

CHECKPOINT = re.compile(r"checkpoint-(\d+)")
SCRATCH = ".partial"  # never matches CHECKPOINT
FILE_LIST = "files.json"
# Prefixes of the names of files in a checkpoint that only a resumed run needs.
TRAINER_STATE = ("optimizer", "scheduler", "scaler", "rng_state", "trainer_state", FILE_LIST)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def seal(folder: Path) -> None:
    """Write the list of a checkpoint's files and flush all of them to the disk."""
    sizes = {file.name: file.stat().st_size for file in folder.iterdir()}
    (folder / FILE_LIST).write_text(json.dumps(sizes, indent=2) + "\n")
    for file in folder.iterdir():
        _sync(file)


def is_complete(folder: Path) -> bool:
    """Whether every file of a sealed checkpoint is there in its full size."""
    try:
        sizes = json.loads((folder / FILE_LIST).read_text())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def publish(folder: Path, run: Path) -> None:
    """Seal a checkpoint and move it into the run's folder in one step."""
    seal(folder)
    place = run / folder.name
    if place.exists():  # incomplete, or a run would have resumed from it
        shutil.rmtree(place)
    os.replace(folder, place)
    if os.name != "nt":  # Windows cannot open a folder
        _sync(run)


def checkpoints(run: Path) -> dict[int, Path]:
    """{step: folder} of the complete checkpoints, by step."""
    found = {}
    for path in run.glob("checkpoint-*"):
        match = CHECKPOINT.fullmatch(path.name)
        if match and is_complete(path):
            found[int(match[1])] = path
        elif match:
            logger.warning("skipping %s: it is incomplete", path)
    return dict(sorted(found.items()))


def rotate(run: Path, keep_last: int, best_step: int | None) -> None:
    """Delete all complete checkpoints except the last few and the best.

    Not the Trainer's `save_total_limit`, which counts incomplete folders as checkpoints too.
    """
    found = checkpoints(run)
    keep = {*list(found)[-keep_last:], best_step}
    for step, path in found.items():
        if step not in keep:
            shutil.rmtree(path, ignore_errors=True)


def clear_scratch(run: Path) -> None:
    """Delete what was being written into the run's folder and never got its name."""
    shutil.rmtree(run / SCRATCH, ignore_errors=True)
    for part in run.glob(".*.part"):  # of `whole_file`
        part.unlink(missing_ok=True)


def copy_model(checkpoint: Path, run: Path) -> None:
    """Copy what is not the Trainer's to the run's folder, each file atomically."""
    for file in checkpoint.iterdir():
        if not file.name.startswith(TRAINER_STATE):
            with whole_file(run / file.name) as part:
                shutil.copyfile(file, part)
                _sync(part)
