"""Sweep files: which notebooks run with which parameters, and where each leaves its results.

A sweep names notebooks and the parameters to run them with, `runs` as a list, `grid` as all
combinations; both together combine each with each. A list of such sweeps is a sweep too:

    notebook: notebooks/02_prompt_classification.ipynb    # or notebooks: [...]
    output: runs/hannover               # default: runs/<name of this file>
    parameters: {images: scans}         # the same in every run
    grid:
      model: [demo, /data/my-weights]
      ensemble: [true, false]

Relative paths, those in parameters too, start at the sweep file's folder; notebooks and `--output`
on the command line start at the current one. Every run has a folder of its own, cleared of earlier
results when it runs again, with the executed notebook, what the notebook wrote to `output_dir`, and
run.json. What has finished is not run again unless notebook, package or parameters changed; data
behind a path is not checked (use --force).
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..hub import fingerprint, read_settings
from .parameters import Parameter, known_parameters, validate

PACKAGE = Path(__file__).resolve().parents[1]
SWEEP_KEYS = ("notebook", "notebooks", "output", "parameters", "grid", "runs")


class Run(NamedTuple):
    """One notebook with one set of parameters, and the folder for its output."""

    notebook: Path
    parameters: dict[str, Any]
    folder: Path
    output_dir: bool = True  # whether the notebook has this parameter
    cwd: Path = Path()  # where it runs, and its relative paths start

    @property
    def executed(self) -> Path:
        return self.folder / self.notebook.name

    @property
    def record(self) -> Path:
        return self.folder / "run.json"

    def fingerprint(self) -> str:
        """A hash of all that determines it, as far as we know: notebook, package, parameters."""
        cells = [(c["cell_type"], "".join(c["source"])) for c in read_cells(self.notebook)]
        return fingerprint(cells, _package_hash(), sorted(self.parameters.items()))


def plan_files(files: Sequence[Path], output: Path | None = None) -> tuple[list[Run], Path]:
    """The runs that one sweep file, or several notebooks, stand for, and the folder around them.

    output: instead of what the sweep file says, or of "runs". Raises ValueError as `read_sweep` and
    `plan` do, and for a sweep file that is missing or not the only file.
    """
    sweeps = [file for file in files if file.suffix in (".yaml", ".yml")]
    if not sweeps:
        output = Path(output or "runs").resolve()
        return plan([(file, {}) for file in files], output), output
    if len(files) > 1 or not sweeps[0].is_file():
        given = ", ".join(map(str, files))
        raise ValueError(f"expected one existing sweep file, got {given}")
    pairs, default = read_sweep(sweeps[0].resolve())
    output = Path(output or default).resolve()
    return plan(pairs, output, sweeps[0].resolve().parent), output


def read_sweep(path: Path) -> tuple[list[tuple[Path, dict[str, Any]]], Path]:
    """The (notebook, parameters) pairs of a sweep file, and its output folder.

    Raises ValueError naming the file and the entry that is wrong.
    """
    content = read_settings(path)
    pairs: list[tuple[Path, dict[str, Any]]] = []
    outputs = set()
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


def _parameter_sets(sweep: dict, path: Path) -> Iterator[dict[str, Any]]:
    common, grid = sweep.get("parameters") or {}, sweep.get("grid") or {}
    runs = sweep.get("runs", [{}])
    if not isinstance(common, dict):
        raise ValueError(f"{path}: `parameters` must be a mapping, got {common!r}")
    if not isinstance(runs, list) or not runs or not all(isinstance(run, dict) for run in runs):
        raise ValueError(f"{path}: `runs` must be a list of one mapping or more, got {runs!r}")
    if not isinstance(grid, dict) or not all(isinstance(v, list) and v for v in grid.values()):
        raise ValueError(f"{path}: `grid` must map each parameter to a list, got {grid!r}")
    if twice := sorted({name for run in runs for name in run} & set(grid)):
        raise ValueError(f"{path}: {twice} is in `runs` and in `grid`, expected one of them")
    for run, values in itertools.product(runs, itertools.product(*grid.values())):
        yield {**common, **run, **dict(zip(grid, values, strict=True))}


def plan(
    pairs: Iterable[tuple[Path, Mapping[str, Any]]], output: Path, cwd: Path = Path()
) -> list[Run]:
    """Check every notebook and parameter before anything runs, and give each run its folder.

    cwd: where the notebooks run, and relative paths in their parameters start.

    Raises ValueError for a notebook that is missing or is not one, an unknown or ill-typed
    parameter, two notebooks of the same name, or nothing to run.
    """
    runs: dict[Path, Run] = {}
    for notebook, parameters in pairs:
        notebook, parameters = Path(notebook).resolve(), dict(parameters)
        known = notebook_parameters(notebook)
        if "output_dir" in parameters:
            raise ValueError(f"{notebook.name}: output_dir is chosen for each run: leave it out")
        validate(parameters, known, notebook.name)
        folder = Path(output).resolve() / _folder_name(notebook.stem, parameters)
        run = Run(notebook, parameters, folder, "output_dir" in known, cwd)
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


def read_cells(notebook: Path) -> list[dict[str, Any]]:
    """The cells of a notebook file; ValueError where it is not one."""
    if not notebook.is_file():
        raise ValueError(f"there is no notebook {notebook}")
    try:
        return json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{notebook} is not a notebook: expected an .ipynb file") from None


def _folder_name(stem: str, parameters: dict[str, Any]) -> str:
    if not parameters:
        return stem
    ends = [str(value).rstrip("/").split("/")[-1] for value in parameters.values()]
    values = re.sub(r"[^\w.]+", "-", " ".join(ends))
    digest = fingerprint(sorted(parameters.items()))
    return f"{stem}-{values[:60].strip('-')}-{digest[:8]}"


@functools.cache
def _package_hash() -> str:
    files = [p for p in sorted(PACKAGE.rglob("*")) if p.is_file() and "__pycache__" not in p.parts]
    return fingerprint({str(p.relative_to(PACKAGE)): np.fromfile(p, np.uint8) for p in files})
