"""Bring notebooks into canonical form, so that a diff shows what a person changed.

    python tools/format_notebooks.py              rewrite notebooks/*.ipynb
    python tools/format_notebooks.py --check      change nothing, fail where something would change
    python tools/format_notebooks.py --execute    run them on the demo model and store the outputs

What it does to each notebook:

- metadata: kernel and language are the same everywhere, `accelerator` stays, a cell keeps its tags;
  widget state, Colab's ids and everything else go. Cell ids follow from the cell's text.
- the Colab badge under the title and the cell tagged `setup` are written from one address, the
  `Repository` in pyproject.toml's project URLs; so are the badges in README.md.
- outputs are kept in cells tagged `nbval-check-output` only, with execution counts as in a run from
  top to bottom. Tag a cell where a reader on GitHub should see the output *and* its text is the
  same on every machine (nbval compares text and HTML, and leaves the pixels of a figure alone).
  Output to stderr is never kept.
"""

from __future__ import annotations

import argparse
import base64
import difflib
import hashlib
import io
import json
import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # this checkout's package, installed or not
KEPT = "nbval-check-output"
MIME_TYPES = ("text/plain", "text/html", "image/png")
UNSET = "https://github.com/OWNER/"

BADGE = (
    "[![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{project}/blob/main/notebooks/{name})"
)
BADGE_OF = re.compile(r"\[!\[Open In Colab\][^\n|]*?/notebooks/(?P<name>[\w.-]+\.ipynb)\)")

SETUP = """\
#@title Setup: does nothing where medclip_helpers already imports
try:
    import medclip_helpers
except ModuleNotFoundError:
    import importlib, os, subprocess, sys

    repository = "{repository}"
    repository = os.environ.get("MEDCLIP_REPOSITORY", repository)
    if repository.startswith("{unset}"):
        raise RuntimeError(
            "medclip_helpers is not installed, and this notebook does not know where its "
            "repository is. Say so in a cell above this one:\\n"
            "  import os\\n"
            "  os.environ['MEDCLIP_REPOSITORY'] = 'https://github.com/<owner>/<name>'\\n"
            "or upload dist/medclip_colab.ipynb instead, which carries the package inside."
        ) from None
    if not os.path.isdir("medclip-helpers"):
        clone = ["git", "clone", "--quiet", "--depth", "1", repository, "medclip-helpers"]
        subprocess.run(clone, check=True)
    install = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, "./medclip-helpers[notebooks]"], check=True)
    importlib.invalidate_caches()
    import medclip_helpers
"""


def repository_address(pyproject: Path = ROOT / "pyproject.toml") -> str:
    """`Repository` of the project URLs, without a slash or `.git` at its end."""
    # tomllib is new in Python 3.11, and this is one line of the file
    found = re.search(r'^Repository\s*=\s*"([^"]+)"', pyproject.read_text(), re.MULTILINE)
    if not found:
        raise ValueError(f"{pyproject} has no Repository under [project.urls]")
    return found[1].rstrip("/").removesuffix(".git")


def badge(repository: str, name: str) -> str:
    """The markdown that opens the notebook `name` in Colab."""
    project = "/".join(repository.split("/")[-2:])
    return BADGE.format(project=project, name=name)


def with_badges(text: str, repository: str) -> str:
    """The README's `text`, every Colab badge in it leading to `repository`."""
    return BADGE_OF.sub(lambda found: badge(repository, found["name"]), text)


def setup_source(repository: str) -> str:
    """The text of the setup cell."""
    return SETUP.format(repository=repository, unset=UNSET).rstrip()


def canonical(notebook: dict, name: str, repository: str) -> dict:
    """The notebook `name` in canonical form, as a new nbformat 4.5 dictionary."""
    cells = [_cell(cell) for cell in notebook["cells"]]
    cells = [cell for cell in cells if cell["source"] or "setup" in tags(cell)]
    _write_badge(cells, badge(repository, name))
    _write_setup(cells, setup_source(repository))
    return assembled(cells, notebook["metadata"].get("accelerator"))


def assembled(cells: list[dict], accelerator: str | None = None) -> dict:
    """A notebook of `cells` (source as one string), numbered and with ids from their text."""
    count, used = 0, set()
    for cell in cells:
        if cell["cell_type"] == "code":
            count += 1
            _number(cell, count)
        cell["id"] = _identity(cell, used)
        cell["source"] = cell["source"].splitlines(keepends=True)
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    if accelerator:
        metadata["accelerator"] = accelerator
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def tags(cell: dict) -> list[str]:
    """A cell's tags, sorted."""
    return sorted(cell["metadata"].get("tags", []))


def to_text(notebook: dict) -> str:
    """The notebook as the text of its file."""
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _cell(cell: dict) -> dict:
    source = "\n".join(line.rstrip() for line in _joined(cell["source"]).splitlines()).strip("\n")
    metadata = {"tags": tags(cell)} if tags(cell) else {}
    clean = {"cell_type": cell["cell_type"], "metadata": metadata, "source": source}
    if cell["cell_type"] == "code":
        kept = cell.get("outputs", []) if KEPT in tags(cell) else []
        clean |= {"outputs": _outputs(kept), "execution_count": None}
    return clean


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def _outputs(outputs: list[dict]) -> list[dict]:
    kept = []
    for output in outputs:
        kind = output["output_type"]
        if kind == "stream" and output["name"] == "stdout":
            if kept and kept[-1]["output_type"] == "stream":
                kept[-1]["text"] += _joined(output["text"])
            else:
                text = _joined(output["text"])
                kept.append({"output_type": kind, "name": "stdout", "text": text})
        elif kind in ("execute_result", "display_data"):
            data = {m: _joined(output["data"][m]) for m in MIME_TYPES if m in output["data"]}
            if data:
                kept.append({"output_type": kind, "data": data, "metadata": {}})
    return kept


def _number(cell: dict, count: int) -> None:
    for output in cell["outputs"]:
        if output["output_type"] == "execute_result":
            output["execution_count"] = count
        # a list of lines, as nbformat writes text; a picture stays one string
        if "text" in output:
            output["text"] = output["text"].splitlines(keepends=True)
        for mime in ("text/plain", "text/html"):
            if mime in output.get("data", {}):
                output["data"][mime] = output["data"][mime].splitlines(keepends=True)
        if "image/png" in output.get("data", {}):
            output["data"]["image/png"] = output["data"]["image/png"].strip()
    # nbval runs a marked cell without a count, but never compares it
    cell["execution_count"] = count if KEPT in tags(cell) else None


def _identity(cell: dict, used: set[str]) -> str:
    text, extra = f"{cell['cell_type']}\n{cell['source']}", 0
    while (found := hashlib.sha256(f"{text}{extra}".encode()).hexdigest()[:8]) in used:
        extra += 1
    used.add(found)
    return found


def _write_badge(cells: list[dict], line: str) -> None:
    if not cells or not cells[0]["source"].startswith("# "):
        raise ValueError("the first cell must be markdown and start with `# Title`")
    title, *rest = cells[0]["source"].splitlines()
    text = "\n".join(row for row in rest if "colab-badge.svg" not in row).strip("\n")
    cells[0]["source"] = f"{title}\n\n{line}\n\n{text}".rstrip()


def _write_setup(cells: list[dict], source: str) -> None:
    for cell in cells:
        if "setup" in tags(cell):
            cell["source"] = source
            return
    places = [i for i, cell in enumerate(cells) if "parameters" in tags(cell)]
    if not places:
        raise ValueError("no cell is tagged `parameters`")
    new = {"cell_type": "code", "metadata": {"tags": ["setup"]}, "source": source}
    cells.insert(places[0] + 1, new | {"outputs": [], "execution_count": None})


def execute(path: Path) -> dict:
    """A fresh run of the notebook at `path` on the demo model, with the outputs of every cell."""
    from medclip_helpers.runs import notebook_parameters, plan, run_all

    chosen = {"model": "demo"} if "model" in notebook_parameters(path.resolve()) else {}
    with tempfile.TemporaryDirectory() as folder:
        (run,) = plan([(path, chosen)], Path(folder))
        (record,) = run_all([run], progress=False)
        if record["status"] != "ok":
            raise ValueError(f"{path.name}: {record['error']}")
        notebook = json.loads(run.executed.read_text(encoding="utf-8"))
    notebook["cells"] = [c for c in notebook["cells"] if "injected-parameters" not in tags(c)]
    return notebook


def keep_pictures(fresh: dict, stored: dict) -> dict:
    """`fresh` with the stored pictures wherever the new ones look the same.

    Another version of matplotlib or of a font moves pixels; a diff should show what matters.
    """
    known = {cell["id"]: cell for cell in stored["cells"]}
    for cell in fresh["cells"]:
        before = known.get(cell["id"], {}).get("outputs", [])
        for new, old in zip(cell.get("outputs", []), before, strict=False):
            pair = [output.get("data", {}).get("image/png") for output in (new, old)]
            if all(pair) and look_alike(*pair):
                new["data"]["image/png"] = pair[1]
    return fresh


def look_alike(first: str, second: str) -> bool:
    """Whether two PNGs, base64 text, show the same: seen small, they differ by under 2 %."""
    import numpy as np
    from PIL import Image

    small = []
    for text in (first, second):
        with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
            flat = Image.new("RGBA", picture.size, "white")
            flat.alpha_composite(picture.convert("RGBA"))
            small.append(np.asarray(flat.convert("L").resize((96, 96)), dtype=float))
    return bool(np.abs(small[0] - small[1]).mean() < 0.02 * 255)


def _formatted(path: Path, text: str, repository: str, run: bool) -> str:
    if path.suffix == ".md":
        return with_badges(text, repository)
    notebook = canonical(json.loads(text), path.name, repository)
    if run:
        notebook = keep_pictures(canonical(execute(path), path.name, repository), notebook)
    return to_text(notebook)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all, and README.md")
    parser.add_argument("--check", action="store_true", help="fail where a file would change")
    parser.add_argument("--execute", action="store_true", help="store the outputs of a fresh run")
    options = parser.parse_args(arguments)
    repository = repository_address()
    every = [ROOT / "README.md", *sorted((ROOT / "notebooks").glob("*.ipynb"))]
    changed = 0
    for path in options.notebooks or every:
        if not path.is_file():
            parser.error(f"there is no file {path}")
        before = path.read_text(encoding="utf-8")
        try:
            after = _formatted(path, before, repository, options.execute)
        except ValueError as error:
            parser.error(f"{path}: {error}")
        if before == after:
            continue
        changed += 1
        if options.check:
            lines = difflib.unified_diff(
                before.splitlines(), after.splitlines(), str(path), "canonical", lineterm="", n=1
            )
            sys.stdout.writelines(line[:160] + "\n" for line in list(lines)[:40])
        else:
            path.write_text(after, encoding="utf-8")
            sys.stdout.write(f"wrote {path}\n")
    if changed and options.check:
        sys.stdout.write(f"{changed} not in canonical form: run tools/format_notebooks.py\n")
    return int(bool(changed and options.check))


if __name__ == "__main__":
    sys.exit(main())
