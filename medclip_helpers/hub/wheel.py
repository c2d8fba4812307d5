"""The published package's wheel: its tables are read from it, and nothing in it is run.

The phrases of its prompts are their authors' work and stay there; whoever asks for them fetches the
wheel from the package index that their own pip uses.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from .download import DownloadError
from .files import whole_file
from .published import cache_folder
from .records import sha256

WHEEL = "MedCLIP-0.0.3-py3-none-any.whl"
WHEEL_SHA256 = "e9e6c7ba64880c5397b727054a9115eb24dba852530211774cdc7fa930c170a8"


def published_constants() -> dict[str, Any]:
    """What medclip 0.0.3 assigns in `medclip/constants.py`, by name.

    The wheel is fetched by pip once, and kept in `cache_folder()`. Its constants are parsed as
    literals; names that are assigned anything else are left out.

    Raises DownloadError where pip finds no index, ValueError for a wheel of another SHA-256.
    """
    wheel = cache_folder() / WHEEL
    if not wheel.is_file():
        _fetch(wheel)
    if (found := sha256(wheel)) != WHEEL_SHA256:
        raise ValueError(
            f"{wheel} has SHA-256 {found}, expected {WHEEL_SHA256} (medclip 0.0.3); delete it to "
            "fetch it again"
        )
    with zipfile.ZipFile(wheel) as zipped:
        tree = ast.parse(zipped.read("medclip/constants.py"))
    constants = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                constants[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:  # no literal
                continue
    return constants


def _fetch(wheel: Path) -> None:
    """Download the wheel with pip, whatever it holds."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    with tempfile.TemporaryDirectory() as folder:
        fetch = [*pip, "--no-deps", "--only-binary=:all:", "--dest", folder, "medclip==0.0.3"]
        done = subprocess.run(fetch, capture_output=True, text=True)
        files = list(Path(folder).glob("*.whl"))
        if done.returncode or not files:
            said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise DownloadError(
                "the authors' phrases are in the wheel of medclip 0.0.3, which pip could not fetch "
                f"(it said: {said}); a package index is needed once. Prompts without 'authors:' "
                "are our own and need none"
            )
        wheel.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(wheel) as target:
            shutil.copyfile(files[0], target)
