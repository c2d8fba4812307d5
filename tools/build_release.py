"""Build what people get without the repository: one notebook that carries the package, and a wheel.

    python tools/build_release.py              writes dist/medclip_colab.ipynb and dist/*.whl

The notebook is the whole tour, assembled from the numbered notebooks: one parameters cell, a setup
cell that installs the wheel inside the notebook, then a section for each of 00 to 05, pretraining
as comments. In Colab: File, Upload notebook, medclip_colab.ipynb.
"""

from __future__ import annotations

import argparse
import base64
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import tour
from format_notebooks import ROOT, TOUR, assembled, repository_address, sections, to_text

# The package is text in a cell of its own, folded away, because an uploaded notebook cannot read
# its own file. Lines of 4,000 characters: editors choke on one line of megabytes.
PAYLOAD = '''\
#@title The helper package, packed: nothing to read here
wheel = """
{lines}
"""'''

SETUP = """\
#@title Setup: installs the package from the cell above, unless it already imports
try:
    import medclip_helpers
except ModuleNotFoundError:
    import base64, importlib, pathlib, subprocess, sys, tempfile

    file = pathlib.Path(tempfile.mkdtemp()) / "{wheel}"
    file.write_bytes(base64.b64decode(wheel))
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", str(file)], check=True)
    # what Colab lacks; without network the demo model does without
    if subprocess.run([*pip, "medclip_helpers"]).returncode:
        print("Some packages could not be installed: weights cannot be downloaded.")
    importlib.invalidate_caches()
    import medclip_helpers"""


def build_wheel(folder: Path) -> Path:
    """Build the wheel into `folder` and return its path."""
    with tempfile.TemporaryDirectory() as place:
        # From a copy: setuptools takes along what an earlier build left beside the sources
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, place)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "medclip_helpers", Path(place, "medclip_helpers"), ignore=ignored)
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
        # This environment's setuptools, so that no network is needed. The fixed date makes equal
        # sources equal wheels.
        command += ["--no-build-isolation", "--wheel-dir", str(folder), place]
        subprocess.run(command, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": "1767225600"})
    (wheel,) = folder.glob("medclip_helpers-*.whl")
    return wheel


def assemble(wheel: Path, notebooks: Path = ROOT / "notebooks") -> dict:
    """The tour, carrying `wheel`, as a notebook dictionary."""
    text = base64.b64encode(wheel.read_bytes()).decode()
    lines = "\n".join(text[i : i + 4000] for i in range(0, len(text), 4000))
    setup = [
        tour.new("code", PAYLOAD.format(lines=lines), cellView="form"),
        tour.new("code", SETUP.format(wheel=wheel.name), tags=["setup"], cellView="form"),
    ]
    title = f"{tour.TITLE}\n\n{tour.CARRIES}\n\n{tour.ABOUT}"
    return assembled(tour.cells(sections(notebooks, repository_address()), title, setup), "GPU")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="default: dist")
    folder = parser.parse_args(arguments).output
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("medclip_helpers-*.whl"):
        old.unlink()
    wheel = build_wheel(folder)
    notebook = folder / TOUR
    notebook.write_text(to_text(assemble(wheel)), encoding="utf-8")
    for path in (wheel, notebook):
        sys.stdout.write(f"{path}: {path.stat().st_size / 1e6:.1f} MB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
