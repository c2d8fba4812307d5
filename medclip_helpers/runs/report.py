"""The results of several runs: one line each, a table, and a page with the figures."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, StrictUndefined

from ..hub import write_text
from .sweep import Run, read_cells

PAGE = Path(__file__).with_name("report.html")


class Figure(NamedTuple):
    """A picture of a notebook: PNG as base64 text, its caption and its alternative text."""

    png: str
    caption: str
    alt: str


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


def write_report(
    records: list[dict], output: Path, runs: Sequence[Run] | None = None
) -> list[Path]:
    """Write a table, summary.csv, and a page that needs no other file, index.html; their paths.

    records: those of `runs` that are ready, shown in the order of `runs`, by notebook; without
        `runs` they are all, in their own order.

    The page has a row for each run: a link to the executed notebook, what it found, how long it
    took, its first figure, and, folded away, its parameters, metrics and other figures.
    """
    if runs is not None:
        places = {str(run.folder): (run.notebook.stem, place) for place, run in enumerate(runs)}
        records = sorted(records, key=lambda record: places[record["folder"]])
    files = [output / "summary.csv", output / "index.html"]
    rows = [_row(record, output, varying(records)) for record in records]
    page = Environment(autoescape=True, trim_blocks=True, undefined=StrictUndefined)
    text = page.from_string(PAGE.read_text(encoding="utf-8")).render(
        rows=rows,
        planned=len(records if runs is None else runs),
        failed=sum(record["status"] != "ok" for record in records),
        columns={
            kind: list(dict.fromkeys(name for row in rows for name in row[kind]))
            for kind in ("parameters", "metrics")
        },
    )
    write_text(files[0], _summary_table(records, output).to_csv(index=False))
    write_text(files[1], text)
    return files


def figures(executed: Path, summary: str = "", note: str = "") -> list[Figure]:
    """The pictures in an executed notebook, in their order.

    A picture's caption is the heading above it, its own caption if it brings one, and `note`, what
    the model is; its alternative text adds `summary`, what the notebook found, unless the picture
    brings its own.
    """
    found = []
    heading = ""
    for cell in read_cells(executed) if executed.is_file() else []:
        if cell["cell_type"] == "markdown":
            headings = re.findall(r"^#+ +(.+)$", "".join(cell["source"]), re.MULTILINE)
            heading = re.sub(r"[`*]", "", headings[-1]) if headings else heading
        for output in cell.get("outputs", []):
            if png := output.get("data", {}).get("image/png"):
                own = output.get("metadata", {}).get("image/png", {})
                caption = _sentences(heading, own.get("caption"), note) or summary or executed.stem
                alt = own.get("alt") or _sentences(heading, summary, note) or caption
                found.append(Figure("".join(png).replace("\n", ""), caption, alt))
    return found


def _sentences(*parts: str) -> str:
    return " ".join(part if part[-1] in ".?!:" else f"{part}." for part in parts if part)


def _title(record: dict, names: Iterable[str]) -> str:
    """The notebook, and those of its parameters that are among `names`."""
    chosen = {name: value for name, value in record["parameters"].items() if name in names}
    texts = (f" {n}={'unset' if _is_missing(value) else value}" for n, value in chosen.items())
    return record["notebook"] + "".join(texts)


def _summary_table(records: list[dict], output: Path) -> pd.DataFrame:
    """One row per run: notebook, status, seconds, ..., parameters, and `metrics.*`."""
    table = pd.json_normalize(records, max_level=1)
    own = {*table.columns}  # a parameter of such a name keeps its prefix
    short = {name: name.removeprefix("parameters.") for name in own}
    table = table.rename(columns={name: new for name, new in short.items() if new not in own})
    table["folder"] = [os.path.relpath(folder, output) for folder in table["folder"]]
    table = table.drop(columns=["fingerprint", "kept"], errors="ignore")
    return table.convert_dtypes()  # a count stays a count beside a missing one


def _row(record: dict, output: Path, names: set[str]) -> dict:
    """The record, and what the page shows of it; `names`: the parameters in the title."""
    executed = Path(record["folder"]) / f"{record['notebook']}.ipynb"
    return record | {
        "title": _title(record, names),
        "link": quote(Path(os.path.relpath(executed, output)).as_posix()),
        "figures": figures(executed, record["summary"], record.get("note", "")),
        "parameters": _shown(record["parameters"]),
        "metrics": _shown(record["metrics"], ".4g"),
        "kept": record.get("kept", False),
    }


def _shown(values: dict[str, Any], digits: str = "") -> dict[str, str]:
    """Values as text, without the missing ones."""
    return {
        name: format(value, digits) if isinstance(value, float) else str(value)
        for name, value in values.items()
        if not _is_missing(value)
    }


def _is_missing(value: Any) -> bool:
    return value is None or value != value  # NaN
