"""Run notebooks with many sets of parameters, in parallel, and gather what they found.

    python -m medclip_helpers.batch sweep.yaml
    python -m medclip_helpers.batch notebooks/*.ipynb --output runs

A sweep names notebooks and the parameters to run them with, `runs` as a list, `grid` as all
combinations; both together combine each with each. A list of such sweeps is a sweep too:

    notebook: notebooks/02_prompt_classification.ipynb    # or notebooks: [...]
    output: runs/hannover               # default: runs/<name of this file>
    parameters: {images: scans}         # the same in every run
    grid:
      model: [demo, /data/my-weights]
      ensemble: [true, false]

Relative paths, those in parameters too, start at the sweep file's folder; `--output` and notebooks
on the command line start at the current one. Every run has a folder of its own, which is emptied
when it runs again, with the executed notebook, what the notebook wrote to `output_dir`, and
run.json. The output folder gets summary.csv and index.html. What has finished is not run again
unless notebook, package or parameters changed; data behind a path is not looked at (--force).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from tqdm.auto import tqdm

from ..hub import write_text
from .report import one_line, varying, write_report
from .sweep import PACKAGE, Run, fingerprint, plan, read_cells, read_sweep


def finished(run: Run) -> dict | None:
    """The record of a run that is done and still holds, else None."""
    try:
        record = json.loads(run.record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = record["status"] == "ok" and record["fingerprint"] == fingerprint(run)
    return record if same and run.executed.is_file() else None


def run_all(runs: list[Run], processes: int = 1, progress: bool = True) -> Iterator[dict]:
    """Run everything, `processes` kernels at a time, and yield each record when it is there."""
    with _kernels(processes), tqdm(total=len(runs), unit="run", disable=not progress) as bar:
        # Threads, because each has a kernel, a process that ends when this one is killed
        pool = ThreadPoolExecutor(processes)
        futures = [pool.submit(_execute, run) for run in runs]
        try:
            for future in as_completed(futures):
                bar.update()
                yield future.result()
        finally:
            pool.shutdown(wait=sys.exc_info()[0] is None, cancel_futures=True)


@contextmanager
def _kernels(processes: int) -> Iterator[None]:
    """Kernels run this very interpreter and package, and share the cores among them."""
    launch = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    launch += ["--log-level=ERROR"]  # newer ones warn, each time, of a local connection
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder, "kernels", "python3", "kernel.json")
        spec.parent.mkdir(parents=True)
        spec.write_text(
            json.dumps({"argv": launch, "display_name": "Python 3", "language": "python"})
        )
        before = dict(os.environ)
        for name, first in (("JUPYTER_PATH", folder), ("PYTHONPATH", str(PACKAGE.parent))):
            os.environ[name] = os.pathsep.join(filter(None, [first, before.get(name)]))
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ.setdefault(name, threads)
        os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # a warning, each time
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def _execute(run: Run) -> dict:
    from papermill import execute_notebook

    if run.record.is_file():  # ours, from an earlier run
        shutil.rmtree(run.folder)
    run.folder.mkdir(parents=True, exist_ok=True)
    result = run.folder / "result.json"
    result.unlink(missing_ok=True)
    record = {"notebook": run.notebook.stem, "parameters": run.parameters, "status": "running"}
    record |= {"fingerprint": fingerprint(run), "folder": str(run.folder)}
    write_text(run.record, json.dumps(record))
    parameters = run.parameters | ({"output_dir": str(run.folder)} if run.output_dir else {})
    start = time.monotonic()
    try:
        execute_notebook(
            run.notebook, run.executed, parameters,
            kernel_name="python3", language="python", progress_bar=False, start_timeout=300,
        )
        found = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {}
        record |= {"status": "ok", "error": "", "summary": found.get("summary", "")}
        record["metrics"] = found.get("metrics", {})
    except Exception as error:  # whatever it is, the other runs go on, and the record names it
        record |= {"status": "failed", "error": _describe(error, run), "summary": "", "metrics": {}}
    record["seconds"] = round(time.monotonic() - start, 1)
    write_text(run.record, json.dumps(record, indent=1))
    return record


def _describe(error: Exception, run: Run) -> str:
    message = f"{type(error).__name__}: {error}"
    if hasattr(error, "ename"):  # papermill's, for an exception in a cell
        message = f"{error.ename}: {error.evalue}"
    if not run.executed.is_file():
        return message
    # papermill stops at the first failure, also where the kernel died: the last cell it started
    cells = read_cells(run.executed)
    started = [c for c in cells if c["metadata"].get("papermill", {}).get("start_time")]
    source = "".join(started[-1]["source"]) if started else ""
    for number, cell in enumerate(read_cells(run.notebook), start=1):
        if source and "".join(cell["source"]) == source:
            return f"cell {number} ({source.partition(chr(10))[0]}): {message}"
    return message


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns 0, 1 where a run failed, 2 where nothing could start."""
    parser = argparse.ArgumentParser(
        prog="python -m medclip_helpers.batch", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", type=Path, help="one sweep.yaml, or notebooks")
    parser.add_argument("--output", type=Path, help="folder for the runs (default: see above)")
    parser.add_argument(
        "--processes", type=int, default=min(4, max(1, (os.cpu_count() or 1) // 2)),
        help="notebooks at a time (default: %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="run again what has finished, too")
    options = parser.parse_args(arguments)
    if options.processes < 1:
        parser.error(f"--processes must be at least 1, got {options.processes}")
    for name in ("papermill", "ipykernel", "yaml"):
        if not find_spec(name):
            package = {"yaml": "pyyaml"}.get(name, name)
            parser.error(f"{name} is not installed: python -m pip install {package}")
    sweeps = [file for file in options.files if file.suffix in (".yaml", ".yml")]
    output, folder = options.output or Path("runs"), Path.cwd()
    try:
        if sweeps:
            if len(options.files) > 1 or not sweeps[0].is_file():
                given = ", ".join(map(str, options.files))
                raise ValueError(f"expected one existing sweep file, got {given}")
            folder = sweeps[0].resolve().parent
            pairs, default = read_sweep(sweeps[0].resolve())
            output = options.output or default
        else:
            pairs = [(file, {}) for file in options.files]
        output = output.resolve()
        runs = plan(pairs, output)
    except ValueError as error:
        parser.error(str(error))
    os.chdir(folder)  # where the notebooks run
    records = {} if options.force else {run.folder: finished(run) for run in runs}
    records = {key: {**record, "kept": True} for key, record in records.items() if record}
    todo = [run for run in runs if run.folder not in records]
    try:
        for record in run_all(todo, options.processes):
            records[Path(record["folder"])] = record
            if record["status"] != "ok":
                tqdm.write(one_line(record, record["parameters"]))
    except KeyboardInterrupt:
        tqdm.write("interrupted: start again to do the rest")
    done = [records[run.folder] for run in runs if run.folder in records]
    if done:
        write_report(done, output)
        for record in done:
            tqdm.write(one_line(record, varying(done)))
        tqdm.write(f"{output / 'summary.csv'}\n{output / 'index.html'}")
    if len(done) < len(runs):
        sys.stdout.flush()
        os._exit(130)  # the kernels notice that we are gone; threads would wait for them
    return int(any(record["status"] != "ok" for record in done))
