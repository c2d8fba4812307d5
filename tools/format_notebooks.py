"""Bring notebooks into canonical form, so that a diff shows what a person changed.

    python tools/format_notebooks.py              rewrite notebooks/*.ipynb
    python tools/format_notebooks.py --check      change nothing, fail where something would change
    python tools/format_notebooks.py --execute    run them on the demo model and store the outputs
    python tools/format_notebooks.py --repository https://github.com/me/fork

What it does to each notebook:

- metadata: kernel and language are the same everywhere, `accelerator` stays, a cell keeps its tags
  and whether it is folded; everything else goes. Cell ids follow from the cell's text.
- the Colab badge under the title and the cell tagged `setup` are written from one address, the
  `Repository` in pyproject.toml's project URLs; so are the badges in README.md. `--repository` sets
  it, else the remote `origin` where that is on GitHub; `--check` only warns where they differ.
- outputs are kept in cells tagged `store-output` or `nbval-check-output` only, with execution
  counts as in a run from top to bottom. Tag a cell where a reader on GitHub should see the output;
  with the second tag where its text is the same on every machine too (nbval compares text and HTML,
  and leaves the pixels of a figure alone). Output to stderr is never kept.
- links to the notebooks before and after it are put under the title.
- notebooks/medclip_colab.ipynb, the tour in one file, is made from the numbered ones.
"""

from __future__ import annotations

import argparse
import base64
import difflib
import hashlib
import io
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]  # this checkout's package, installed or not
import tour  # noqa: E402

COMPARED, STORED = "nbval-check-output", "store-output"
FOLDED = ("cellView", "jupyter")
WIDGET = "application/vnd.jupyter.widget-view+json"
MIME_TYPES = ("text/plain", "text/html", "text/markdown", "image/png")
UNSET = "https://github.com/OWNER/"  # what Repository starts with where nobody has set it
TOUR = "medclip_colab.ipynb"

BADGE = (
    "[![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{project}/blob/main/notebooks/{name})"
)
NO_BADGE = (
    "*No Colab badge yet: `python tools/format_notebooks.py --repository "
    "https://github.com/<owner>/<name>` sets it. The release's `medclip_colab.ipynb` needs none.*"
)
HEADER = "| notebook | what you see | time | |\n"
ROW = re.compile(r"^(\| \[\w+\]\(notebooks/(?P<name>\w+\.ipynb)\) \|.*\|)[^|\n]*\|$", re.MULTILINE)
GITHUB = re.compile(r"(?:\w+://)?(?:[^@/]+@)?github\.com[:/]+([\w-]+/[\w.-]+?)(?:\.git)?/?")
ADDRESS = re.compile(r'^(Repository\s*=\s*)"([^"]+)"', re.MULTILINE)

# Colab's runtime was seen to answer on that address with a `path` of that form; neither is
# documented. So a second's time-out, no redirect, one session and a GitHub project of allowed
# letters, or nothing is known; a branch is one that `git ls-remote` names.
SETUP = r"""
#@title Setup: does nothing where medclip_helpers already imports
try:
    import medclip_helpers
except ModuleNotFoundError:
    import importlib, json, os, pathlib, re, subprocess, sys, tempfile, urllib.parse
    def run(*words):  # without a shell, and git asks no questions
        env = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
        return subprocess.run(words, check=True, env=env, stdout=-1, text=True, timeout=900).stdout
    here, said = pathlib.Path.cwd(), os.getenv("MEDCLIP_REPOSITORY", "")
    places = re.findall(r"^((?:\w+://[^/]*/|[^/:]*:)?[^@]+)@?(.*)", said) or [("{repository}", "")]
    near = here, *here.parents, *here.glob("*")  # a clone that this lies in or beside
    near = [p for p in near if os.path.isfile(p / "medclip_helpers/py.typed")]
    if not said and not near and any(name.startswith("COLAB_") for name in os.environ):
        try:  # what Colab has open from GitHub: observed, not documented: a surprise is nothing
            at = os.getenv("COLAB_JUPYTER_IP", "172.28.0.12"), os.getenv("KMP_TARGET_PORT", "9000")
            ask = "curl -qgsfL -m 1 --max-redirs 0 --max-filesize 99999 --noproxy *".split()
            [session] = json.loads(run(*ask, "http://{}:{}/api/sessions".format(*at))[:99999])
            form = r"(?:fileId=)?(?:https://github\.com|/?github)/([\w-]+/(?!\.+/)[\w.-]+)/blob/(.+\.ipynb)"
            name, path = re.fullmatch(form, urllib.parse.unquote(session["path"]), re.A).groups()
            listed = run("git", "ls-remote", address := f"https://github.com/{name}")
            refs = re.findall("refs/(?:heads|tags)/(.+)", listed)  # branches may hold slashes
            refs = [ref for ref in refs if path.startswith(f"{ref}/")]
            places.insert(0, (address, max(refs, key=len, default="")))
        except Exception: pass
    for address, branch in [] if near and not said else filter(lambda place: place[0], places):
        print("cloning", address, branch)
        near, at = [tempfile.mkdtemp()], ["--depth=1", "--branch", branch][: 3 if branch else 1]
        run("git", "clone", "--quiet", *at, "--", address, near[0])
        if os.path.isfile(f"{near[0]}/medclip_helpers/py.typed"): break
    if not near: raise RuntimeError("{unknown}") from None
    run(sys.executable, "-m", "pip", "install", "--quiet", f"{near[0]}[notebooks]")
    importlib.invalidate_caches()
    import medclip_helpers
"""
UNKNOWN = (
    "medclip_helpers is not installed, and this notebook does not know where its repository is. "
    "Say so in a cell above this one:\\n  import os\\n"
    "  os.environ['MEDCLIP_REPOSITORY'] = 'https://github.com/<owner>/<name>'\\n"
    "or upload the release's medclip_colab.ipynb, which carries the package inside."
)


def repository_address(pyproject: Path = ROOT / "pyproject.toml") -> str:
    """`Repository` of the project URLs, without a slash or `.git` at its end."""
    # tomllib is new in Python 3.11, and this is one line of the file
    found = ADDRESS.search(pyproject.read_text())
    if not found:
        raise ValueError(f"{pyproject} has no Repository under [project.urls]")
    return found[2].rstrip("/").removesuffix(".git")


def origin_address() -> str:
    """Where the remote `origin` is on GitHub, as https, without credentials; else empty."""
    command = ["git", "-C", str(ROOT), "remote", "get-url", "origin"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:  # no git
        return ""
    found = GITHUB.fullmatch(done.stdout.strip())
    return f"https://github.com/{found[1]}" if found else ""


def badge(repository: str, name: str) -> str:
    """The markdown that opens the notebook `name` in Colab, empty where that is impossible."""
    found = GITHUB.fullmatch(repository)
    if not found or repository.startswith(UNSET):
        return ""
    return BADGE.format(project=found[1], name=name)


def with_badges(text: str, repository: str) -> str:
    """The README's `text`, each notebook's row ending in its badge, or a line if there is none."""
    text = text.replace(NO_BADGE + "\n\n", "")
    text = ROW.sub(lambda row: f"{row[1]} {badge(repository, row['name'])} |", text)
    return text if badge(repository, "x") else text.replace(HEADER, f"{NO_BADGE}\n\n{HEADER}")


def setup_source(repository: str) -> str:
    """The text of the setup cell."""
    known = "" if repository.startswith(UNSET) else repository
    return SETUP.strip().replace("{repository}", known).replace("{unknown}", UNKNOWN)


def canonical(notebook: dict, name: str, repository: str) -> dict:
    """The notebook `name` in canonical form, as a new nbformat 4.5 dictionary."""
    cells = [_cell(cell) for cell in notebook["cells"]]
    cells = [cell for cell in cells if cell["source"] or "setup" in tags(cell)]
    lines = [badge(repository, name) or NO_BADGE, neighbours(name)]
    _write_badge(cells, "\n\n".join(filter(None, lines)))
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
    """The notebook as its file's text."""
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _cell(cell: dict) -> dict:
    source = "\n".join(line.rstrip() for line in _joined(cell["source"]).splitlines()).strip("\n")
    metadata = {"tags": tags(cell)} if tags(cell) else {}
    metadata |= {name: cell["metadata"][name] for name in FOLDED if name in cell["metadata"]}
    clean = {"cell_type": cell["cell_type"], "metadata": metadata, "source": source}
    if cell["cell_type"] == "code":
        kept = cell.get("outputs", []) if is_kept(cell) else []
        clean |= {"outputs": _outputs(kept), "execution_count": None}
    return clean


def is_kept(cell: dict) -> bool:
    return bool({COMPARED, STORED} & {*tags(cell)})


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
            if WIDGET in output["data"] and "image/png" not in output["data"]:
                continue  # a progress bar, or controls that are dead without a kernel
            data = {m: _joined(output["data"][m]) for m in MIME_TYPES if m in output["data"]}
            metadata = {m: output["metadata"][m] for m in data if m in output.get("metadata", {})}
            if "image/png" in data:
                data["image/png"] = tour.smaller(data["image/png"])
            if data:
                kept.append({"output_type": kind, "data": data, "metadata": metadata})
    return kept


def _number(cell: dict, count: int) -> None:
    for output in cell["outputs"]:
        if output["output_type"] == "execute_result":
            output["execution_count"] = count
        # a list of lines, as nbformat writes text; a picture stays one string
        if "text" in output:
            output["text"] = output["text"].splitlines(keepends=True)
        for mime in ("text/plain", "text/html", "text/markdown"):
            if mime in output.get("data", {}):
                output["data"][mime] = output["data"][mime].splitlines(keepends=True)
        if "image/png" in output.get("data", {}):
            output["data"]["image/png"] = output["data"]["image/png"].strip()
    # nbval runs a marked cell without a count, but never compares it
    cell["execution_count"] = count if is_kept(cell) else None


def _identity(cell: dict, used: set[str]) -> str:
    text, extra = f"{cell['cell_type']}\n{cell['source']}", 0
    while (found := hashlib.sha256(f"{text}{extra}".encode()).hexdigest()[:8]) in used:
        extra += 1
    used.add(found)
    return found


def neighbours(name: str) -> str:
    """A line of links to the notebooks before and after this one, empty for any other file."""
    names = sorted(path.name for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
    if name not in names:
        return ""
    here = names.index(name)
    around = {"before": names[:here][-1:], "next": names[here + 1 :][:1]}
    links = [f"{word}: [{n.removesuffix('.ipynb')}]({n})" for word, [*some] in around.items()
             for n in some]  # fmt: skip
    return f"<sub>{' · '.join(links)}</sub>"


def _write_badge(cells: list[dict], line: str) -> None:
    if not cells or not cells[0]["source"].startswith("# "):
        raise ValueError("the first cell must be markdown and start with `# Title`")
    title, *rest = cells[0]["source"].splitlines()
    ours = ("[![Open In Colab]", NO_BADGE, "<sub>")
    kept = [row for row in rest if not row.startswith(ours)]
    text = "\n".join(kept).strip("\n")
    cells[0]["source"] = f"{title}\n\n{line}\n\n{text}".rstrip()


def _write_setup(cells: list[dict], source: str) -> None:
    folded = {"cellView": "form", "jupyter": {"source_hidden": True}, "tags": ["setup"]}
    for cell in cells:
        if "setup" in tags(cell):
            cell |= {"source": source, "metadata": folded}
            return
    places = [i for i, cell in enumerate(cells) if "parameters" in tags(cell)]
    if not places:
        raise ValueError("no cell is tagged `parameters`")
    new = {"cell_type": "code", "metadata": folded, "source": source}
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

    Other versions of matplotlib or of a font move pixels: then nothing else is compared.
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
    """Whether two PNGs, base64 text, show the same: scaled down, they differ by under 2 %."""
    import numpy as np
    from PIL import Image

    small, sizes = [], set()
    for text in (first, second):
        with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
            sizes.add(picture.size)
            flat = Image.new("RGBA", picture.size, "white")
            flat.alpha_composite(picture.convert("RGBA"))
            small.append(np.asarray(flat.convert("L").resize((96, 96)), dtype=float))
    return len(sizes) == 1 and bool(np.abs(small[0] - small[1]).mean() < 0.02 * 255)


def the_tour(folder: Path, repository: str) -> dict:
    """notebooks/medclip_colab.ipynb, made from the numbered notebooks in `folder`."""
    folded = {"cellView": "form", "jupyter": {"source_hidden": True}}
    setup = tour.new("code", setup_source(repository), **folded, tags=["setup"])
    line = badge(repository, TOUR) or NO_BADGE
    title = f"{tour.TITLE}\n\n{line}\n\n{tour.FINDS}\n\n{tour.ABOUT}"
    return assembled(tour.cells(sections(folder, repository), title, [setup]), "GPU")


def sections(folder: Path, repository: str) -> dict[str, list[dict]]:
    """stem -> canonical cells of the notebooks that the tour is made of."""
    found = {}
    for stem in tour.SECTIONS:
        path = folder / f"{stem}.ipynb"
        notebook = json.loads(path.read_text(encoding="utf-8"))
        found[stem] = canonical(notebook, path.name, repository)["cells"]
        title = found[stem][0]["source"]
        found[stem][0]["source"] = [
            line for line in title if not line.startswith((NO_BADGE, "<sub>"))
        ]
    return found


def _formatted(path: Path, text: str, repository: str, run: bool, check: bool) -> str:
    if path.suffix == ".md":
        return with_badges(text, repository)
    if path.suffix == ".toml":
        return ADDRESS.sub(rf'\1"{repository}"', text)
    if path.name == TOUR:
        return to_text(the_tour(path.parent, repository))
    notebook = canonical(json.loads(text), path.name, repository)
    if run:
        fresh = canonical(execute(path), path.name, repository)
        notebook = keep_pictures(fresh, notebook) if check else fresh
    return to_text(notebook)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all, and README.md")
    parser.add_argument("--check", action="store_true", help="fail where a file would change")
    parser.add_argument("--execute", action="store_true", help="store the outputs of a fresh run")
    parser.add_argument("--repository", metavar="ADDRESS", help="default: the remote origin's")
    options = parser.parse_args(arguments)
    known = repository_address()
    # one file among others keeps the address of those others
    repository = options.repository or ("" if options.notebooks else origin_address())
    if options.repository and not re.fullmatch(r"https://[\w.-]+(/[\w.-]+){2,}", repository):
        parser.error(f"--repository {repository}: expected https://github.com/<owner>/<name>")
    repository = repository.removesuffix(".git") or known
    if repository != known:
        says = f"warning: the repository is {repository}, pyproject.toml says {known}"
        advice = f": run python tools/format_notebooks.py --repository {repository}"
        sys.stderr.write(says + (advice if options.check else ", which is changed") + "\n")
        repository = known if options.check and not options.repository else repository
    folder = ROOT / "notebooks"
    every = [ROOT / "pyproject.toml", ROOT / "README.md", *sorted(folder.glob("[0-9]*.ipynb"))]
    every = [path for path in every if path.is_file()]
    if all((folder / f"{stem}.ipynb").is_file() for stem in tour.SECTIONS):
        every.append(folder / TOUR)  # last: it is made from the others
    changed = 0
    for path in options.notebooks or every:
        if path.name != TOUR and not path.is_file():
            parser.error(f"there is no file {path}")
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
        try:
            after = _formatted(path, before, repository, options.execute, options.check)
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
