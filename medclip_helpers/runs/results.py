"""What a run found, as one JSON file and a table; several of them as a Markdown table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..hub import FORMAT, check_format, describe_weights, read_settings, write_text
from .environment import versions

if TYPE_CHECKING:
    from ..model import MedCLIPModel

FILE, TABLE = "result.json", "result.csv"


def record_result(
    output_dir: str | Path,
    summary: str,
    *,
    tables: Mapping[str, pd.DataFrame] | None = None,
    model: Mapping[str, Any] | None = None,
    dataset: str | None = None,
    seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
    **metrics: Any,
) -> str:
    """Write `<output_dir>/result.json`, and return the summary.

    summary: one line, what the notebook found. metrics: numbers, strings, booleans or None; scalars
        of NumPy and torch are converted, a number that is not finite becomes None.
    tables: {task: table of `evaluation` or `training`}; each row has at least `value`. The rows of
        all, each with its `task`, are `results` in the file, and `result.csv` beside it.
    model, dataset, seed: what the numbers are of, `model` as `describe_model` gives it. settings:
        whatever else they depend on, as JSON values.

    The file has `format`, `summary`, `metrics`, `versions`, and of the rest what is given.
    Raises ValueError for a metric that is none of these, and for a table without `value`.
    """
    record: dict[str, Any] = {"format": FORMAT, "summary": summary}
    record["metrics"] = {name: _plain(name, value) for name, value in metrics.items()}
    given = {"model": model, "dataset": dataset, "seed": seed, "settings": settings}
    record |= {name: value for name, value in given.items() if value is not None}
    record["versions"] = versions()
    if tables is not None:
        record["results"] = [row for task, table in tables.items() for row in _rows(task, table)]
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    folder = Path(output_dir).expanduser()
    if tables is not None:
        write_text(folder / TABLE, pd.DataFrame(record["results"]).to_csv(index=False))
    write_text(folder / FILE, text)
    return summary


def _plain(name: str, value: Any) -> Any:
    if getattr(value, "ndim", None) == 0:  # a scalar of NumPy or torch
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(
        f"metric {name!r} is a {type(value).__name__}: expected a number, a string, True, False "
        "or None"
    )


def _rows(task: str, table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows without missing values: mixed kinds of rows have many, and JSON has no NaN."""
    if "value" not in table:
        raise ValueError(f"tables[{task!r}] has columns {list(table)}, expected 'value'")
    return [
        {"task": task, **{str(name): value for name, value in row.items() if pd.notna(value)}}
        for row in table.to_dict("records")
    ]


def describe_model(model: MedCLIPModel, name: str = "") -> dict[str, Any]:
    """`name`, `note`, `encoder`, `precision`, `engine`, and what `hub.describe_weights` says."""
    return {
        "name": name,
        "note": model.note,
        "encoder": model.vision_model.config["backbone"],
        "precision": model.precision,
        "engine": model.engine,
        **(model.compiled_from or describe_weights(model)),
    }


def read_result(path: str | Path) -> dict[str, Any]:
    """What `record_result` wrote into the file `path`, or into the folder `path`.

    Raises ValueError for a file that it did not write, or that a newer release wrote.
    """
    path = Path(path).expanduser()
    file = path / FILE if path.is_dir() else path
    record = read_settings(file)
    if isinstance(record, dict):
        check_format(record, file)  # first: a newer format may have other keys
    if not isinstance(record, dict) or not {"summary", "metrics"} <= set(record):
        raise ValueError(f"{file} is not from record_result: expected a summary and metrics in it")
    return record


def markdown_table(files: Sequence[str | Path]) -> str:
    """Results side by side: a row per metric, a column per file, and below what each model is.

    files: paths of `result.json`, or their folders. Only overall metrics are shown, not those
    of single classes; "-" where a file does not have one.

    Raises ValueError for no file, for one that `record_result` did not write, and for one without
    `results`, `model`, `dataset` and `seed`.
    """
    if not files:
        raise ValueError("files is empty: expected at least one result.json")
    records = [read_result(file) for file in files]
    for file, record in zip(files, records, strict=True):
        if missing := sorted({"results", "model", "dataset", "seed"} - set(record)):
            raise ValueError(f"{file} was recorded without {missing}: nothing to compare")
    columns = [
        {_figure(row): _cell(row) for row in record["results"] if _is_overall(row)}
        for record in records
    ]
    heads = [f"{r['model']['name']} on {r['dataset']}, seed {r['seed']}" for r in records]
    lines = [["task", "figure", *heads], ["---"] * (2 + len(heads))]
    for figure in dict.fromkeys(figure for column in columns for figure in column):
        lines.append([*figure, *(column.get(figure, "-") for column in columns)])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = dict.fromkeys(
        f"- {r['model']['name']} ({r['model']['sha256'][:12]}): {r['model']['note']}"
        for r in records
    )
    return "\n".join([table, "", *notes, ""])


def _is_overall(row: Mapping[str, Any]) -> bool:
    from ..evaluation import AVERAGE  # here, because it loads scikit-learn

    return row.get("class", AVERAGE) == AVERAGE


def _figure(row: Mapping[str, Any]) -> tuple[str, str]:
    """What sets a row apart: its task; and its metric, prompts and, if not all, its patients."""
    parts = [row.get("metric", "accuracy").replace("_", " "), row.get("prompts")]
    parts += [f"patients {row['patients']}"] if row.get("patients", "all") != "all" else []
    return row["task"], ", ".join(filter(None, parts))


def _cell(row: Mapping[str, Any]) -> str:
    """ "0.89 ± 0.10 (0.87 to 0.91)": the value, its spread and its interval if any."""
    if "value" not in row:  # it was not a number
        return "-"
    spread = f" ± {row['sd']:.3f}" if "sd" in row else ""
    interval = f" ({row['low']:.3f} to {row['high']:.3f})" if "low" in row else ""
    return f"{row['value']:.3f}{spread}{interval}"
