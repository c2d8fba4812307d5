"""Build what people get without the repository: one notebook that carries the package, and a wheel.

    python tools/build_release.py              writes dist/medclip_colab.ipynb and dist/*.whl

The notebook is the whole tour, assembled from the numbered notebooks: one parameters cell, a setup
cell that installs the wheel inside the notebook, then a section for each notebook. Pretraining is
there as comments. In Colab: File, Upload notebook, medclip_colab.ipynb.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from format_notebooks import ROOT, assembled, canonical, repository_address, tags, to_text

from medclip_helpers.runs import known_parameters

SECTIONS = (
    "00_setup",
    "01_pretrained_model",
    "02_prompt_classification",
    "03_semantic_loss",
    "04_similarity_explorer",
    "05_pretraining",
)
COMMENTED = ("05_pretraining",)

TITLE = """# MedCLIP, the whole tour

The helper package travels inside this notebook: upload this one file to Colab (or open it in
Jupyter), choose Run all, and see MedCLIP load, classify radiographs by prompt, explain its loss
and show its similarities. Pretraining stands at the end as comments. With the demo model it runs
in a few minutes on a CPU; a GPU helps with the published weights.

**Research use only.** The demo model was trained on drawings, and what it says about a radiograph
means nothing. Images that you load stay on the machine that runs this notebook."""

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

OPENING = """\
from medclip_helpers.runs import check_parameters, environment_report

check_parameters(In)
print(environment_report())
parameters = {{name: globals()[name] for name in {names}}}"""

SECTION = """\
globals().update(parameters)  # the form's values, whatever a section made of them
output_dir = f"{{output_dir or 'runs'}}/{stem}\""""

ONCE = ("check_parameters(In)", "print(environment_report())")


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
    repository = repository_address()
    sources = {}
    for stem in SECTIONS:
        path = notebooks / f"{stem}.ipynb"
        notebook = json.loads(path.read_text(encoding="utf-8"))
        sources[stem] = canonical(notebook, path.name, repository)["cells"]
    form = merged_form({stem: sources[stem] for stem in SECTIONS if stem not in COMMENTED})
    names = tuple(known_parameters(form))
    text = base64.b64encode(wheel.read_bytes()).decode()
    lines = "\n".join(text[i : i + 4000] for i in range(0, len(text), 4000))
    cells = [
        _new("markdown", TITLE),
        _new("code", form, tags=["parameters"]),
        _new("code", PAYLOAD.format(lines=lines), cellView="form"),
        _new("code", SETUP.format(wheel=wheel.name), tags=["setup"]),
        _new("code", OPENING.format(names=names)),
    ]
    for stem, section in sources.items():
        cells += _section(stem, section, names)
    return assembled(cells, "GPU")


def merged_form(sources: dict[str, list[dict]]) -> str:
    """One parameters cell for all, each parameter as the first notebook that has it says.

    The setup notebook, which only shows the demo model, comes last.

    Raises ValueError where two notebooks give one name different types.
    """
    lines, known = ["#@title Parameters"], {}
    for stem, cells in [*list(sources.items())[1:], *list(sources.items())[:1]]:
        source = next("".join(c["source"]) for c in cells if "parameters" in tags(c))
        for name, parameter in known_parameters(source).items():
            if known.setdefault(name, parameter).type is not parameter.type:
                raise ValueError(f"{stem}: {parameter}, but another notebook has {known[name]}")
        lines += [line for line in _form_lines(source) if line not in lines]
    names, merged = set(), []
    for line in lines:
        name = line.partition("=")[0].strip()
        if name not in names:
            merged.append(line)
        names.add(name)
    return "\n".join(merged)


def _form_lines(source: str) -> list[str]:
    return [line for line in source.splitlines() if "#@param" in line]


def _section(stem: str, cells: list[dict], names: tuple[str, ...]) -> list[dict]:
    commented = stem in COMMENTED
    made = []
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            made.append(_new("markdown", _demoted(source)))
        elif "parameters" in tags(cell):
            start = SECTION.format(stem=stem)
            if commented:
                own = [line for line in _form_lines(source) if line.split(" ")[0] not in names]
                start = "\n".join([start, *own])
            made.append(_new("code", start))
        elif "setup" not in tags(cell):
            kept = [line for line in source.splitlines() if line not in ONCE]
            made.append(_new("code", "\n".join(kept).strip()))
    for cell in made:
        if commented and cell["cell_type"] == "code":
            lines = cell["source"].splitlines()
            cell["source"] = "\n".join(f"# {line}".rstrip() for line in lines)
    return made


def _demoted(source: str) -> str:
    lines = [line for line in source.splitlines() if "colab-badge.svg" not in line]
    text = re.sub(r"^#", "##", "\n".join(lines), flags=re.MULTILINE)
    # the other notebooks are sections here
    text = re.sub(r"\[([^]]+)\]\(\d\d_\w+\.ipynb\)", r"\1", text)
    return re.sub(r"\n{3,}", "\n\n", text)


def _new(kind: str, source: str, **metadata) -> dict:
    cell = {"cell_type": kind, "metadata": metadata, "source": source}
    return cell | ({"outputs": [], "execution_count": None} if kind == "code" else {})


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="default: dist")
    folder = parser.parse_args(arguments).output
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("medclip_helpers-*.whl"):
        old.unlink()
    wheel = build_wheel(folder)
    notebook = folder / "medclip_colab.ipynb"
    notebook.write_text(to_text(assemble(wheel)), encoding="utf-8")
    for path in (wheel, notebook):
        sys.stdout.write(f"{path}: {path.stat().st_size / 1e6:.1f} MB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
