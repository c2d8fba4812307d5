"""What came out of a batch of runs: a line, a table and a page with the figures."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from ..hub import write_text

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Batch runs</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color: #222; }}
table {{ border-collapse: collapse; font-size: 13px; }}
th, td {{ padding: .3rem .7rem; text-align: left; white-space: nowrap;
  border-bottom: 1px solid #ddd; }}
img {{ max-width: 100%; max-height: 30rem; margin: .5rem 1rem .5rem 0; }}
.failed {{ color: #b00020; }}
</style>
<h1>Batch runs</h1>
<p>{count} runs, {failed} failed. Research use only: nothing here is a medical result.</p>
<div style="overflow-x: auto">{table}</div>
{sections}
</html>
"""


def varying(records: list[dict]) -> set[str]:
    """The parameters that are not the same in all runs."""
    names = {name for record in records for name in record["parameters"]}
    values = {name: [record["parameters"].get(name) for record in records] for name in names}
    return {name for name in names if any(value != values[name][0] for value in values[name])}


def title(record: dict, names: Iterable[str]) -> str:
    """The notebook, and those of its parameters that are among `names`."""
    chosen = {name: value for name, value in record["parameters"].items() if name in names}
    return record["notebook"] + "".join(f" {name}={value}" for name, value in chosen.items())


def one_line(record: dict, names: Iterable[str]) -> str:
    """What a run found, how long it took and where it is."""
    found = record["summary"] or "done"
    if record["status"] != "ok":
        found = f"FAILED: {record['error']}"
    took = f"{record['seconds']} s" + (" (earlier)" if record.get("kept") else "")
    return f"{title(record, names)}: {found} | {took} | {os.path.relpath(record['folder'])}"


def summary_table(records: list[dict], output: Path) -> pd.DataFrame:
    """One row a run: notebook, parameters, `metrics.*`, status, seconds, summary, error, folder."""
    rows = [
        {"notebook": record["notebook"], "status": record["status"], "seconds": record["seconds"]}
        | record["parameters"]
        | {f"metrics.{name}": value for name, value in record["metrics"].items()}
        for record in records
    ]
    ends = [
        {name: record[name] for name in ("summary", "error")}
        | {"folder": os.path.relpath(record["folder"], output)}
        for record in records
    ]
    table = pd.concat([pd.DataFrame(rows), pd.DataFrame(ends)], axis=1)
    return table.convert_dtypes()  # a count stays a count beside a missing one


def write_report(records: list[dict], output: Path) -> None:
    """Write summary.csv and index.html, a page that needs no other file, into `output`."""
    output.mkdir(parents=True, exist_ok=True)
    table = summary_table(records, output)
    shown = table.drop(columns=["summary", "folder"])  # both are in the sections below it
    write_text(output / "summary.csv", table.to_csv(index=False))
    page = PAGE.format(
        count=len(records),
        failed=sum(record["status"] != "ok" for record in records),
        table=shown.to_html(index=False, na_rep="", border=0, float_format="{:.4g}".format),
        sections="\n".join(_section(record, output, varying(records)) for record in records),
    )
    write_text(output / "index.html", page)


def _section(record: dict, output: Path, names: set[str]) -> str:
    folder = Path(record["folder"])
    executed = folder / f"{record['notebook']}.ipynb"
    link = html.escape(Path(os.path.relpath(executed, output)).as_posix())
    heading = html.escape(title(record, names))
    failed = record["status"] != "ok"
    found = html.escape(record["error"] if failed else record["summary"])
    kind = ' class="failed"' if failed else ""
    pictures = "\n".join(
        f'<img alt="figure" src="data:image/png;base64,{png}">' for png in figures(executed)
    )
    return f'<h2><a href="{link}">{heading}</a></h2>\n<p{kind}>{found}</p>\n{pictures}'


def figures(executed: Path) -> list[str]:
    """The pictures in an executed notebook, PNG as base64 text, in their order."""
    if not executed.is_file():
        return []
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    pictures = [output.get("data", {}).get("image/png") for output in outputs]
    return ["".join(png).replace("\n", "") for png in pictures if png]
