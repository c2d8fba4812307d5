"""Run notebooks with papermill, several at a time, and keep a record of each."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from papermill import execute_notebook
from papermill.exceptions import PapermillExecutionError
from tqdm.auto import tqdm

from ..hub import write_text
from .results import FILE, read_result
from .sweep import PACKAGE, Run, read_cells

# A kernel that is done need not look for garbage among torch's objects: it ends 2 s earlier.
# Registered first, and so called after whatever the notebook's libraries clean up.
LAUNCH = (
    "import atexit, gc, runpy; atexit.register(gc.freeze); "
    "runpy.run_module('ipykernel_launcher', run_name='__main__', alter_sys=True)"
)
_ADDED = {"injected-parameters", "papermill-error-cell-tag"}  # papermill's tags of its own cells


def run_all(
    runs: Iterable[Run], processes: int = 1, *, force: bool = False, progress: bool = True
) -> Iterator[dict[str, Any]]:
    """Run notebooks, `processes` kernels at a time, and yield each record when it is ready.

    What has finished and is still valid comes first, its record marked `kept`, and is not run again
    unless `force`.

    A record has `notebook`, `parameters`, `folder`, `fingerprint`, `status` ("ok" or "failed"),
    `error`, `summary`, `metrics`, `note` (what the model is), `seconds` and `files`, and is in the
    folder as run.json. Of a folder that is run again, the files that its record names are deleted,
    and no others. What a kernel that died wrote past its notebook is beside it as kernel.log.

    Raises ModuleNotFoundError where a kernel could not start without ipykernel, and ValueError
    for a folder whose run.json this package did not write.
    """
    todo = []
    for run in runs:
        if record := None if force else _finished(run):
            yield record | {"kept": True}
        else:
            todo.append(run)
    if todo and not find_spec("ipykernel"):
        raise ModuleNotFoundError("no kernel to run notebooks with", name="ipykernel")
    # None: only on a terminal, where lines are written above it
    with tqdm(total=len(todo), unit="run", leave=False, disable=None if progress else True) as bar:
        # Threads, because each has a kernel, a process that ends when this one is killed
        pool = ThreadPoolExecutor(processes)
        futures = [pool.submit(_execute, run, processes) for run in todo]
        try:
            for future in as_completed(futures):
                bar.update()
                yield future.result()
        finally:
            pool.shutdown(wait=sys.exc_info()[0] is None, cancel_futures=True)


def _finished(run: Run) -> dict[str, Any] | None:
    """The record of a run that is done and still valid, else None."""
    record = _read_record(run)
    same = record.get("status") == "ok" and record["fingerprint"] == run.fingerprint()
    # where it is now: the whole output folder may have been moved
    return record | {"folder": str(run.folder)} if same and run.executed.is_file() else None


def _read_record(run: Run) -> dict[str, Any]:
    """What an earlier run left in the folder; {} where there was none, or it was interrupted."""
    try:
        record = json.loads(run.record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(record, dict) or not {"fingerprint", "status", "notebook"} <= set(record):
        raise ValueError(
            f"{run.record} is not of this package: move it away, or choose another output folder"
        )
    return record


def _kernels(processes: int, folder: Path) -> type[AsyncKernelManager]:
    """Kernels of this very interpreter and package, which share the cores among them.

    One listens in `folder`, since a TCP port that was free when it was chosen may be taken when the
    kernel is up. What it writes past its notebook, such as its libraries' complaints as it ends,
    goes to kernel.log there.
    """
    launch = [sys.executable, "-c", LAUNCH, "-f", "{connection_file}"]
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LOKY_MAX_CPU_COUNT")
    variables = {name: os.environ.get(name, threads) for name in names}
    folders = [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, folders))
    variables["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # a warning, each time
    spec = KernelSpec(argv=launch, display_name="Python 3", language="python", env=variables)

    class Kernel(AsyncKernelManager):
        def __init__(self, **options: Any) -> None:
            # Windows has no such sockets, and elsewhere their path is short
            if os.name != "nt" and len(str(folder)) < 90:
                options |= {"transport": "ipc", "ip": str(folder / "kernel")}
            super().__init__(**options)

        @property
        def kernel_spec(self) -> KernelSpec:
            return spec

        async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
            with (folder / "kernel.log").open("wb") as log:
                await super().start_kernel(**options, stdout=log, stderr=log)

    return Kernel


def _execute(run: Run, processes: int) -> dict[str, Any]:
    for file in [*_read_record(run).get("files", []), FILE]:
        (run.folder / file).unlink(missing_ok=True)
    before = _written(run)
    record: dict[str, Any] = {"notebook": run.notebook.stem, "parameters": run.parameters}
    record |= {"folder": str(run.folder), "fingerprint": run.fingerprint(), "status": "running"}
    write_text(run.record, json.dumps(record))
    parameters = run.parameters | ({"output_dir": str(run.folder)} if run.output_dir else {})
    start = time.monotonic()
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            execute_notebook(
                run.notebook, run.executed, parameters,
                kernel_name="python3", language="python", progress_bar=False, start_timeout=300,
                kernel_manager_class=_kernels(processes, Path(folder)),
                # Not papermill's `cwd`, which moves this whole process, the other threads with it
                resources={"metadata": {"path": str(run.cwd)}},
            )  # fmt: skip
            found = read_result(run.folder) if (run.folder / FILE).is_file() else {}
            record |= {"status": "ok", "error": ""}
        except Exception as error:  # whatever it is, other runs continue, and the record names it
            found = {}
            record |= {"status": "failed", "error": _describe(error, run)}
            log = Path(folder, "kernel.log")
            dead = not isinstance(error, PapermillExecutionError)
            if dead and log.is_file() and log.stat().st_size:
                shutil.copy(log, run.folder)
    metrics = found.get("metrics", {})
    record |= {"summary": found.get("summary", ""), "metrics": metrics}
    # what every figure is shown with, as notebooks record it
    record["note"] = found.get("model", {}).get("note") or metrics.get("weights", "")
    record["seconds"] = round(time.monotonic() - start, 1)
    written = _written(run).items() - before.items()  # a person's files are not this run's
    record["files"] = sorted(path.relative_to(run.folder).as_posix() for path, _ in written)
    write_text(run.record, json.dumps(record, indent=1))
    return record


def _written(run: Run) -> dict[Path, int]:
    """The files in a run's folder, without its record, and when each was written."""
    files = (path for path in run.folder.rglob("*") if path.is_file() and path != run.record)
    return {path: path.stat().st_mtime_ns for path in files}


def _describe(error: Exception, run: Run) -> str:
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, PapermillExecutionError):  # an exception in a cell
        message = f"{error.ename}: {error.evalue}"
    if not run.executed.is_file():
        return message
    # papermill stops at the first failure, also where the kernel died: the last cell it started
    own = [cell["metadata"] | cell for cell in read_cells(run.executed)]
    own = [cell for cell in own if not _ADDED & set(cell.get("tags", []))]
    started = [i for i, cell in enumerate(own) if cell.get("papermill", {}).get("start_time")]
    if not started:
        return message
    first_line = "".join(own[started[-1]]["source"]).partition("\n")[0]
    return f"cell {started[-1] + 1} ({first_line}): {message}"
