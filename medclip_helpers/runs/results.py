"""What a run found, as a small JSON file and a table; several of them as a Markdown table."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..hub import write_text

if TYPE_CHECKING:
    import pandas

    from ..model import MedCLIPModel



def record_result(output_dir: str | Path, summary: str, **metrics: Any) -> str:
    """Write `<output_dir>/result.json`, {"summary": ..., "metrics": {...}}, and return the summary.

    summary: one line, what the notebook found. metrics: numbers, strings, booleans or None; scalars
    of NumPy and torch are converted, a number that is not finite becomes None.

    Raises ValueError for a metric that is none of these.
    """
    clean = {name: _plain(name, value) for name, value in metrics.items()}
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"summary": summary, "metrics": clean}, indent=1, ensure_ascii=False)
    write_text(folder / "result.json", text)
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


FILE, TABLE = "evaluation.json", "evaluation.csv"


def describe_model(model: MedCLIPModel, name: str = "") -> dict:
    """`name`, `note`, `encoder`, `parameters` and `sha256` of a model.

    sha256: of names, types, shapes and values of its tensors, so that it does not depend on the
        file that they came from, nor on the device that they are on.
    """
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{key} {values.dtype} {values.shape}".encode())
        digest.update(values.tobytes())
    return {
        "name": name,
        "note": model.note,
        "encoder": model.vision_model.config["backbone"],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "sha256": digest.hexdigest(),
    }


def write_results(
    folder: str | Path,
    results: Mapping[str, pandas.DataFrame],
    *,
    model: Mapping,
    dataset: str,
    seed: int,
    **settings,
) -> Path:
    """Write `evaluation.json` and, the same rows as a table, `evaluation.csv`; returns the former.

    results: {task: table of `evaluation` or `reproduce`}; each row has at least `value`.
    model: of `describe_model`. settings: whatever else the figures depend on, as JSON has it.

    Raises ValueError for a table without `value`.
    """
    import pandas as pd

    from .. import __version__
    from .environment import versions

    for task, table in results.items():
        if "value" not in table:
            raise ValueError(f"results[{task!r}] has columns {list(table)}, expected 'value'")
    rows = pd.concat([table.assign(task=task) for task, table in results.items()])
    rows = rows[["task", *rows.columns.drop("task")]]
    record = {
        "model": dict(model),
        "dataset": dataset,
        "seed": seed,
        "settings": settings,
        "versions": {"medclip_helpers": __version__, **versions()},
        "results": [_known(row) for row in rows.to_dict("records")],
    }
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / TABLE, rows.to_csv(index=False))
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(folder / FILE, text)
    return folder / FILE


def _known(row: Mapping) -> dict:
    """The row without its gaps: a table of several kinds of rows has many, and JSON has no NaN."""
    return {k: v for k, v in row.items() if not (isinstance(v, float) and math.isnan(v))}


def markdown_table(files: Sequence[str | Path]) -> str:
    """Results side by side: a row a figure, a column a file, below it what each model is.

    files: paths of `evaluation.json`, or their folders. Only figures of the whole are shown, not
    those of a single class; "-" where a file does not have one.

    Raises ValueError for no file, and for one that `write_results` did not write.
    """
    if not files:
        raise ValueError("files is empty: expected at least one evaluation.json")
    records = [_read(Path(file).expanduser()) for file in files]
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


def _read(path: Path) -> dict:
    file = path / FILE if path.is_dir() else path
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        missing = {"model", "dataset", "seed", "results"} - set(record)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is not what write_results writes: {error}") from error
    if missing:
        raise ValueError(f"{file} is not what write_results writes: no {sorted(missing)} in it")
    return record


def _is_overall(row: Mapping) -> bool:
    from ..evaluation import AVERAGE

    return row.get("class", AVERAGE) == AVERAGE


def _figure(row: Mapping) -> tuple[str, str]:
    name = row.get("metric", "accuracy").replace("_", " ")
    return row["task"], f"{name}, {row['prompts']}" if "prompts" in row else name


def _cell(row: Mapping) -> str:
    """ "0.89 ± 0.10 (0.87 to 0.91)": the value, its spread and its interval where there are."""
    spread = f" ± {row['sd']:.3f}" if "sd" in row else ""
    interval = f" ({row['low']:.3f} to {row['high']:.3f})" if "low" in row else ""
    return f"{row['value']:.3f}{spread}{interval}"
