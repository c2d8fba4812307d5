"""The benchmark program: its table, its protocol between processes, one small part. No timings."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture
def benchmarks(monkeypatch):
    """The folder tools/benchmarks as a package: benchmarks("report") is that module."""
    monkeypatch.syspath_prepend(TOOLS)
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def run(*arguments, check: bool = True) -> subprocess.CompletedProcess:
    command = [sys.executable, TOOLS / "benchmark.py", *arguments]
    return subprocess.run(command, check=check, capture_output=True, text=True)


def test_help_names_every_part(benchmarks):
    text = " ".join(run("--help").stdout.split())
    assert ", ".join(benchmarks("parts").PARTS) in text
    assert "load" in benchmarks("parts").PARTS


def test_unknown_part_is_an_error():
    done = run("--only", "everything", check=False)
    assert done.returncode == 2 and "invalid choice: 'everything'" in done.stderr


@pytest.mark.parametrize(
    ("unit", "ours", "other", "times"), [("ms", 20, 50, 2.5), ("images/s", 50, 20, 2.5)]
)
def test_ratios_know_what_better_is(benchmarks, unit, ours, other, times):
    row = benchmarks("report").Row("p", "m", unit, ours=ours, published=other, bare=other)
    assert row.over_published == pytest.approx(times)
    assert row.over_bare == pytest.approx(1 / times)


@pytest.mark.parametrize(
    ("aims", "met"),
    [
        ({}, None),
        ({"published": 10}, True),
        ({"published": 11}, False),
        ({"bare": 1.25}, True),
        ({"published": 10, "bare": 1.24}, False),
        ({"most": 100}, True),
        ({"most": 99}, False),
    ],
)
def test_aims(benchmarks, aims, met):
    row = benchmarks("report").Row("p", "m", "ms", ours=100, published=1000, bare=80, aims=aims)
    assert row.met is met


def test_an_aim_without_its_measure_is_neither_met_nor_missed(benchmarks):
    assert benchmarks("report").Row("p", "m", "ms", ours=1, aims={"published": 10}).met is None


def test_table_from_a_json_file(benchmarks, tmp_path):
    Row = benchmarks("report").Row
    rows = [
        Row("image", "steady", "ms", 60, 3000, 62, aims={"published": 10, "bare": 1.1}),
        Row("load", "warm", "s", 2.5, aims={"most": 2}, note="stand-ins"),
        Row("load", "cold", "s", 4, note="stand-ins"),
        Row("cuda", "images/s", note="no CUDA here"),
    ]
    file = tmp_path / "result.json"
    file.write_text(json.dumps({"machine": {"cores": 2}, "rows": [r.as_dict() for r in rows]}))
    lines = run("--table", file).stdout.splitlines()
    assert lines[0] == "cores 2"
    steady, warm, cold, cuda = (line.split() for line in lines[3:7])
    assert steady[2:9] == ["60", "ms", "3,000", "ms", "62", "ms", "50"] and steady[-1] == "yes"
    assert warm[2:5] == ["[1]", "2.5", "s"] and warm[-1] == "NO"
    assert cold[2] == "[1]" and cuda[2] == "[2]"
    assert lines[-2:] == ["[1] stand-ins", "[2] no CUDA here"]


@pytest.fixture
def bench(benchmarks, tmp_path):
    (tmp_path / "world").mkdir()
    sides = benchmarks("sides")
    return sides.Bench(tmp_path / "world", tmp_path / "log", Path(sys.executable), None, threads=1)


def test_sides_take_turns_in_processes_of_their_own(benchmarks, bench, monkeypatch):
    for side in ("left", "right"):
        (bench.world / f"{side}.py").write_text(
            "import os\n"
            "def case(world, step):\n"
            "    print('noise')\n"
            "    def call():\n"
            "        with open(world / 'calls', 'a') as file:\n"
            f"            file.write('{side} ')\n"
            "        return {'pid': os.getpid(), 'step': step}\n"
            "    return call\n"
        )
    environment = bench.environment
    path = {"PYTHONPATH": str(bench.world)}
    monkeypatch.setattr(bench, "environment", lambda side: environment(side) | path)
    sides = benchmarks("sides")
    calls = {"left": 2, "right": 1, "published": 1}  # which is not there
    found = sides.alternate(bench, "case", calls, 2, {"step": 3})
    assert list(found) == ["left", "right"]
    once, again = ["left", "right"], ["left", "left", "right"]
    assert (bench.world / "calls").read_text().split() == once + again + again
    assert len(found["left"].seconds) == 4 and len(found["right"].seconds) == 2
    assert found["left"].value("step") == 3
    assert found["left"].value("pid") != found["right"].value("pid")
    assert found["left"].peak_mb >= found["left"].before_mb > 0
    assert "noise" in bench.log.read_text()


def test_a_side_that_fails_is_a_row_with_the_reason(benchmarks, bench):
    rows = benchmarks("parts").run("growth", bench)  # the world's images are not there
    assert len(rows) == 1 and rows[0].measure == "failed"
    assert "FileNotFoundError" in rows[0].note and "images" in rows[0].note


def test_a_small_part_runs(benchmarks, bench):
    bench.quick = True
    rows = benchmarks("parts").run("explorer", bench)
    assert len(rows) == 4 and all(row.unit == "s" and row.ours > 0 for row in rows)


def test_memory_is_measured(benchmarks):
    worker = benchmarks("worker")
    found = worker.measure(lambda: {"size": len(bytearray(200 << 20))}, 1)
    assert found["found"] == {"size": 200 << 20}
    assert found["peak_mb"] - found["before_mb"] > 190


def test_shares_of_a_step(benchmarks, monkeypatch):
    monkeypatch.syspath_prepend(TOOLS / "benchmarks")
    spans = {"forward": [], "backward": [], "optimizer": [], "clipping": []}
    for start in (0, 100, 110, 120):  # the first step is slow: it does not count
        spans["forward"].append((start, start + 2))
        spans["backward"].append((start + 2, start + 6))
        spans["clipping"].append((start + 6, start + 7))
        spans["optimizer"].append((start + 7, start + 8))
    found = importlib.import_module("training")._shares(spans)
    expected = {"forward": 0.2, "backward": 0.4, "clipping": 0.1, "optimizer": 0.1}
    assert found == pytest.approx(expected | {"outside": 0.3, "seconds": 10})
