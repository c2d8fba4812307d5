"""What a run found: one file, and several of them side by side."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from medclip_helpers.evaluation import evaluate_classification
from medclip_helpers.hub import FORMAT
from medclip_helpers.runs import describe_model, markdown_table, read_result, record_result


def test_record_result_writes_plain_json(tmp_path):
    folder = tmp_path / "new" / "folder"
    summary = record_result(
        folder, "été: 3 found", count=np.int64(3), share=torch.tensor(0.25), bad=float("nan"),
        name="x", nothing=None, right=np.bool_(True),
    )  # fmt: skip
    assert summary == "été: 3 found"
    record = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert {"torch", "medclip_helpers", "python"} <= set(record.pop("versions"))
    assert record == {
        "format": FORMAT,
        "summary": summary,
        "metrics": {
            "count": 3, "share": 0.25, "bad": None, "name": "x", "nothing": None, "right": True,
        },
    }  # fmt: skip
    assert [path.name for path in folder.iterdir()] == ["result.json"]


@pytest.mark.parametrize("value", [[1], {"a": 1}, np.zeros(0), np.zeros(3)])
def test_record_result_refuses_what_is_no_number(tmp_path, value):
    with pytest.raises(ValueError, match="metric 'scores' is a"):
        record_result(tmp_path, "x", scores=value)
    assert list(tmp_path.iterdir()) == []


def record(folder, small_model, name="small", **settings):
    """A result with two tables, of different kinds of rows."""
    labels, scores = np.arange(30) % 3, np.random.default_rng(0).normal(size=(30, 3))
    draws = pd.DataFrame({"prompts": ["one prompt", "ensemble"], "value": [0.6, 0.7]})
    draws = draws.assign(low=draws["value"] - 0.01, high=draws["value"] + 0.01, sd=0.02)
    tables = {
        "zero-shot": evaluate_classification(labels, scores, ["a", "b", "c"], resamples=20),
        "draws": draws,
    }
    model = describe_model(small_model, name)
    record_result(
        folder, "well", tables=tables, model=model, dataset="demo", seed=3, settings=settings,
        best=0.7,
    )  # fmt: skip
    return folder / "result.json"


def test_results_hold_what_a_figure_depends_on(small_model, tmp_path):
    file = record(tmp_path / "run", small_model, draws=5)
    found = json.loads(file.read_text())
    assert found["format"] == FORMAT
    assert found["summary"] == "well" and found["metrics"] == {"best": 0.7}
    assert found["dataset"] == "demo" and found["seed"] == 3
    assert found["settings"] == {"draws": 5}
    assert found["model"]["note"] == small_model.note
    assert {"torch", "medclip_helpers", "python"} <= set(found["versions"])
    rows = pd.read_csv(file.parent / "result.csv")
    assert len(rows) == len(found["results"]) > 10
    for row, kept in zip(rows.to_dict("records"), found["results"], strict=True):
        assert row["task"] == kept["task"] and row["value"] == pytest.approx(kept["value"])
        assert {name for name, value in row.items() if value == value} == set(kept)  # no NaN
    with pytest.raises(ValueError, match=r"tables\['x'\] has columns \['a'\]"):
        record_result(tmp_path / "not", "x", tables={"x": pd.DataFrame({"a": [1]})})
    assert not (tmp_path / "not").exists()


def test_checksum_is_of_the_weights(small_model):
    first = describe_model(small_model)["sha256"]
    assert describe_model(small_model, "another name")["sha256"] == first
    with torch.no_grad():
        small_model.vision_model.projection_head.weight[0, 0] += 1e-3
    assert describe_model(small_model)["sha256"] != first


def test_markdown_table_of_several_runs(small_model, tmp_path):
    files = [record(tmp_path / name, small_model, name) for name in ("one", "two")]
    found = json.loads(files[1].read_text())
    found["results"] = [row for row in found["results"] if row["task"] == "draws"]
    files[1].write_text(json.dumps(found))
    lines = markdown_table([files[0], files[1].parent]).splitlines()
    assert lines[0] == "| task | figure | one on demo, seed 3 | two on demo, seed 3 |"
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    cell = "0.700 ± 0.020 (0.690 to 0.710)"
    assert f"| draws | accuracy, ensemble | {cell} | {cell} |" in lines
    (shown,) = [line for line in lines if line.startswith("| zero-shot | accuracy |")]
    assert shown.endswith("| - |")
    assert sum(small_model.note in line for line in lines) == 2  # a table never goes without it


def test_a_figure_that_is_no_number_is_a_dash(small_model, tmp_path):
    table = pd.DataFrame({"metric": ["auc", "f1"], "value": [float("nan"), 0.5]})
    model = describe_model(small_model, "small")
    record_result(tmp_path, "x", tables={"t": table}, model=model, dataset="demo", seed=0)
    lines = markdown_table([tmp_path]).splitlines()
    assert lines[2:4] == ["| t | auc | - |", "| t | f1 | 0.500 |"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "is not from record_result"),
        ("[1]", "is not from record_result"),
        ("no JSON", "is not JSON"),
        ('{"summary": "", "metrics": {}, "metrics": {}}', "has 'metrics' twice"),
        ('{"format": 99}', "is of format 99"),
        ('{"summary": "x", "metrics": {}, "seed": 1}', "recorded without .'dataset', 'model', 're"),
    ],
)
def test_a_file_that_is_no_result_is_named(content, message, tmp_path):
    file = tmp_path / "result.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=rf"result\.json.* {message}"):
        markdown_table([file])


def test_a_result_is_read_as_it_was_recorded(tmp_path):
    record_result(tmp_path, "fine", n=3)
    assert read_result(tmp_path) == read_result(tmp_path / "result.json")
    assert read_result(tmp_path)["metrics"] == {"n": 3}
    with pytest.raises(ValueError, match="files is empty"):
        markdown_table([])
    with pytest.raises(FileNotFoundError, match="gone"):
        markdown_table([tmp_path / "gone"])


def test_patients_never_seen_have_a_row_of_their_own(small_model, tmp_path):
    rows = {"metric": "accuracy", "prompts": "ensemble", "patients": ["all", "never seen"]}
    table = pd.DataFrame({**rows, "value": [0.9, 0.1]})
    model = describe_model(small_model, "small")
    record_result(tmp_path, "x", tables={"t": table}, model=model, dataset="demo", seed=0)
    assert markdown_table([tmp_path]).splitlines()[2:4] == [
        "| t | accuracy, ensemble | 0.900 |",
        "| t | accuracy, ensemble, patients never seen | 0.100 |",
    ]
