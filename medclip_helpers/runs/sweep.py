"""Sweep files: which notebooks run with which parameters, and where each leaves its results."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .parameters import Parameter, known_parameters, validate

PACKAGE = Path(__file__).resolve().parent
SWEEP_KEYS = ("notebook", "notebooks", "output", "parameters", "grid", "runs")


class Run(NamedTuple):
    """One notebook with one set of parameters, and the folder for what comes out."""

    notebook: Path
    parameters: dict[str, Any]
    folder: Path
    output_dir: bool = True  # whether the notebook has this parameter

    @property
    def executed(self) -> Path:
        return self.folder / self.notebook.name

    @property
    def record(self) -> Path:
        return self.folder / "run.json"


def read_sweep(path: Path) -> tuple[list[tuple[Path, dict]], Path]:
    """The (notebook, parameters) pairs of a sweep file, and its output folder.

    Raises ValueError naming the file and the entry that is wrong.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    pairs, outputs = [], set()
    for sweep in content if isinstance(content, list) else [content]:
        if not isinstance(sweep, dict) or not set(sweep) <= set(SWEEP_KEYS):
            raise ValueError(f"{path}: expected a mapping with the keys {SWEEP_KEYS}, got {sweep}")
        if {"notebook", "notebooks"} <= set(sweep):
            raise ValueError(f"{path}: `notebook` and `notebooks` in one sweep: expected one")
        notebooks = sweep.get("notebooks") or [sweep.get("notebook")]
        if not isinstance(notebooks, list) or not all(isinstance(n, str) for n in notebooks):
            raise ValueError(f"{path}: `notebook` must be a path, or `notebooks` a list of paths")
        if "output" in sweep:
            outputs.add(str(sweep["output"]))
        sets = list(_parameter_sets(sweep, path))
        pairs += [(path.parent / notebook, chosen) for notebook in notebooks for chosen in sets]
    if len(outputs) > 1:
        raise ValueError(f"{path}: `output` is {sorted(outputs)}: expected one for all sweeps")
    return pairs, path.parent / (outputs.pop() if outputs else f"runs/{path.stem}")


def _parameter_sets(sweep: dict, path: Path) -> Iterator[dict]:
    common, grid = sweep.get("parameters") or {}, sweep.get("grid") or {}
    runs = sweep.get("runs") or [{}]
    if not isinstance(common, dict):
        raise ValueError(f"{path}: `parameters` must be a mapping, got {common!r}")
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
        raise ValueError(f"{path}: `runs` must be a list of mappings, got {runs!r}")
    if not isinstance(grid, dict) or not all(isinstance(v, list) and v for v in grid.values()):
        raise ValueError(f"{path}: `grid` must map each parameter to a list, got {grid!r}")
    for run, values in itertools.product(runs, itertools.product(*grid.values())):
        yield {**common, **run, **dict(zip(grid, values, strict=True))}


def plan(pairs: Iterable[tuple[Path, Mapping[str, Any]]], output: Path) -> list[Run]:
    """Check every notebook and parameter before anything runs, and give each run its folder.

    Raises ValueError for a notebook that is not there or is none, an unknown or ill-typed
    parameter, two notebooks of one name, or nothing to run.
    """
    runs: dict[Path, Run] = {}
    for notebook, parameters in pairs:
        notebook, parameters = Path(notebook).resolve(), dict(parameters)
        known = notebook_parameters(notebook)
        if "output_dir" in parameters:
            raise ValueError(f"{notebook.name}: output_dir is chosen by the batch: leave it out")
        validate(parameters, known, notebook.name)
        folder = Path(output).resolve() / _folder_name(notebook.stem, parameters)
        run = Run(notebook, parameters, folder, "output_dir" in known)
        if runs.setdefault(folder, run).notebook != notebook:
            raise ValueError(f"two notebooks are called {notebook.name}: rename one of them")
    if not runs:
        raise ValueError("nothing to run: expected at least one notebook")
    return list(runs.values())


@functools.cache
def notebook_parameters(notebook: Path) -> dict[str, Parameter]:
    """What the cell tagged `parameters` declares; nothing where there is no such cell."""
    for cell in read_cells(notebook):
        if "parameters" in cell["metadata"].get("tags", []):
            return known_parameters("".join(cell["source"]))
    return {}


def read_cells(notebook: Path) -> list[dict]:
    if not notebook.is_file():
        raise ValueError(f"there is no notebook {notebook}")
    try:
        return json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{notebook} is not a notebook: expected an .ipynb file") from None


def _folder_name(stem: str, parameters: dict) -> str:
    if not parameters:
        return stem
    ends = [str(value).rstrip("/").split("/")[-1] for value in parameters.values()]
    values = re.sub(r"[^\w.]+", "-", " ".join(ends))
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()
    return f"{stem}-{values[:60].strip('-')}-{digest[:8]}"


def fingerprint(run: Run) -> str:
    """A hash of all that a run follows from, as far as we know: notebook, package, parameters."""
    cells = [[c["cell_type"], "".join(c["source"])] for c in read_cells(run.notebook)]
    text = json.dumps([cells, _package_hash(), run.parameters], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def _package_hash() -> str:
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(str(path.relative_to(PACKAGE)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
