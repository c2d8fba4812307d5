"""What came out of several runs: a line each, a table, and a page with the figures."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template

import pandas as pd

from ..hub import write_text
from .sweep import Run

PAGE = Path(__file__).with_name("report.html")


def varying(records: list[dict]) -> set[str]:
    """The parameters that are not the same in all runs."""
    names = {name for record in records for name in record["parameters"]}
    values = {name: [record["parameters"].get(name) for record in records] for name in names}
    return {name for name in names if any(value != values[name][0] for value in values[name])}


def one_line(record: dict, names: Iterable[str]) -> str:
    """How long a run took, what it found and where it is; `names`: the parameters to show."""
    found = record["summary"] or "done"
    if record["status"] != "ok":
        found = f"FAILED: {record['error']}"
    took = f"{record['seconds']} s" + (" (earlier)" if record.get("kept") else "")
    return f"{_title(record, names)} | {took} | {found} | {os.path.relpath(record['folder'])}"


def write_report(records: list[dict], output: Path, runs: Sequence[Run]) -> list[Path]:
    """Write a table, summary.csv, and a page that needs no other file, index.html; their paths.

    records: those that are there by now, of `runs`; shown by notebook, and as `runs` has them.
    """
    places = {str(run.folder): (run.notebook.stem, place) for place, run in enumerate(runs)}
    records = sorted(records, key=lambda record: places[record["folder"]])
    files = [output / "summary.csv", output / "index.html"]
    table = _summary_table(records, output)
    shown = table.drop(columns=["summary", "folder"])  # both are in the sections below it
    page = Template(PAGE.read_text(encoding="utf-8")).substitute(
        count=len(runs) if len(runs) == len(records) else f"{len(records)} of {len(runs)}",
        failed=sum(record["status"] != "ok" for record in records),
        table=shown.to_html(index=False, na_rep="", border=0, float_format="{:.4g}".format),
        sections="\n".join(_section(record, output, varying(records)) for record in records),
    )
    for file, text in zip(files, (table.to_csv(index=False), page), strict=True):
        write_text(file, text)
    return files


def figures(executed: Path) -> list[str]:
    """The pictures in an executed notebook, PNG as base64 text, in their order."""
    if not executed.is_file():
        return []
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    pictures = [output.get("data", {}).get("image/png") for output in outputs]
    return ["".join(png).replace("\n", "") for png in pictures if png]


def _title(record: dict, names: Iterable[str]) -> str:
    """The notebook, and those of its parameters that are among `names`."""
    chosen = {name: value for name, value in record["parameters"].items() if name in names}
    return record["notebook"] + "".join(f" {name}={value}" for name, value in chosen.items())


def _summary_table(records: list[dict], output: Path) -> pd.DataFrame:
    """One row a run: notebook, status, seconds, ..., parameters, and `metrics.*`."""
    table = pd.json_normalize(records, max_level=1)
    table.columns = table.columns.str.removeprefix("parameters.")
    table["folder"] = [os.path.relpath(folder, output) for folder in table["folder"]]
    table = table.drop(columns=["fingerprint", "kept"], errors="ignore")
    return table.convert_dtypes()  # a count stays a count beside a missing one


def _section(record: dict, output: Path, names: set[str]) -> str:
    executed = Path(record["folder"]) / f"{record['notebook']}.ipynb"
    link = html.escape(Path(os.path.relpath(executed, output)).as_posix())
    heading = html.escape(_title(record, names))
    failed = record["status"] != "ok"
    found = html.escape(record["error"] if failed else record["summary"])
    kind = ' class="failed"' if failed else ""
    pictures = "\n".join(
        f'<img alt="figure" src="data:image/png;base64,{png}">' for png in figures(executed)
    )
    return f'<h2><a href="{link}">{heading}</a></h2>\n<p{kind}>{found}</p>\n{pictures}'
