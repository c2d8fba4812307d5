"""The benchmark program: its table, its protocol between processes, one small part. No timings."""

import ast
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from medclip_helpers.demo import draw_phantom
from medclip_helpers.radiographs import read_radiograph

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def benchmarks(monkeypatch):
    """The folder tools/benchmarks as a package: benchmarks("report") is that module."""
    monkeypatch.syspath_prepend(TOOLS)
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def run(*arguments, program="benchmark.py", check: bool = True) -> subprocess.CompletedProcess:
    command = [sys.executable, TOOLS / program, *arguments]
    return subprocess.run(command, check=check, capture_output=True, text=True)


def test_help_names_every_part(benchmarks):
    text = " ".join(run("--help").stdout.split())
    assert ", ".join(benchmarks("parts").PARTS) in text
    assert "load" in benchmarks("parts").PARTS


def test_unknown_part_is_an_error():
    done = run("everything", check=False)
    assert done.returncode == 2 and "unknown part 'everything', expected some of" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_that_is_said():
    done = run("cuda", check=False)
    assert done.returncode == 2 and "no CUDA here" in done.stderr


@pytest.mark.slow
def test_the_part_for_a_gpu_runs_in_miniature(tmp_path):
    """So that it works on the day that there is a GPU."""
    done = run("cuda", "--device", "cpu", "--small", "--folder", tmp_path)
    record = json.loads((tmp_path / "benchmarks.json").read_text())
    rows = {row["measure"]: row for row in record["rows"]}
    assert not [measure for measure in rows if "failed" in measure], done.stdout
    assert all(row["part"] == "cuda" and row["ours"] is not None for row in rows.values())
    for half in ("the same again", "killed and continued"):
        assert rows[f"demo model, 4 steps, {half}: largest change of a weight"]["ours"] == 0
    changes = [rows[f"vit, largest change of a logit, {name}"]["ours"]
               for name in ("float32, TF32 in nothing", "bfloat16")]  # fmt: skip
    assert changes[0] == 0 < changes[1] < 0.5
    for start in ("vit, batch 4, float32", "4 PNG files of", "pretraining, batch 4", "notebook 00"):
        assert any(measure.startswith(start) for measure in rows)


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


@pytest.mark.parametrize(
    ("program", "option"), [("benchmark.py", ["--table"]), ("measure_labeller.py", [])]
)
@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), ("{}", "this is not a result|could not be opened")],
    ids=["missing", "other"],
)
def test_a_file_that_cannot_be_read_is_said_in_a_line(program, option, content, said, tmp_path):
    file = tmp_path / "some.file"
    if content:
        file.write_text(content)
    done = run(*option, file, program=program, check=False)
    assert done.returncode == 2 and not done.stdout
    assert re.fullmatch(f"{file}: .*({said}).*\n", done.stderr)


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
    rows = [*benchmarks("parts").run("growth", bench)]  # the world's images are not there
    assert len(rows) == 1 and rows[0].measure == "failed"
    assert "FileNotFoundError" in rows[0].note and "images" in rows[0].note


def test_a_small_part_runs(benchmarks, bench):
    bench.quick = True
    rows = [*benchmarks("parts").run("explorer", bench)]
    assert len(rows) == 4 and all(row.unit == "s" and row.ours > 0 for row in rows)


# --- the rows of every part -----------------------------------------------------------------------

SECONDS = {"ours": 2, "published": 30, "bare": 1, "training": 2, "explorer": 2, "reading": 2,
           "modes": 2, "cuda": 2}  # fmt: skip
PEAKS = {"ours": 700, "published": 900, "bare": 500}
FOUND = {  # what the cases return
    "load": {"parameters": 100 * (1 << 20) / 4},  # 100 MB of weights
    "stages": {"PNG|open": 1, "PNG|decode": 9, "JPEG|open": 1, "JPEG|decode": 2},
    "step": {"forward": 0.2, "backward": 0.5, "optimizer": 0.2, "clipping": 0.05, "outside": 0.1,
             "seconds": 3},
    "growth": {"fresh": 0.2, "used": 0.3},
    "one_image": {"bare": 1, "float32": 0.25, "bfloat16": 0.25},
    "many_files": {"bare": 1, "OpenVINO bfloat16": 0.5},
    "changes": {"one text edited": 0.1, "matrix of all images": 0.4},
    "in_chromium": {"whole": 0.14, "kernel": 0.06},
    "sampling": {"built": 5},
    "inference": {"batch 1, float32|ms|ours": 5, "batch 1, float32|ms|bare": 4,
                  "batch 1, float32, peak memory|GiB|ours": 2},
}  # fmt: skip


def has_case(side: str, case: str, options: dict) -> bool:
    """Whether the side's file has the function with these options, without importing it."""
    tree = ast.parse((TOOLS / "benchmarks" / f"{side}.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == case:
            return {"world", *options} == {argument.arg for argument in node.args.args}
    return False


@pytest.fixture
def played(benchmarks, bench, monkeypatch):
    """part -> its rows {measure: (unit, {side: value}, aims)}, of measurements that are played."""
    parts, Measured = benchmarks("parts"), benchmarks("sides").Measured
    bench.published, bench.small = Path(sys.executable), True
    (bench.world / "served").mkdir()
    (bench.world / "served" / "medclip-vit-pretrained.zip").touch()
    asked = []

    def measured(side: str, case: str, options: dict) -> Measured:
        assert has_case(side, case, options)
        found = {name: [value] for name, value in FOUND.get(case, {}).items()}
        peak = PEAKS.get(side, 0)
        return Measured(2 * SECONDS[side], [SECONDS[side]] * 3, 300, peak, found)

    def alternate(bench, case, calls, rounds, options=None):
        asked.append((case, calls, rounds, options))
        return {side: measured(side, case, options or {}) for side in calls}

    def fresh(bench, case, sides, rounds, options):
        Path(options["scratch"].format(round=0)).mkdir(parents=True, exist_ok=True)
        return {side: measured(side, case, options) for side in sides}

    def imports(command, **_):
        second = 4 if "import medclip;" in command[-1] else 0.1
        return subprocess.CompletedProcess(command, 0, f"noise\n{second} False\n", "")

    monkeypatch.setattr(parts, "_precisions", lambda: ("float32", "bfloat16"))
    monkeypatch.setattr(parts, "alternate", alternate)
    monkeypatch.setattr(parts, "fresh", fresh)
    monkeypatch.setattr(parts.subprocess, "run", imports)

    def play(name: str) -> dict:
        rows = {}
        for row in parts.run(name, bench):
            values = {side: getattr(row, side) for side in ("ours", "published", "bare")}
            values = {side: value for side, value in values.items() if value is not None}
            assert row.measure not in rows
            rows[row.measure] = (row.unit, values, row.aims)
        return rows

    play.asked = asked
    return play


MEGA = "1024 x 1024"
ROWS = {
    "image": {
        f"1 image, 5 classes x 10 prompts, {precision}, {call}": row
        for precision, aims in {
            "float32": {"published": 10, "bare": 1.1},
            "bfloat16": {"published": 40, "bare": 1 / 1.5},
        }.items()
        for call, row in {
            "first call": ("ms", {"ours": 4000, "published": 60_000}, {}),
            "steady": ("ms", {"ours": 2000, "published": 30_000, "bare": 1000}, aims),
        }.items()
    },
    "files": {
        f"{count} PNG files of {MEGA}, {precision}{measure}": row
        for count in (32, 256)
        for precision, most in {"float32": 1.15, "bfloat16": 1 / 1.4}.items()
        for measure, row in {
            ", 5 x 10 prompts": (
                "images/s",
                {"ours": count / 2, "published": count / 30},
                {"published": 9} if count == 256 else {},
            ),
            ", 5 x 1 prompts": ("images/s", {"ours": count / 2, "bare": count}, {"bare": most}),
            ": peak memory of the process": ("MB", PEAKS, {}),
        }.items()
    },
    "modes": {
        **{
            f"{encoder}, {batch} at once, {mode}": (
                "images/s",
                {"ours": 4 * batch, "bare": batch},
                {"bare": 1 / 1.5} if (encoder, mode) == ("vit", "bfloat16") else {},
            )
            for encoder in ("vit", "resnet")
            for batch in (1, 8, 32)
            for mode in ("float32", "bfloat16")
        },
        f"256 PNG files of {MEGA}, OpenVINO bfloat16": (
            "images/s",
            {"ours": 512, "bare": 256},
            {"bare": 1 / 1.9},
        ),
    },
    "text": {"1,000 sentences": ("texts/s", {"ours": 500, "published": 1000 / 30}, {})},
    "load": {
        "import": ("s", {"ours": 0.1, "published": 4}, {"most": 0.3}),
        "load, cold (download, unpack, convert)": ("s", {"ours": 2, "published": 30}, {}),
        "load, cold (download, unpack, convert): peak memory": (
            "x weights",
            {"ours": 4, "published": 6},
            {},
        ),
        "load, warm": ("s", {"ours": 2, "published": 30}, {"most": 2}),
        "load, warm: peak memory": ("x weights", {"ours": 4, "published": 6}, {"most": 1.3}),
    },
    "reading": {
        f"{name}, {side} x {side}": ("ms", {"ours": ms}, {})
        for side in (1024, 2048)
        for name, ms in {"PNG": 10, "JPEG": 3}.items()
    },
    "loader": {
        f"pretraining loader, images of {MEGA}": (
            "items/s",
            {"ours": 100, "published": 200 / 30},
            {},
        )
    },
    "step": {
        "step of batch 8": ("s", {"ours": 3}, {}),
        "step of batch 8: outside forward, backward, optimizer": ("%", {"ours": 10}, {"most": 5}),
    },
    "growth": {
        **{
            f"{count:,} images, demo model, {measure}": row
            for count in (10, 100, 1000, 10_000)
            for measure, row in {
                "time an image": ("ms", {"ours": 2000 / count}, {}),
                "peak memory": ("MB", {"ours": 700}, {}),
            }.items()
        },
        "an image among 10,000 against one among 1,000": ("times", {"ours": 0.1}, {"most": 1.1}),
        "explorer, a new text after none": ("s", {"ours": 0.2}, {}),
        "explorer, a new text after 1,000": ("s", {"ours": 0.3}, {}),
        "explorer, after 1,000 against after none": ("times", {"ours": 1.5}, {"most": 1.1}),
    },
    "explorer": {
        measure: row
        for model, most in (("demo", 0.05), ("full", 0.15))
        for measure, row in {
            f"one text edited, {model} model": ("s", {"ours": 0.1}, {}),
            f"matrix of all images, {model} model": ("s", {"ours": 0.4}, {}),
            f"one text edited, in Chromium, {model} model": ("s", {"ours": 0.14}, {"most": most}),
            f"one text edited, in Chromium, {model} model: the kernel's share": (
                "s",
                {"ours": 0.06},
                {},
            ),
        }.items()
    },
    "sampling": {
        "build, 50,000 sentences": ("s", {"ours": 5, "published": 5}, {}),
        "draw a sentence": ("items/s", {"ours": 50, "published": 100 / 30}, {}),
        "draw an item, image of 8 x 8": ("items/s", {"ours": 50, "published": 100 / 30}, {}),
    },
    "cuda": {
        "batch 1, float32": ("ms", {"ours": 5, "bare": 4}, {}),
        "batch 1, float32, peak memory": ("GiB", {"ours": 2}, {}),
    },
}


@pytest.mark.parametrize("part", ROWS)
def test_rows(part, played):
    rows = played(part)
    assert list(rows) == list(ROWS[part])
    for measure, (unit, values, aims) in ROWS[part].items():
        assert rows[measure] == (unit, pytest.approx(values), aims), measure


def test_rows_are_known_of_every_part(benchmarks):
    assert list(ROWS) == list(benchmarks("parts").PARTS)


def test_a_median_has_several_calls_behind_it(played):
    """Where a call is short enough."""
    played("files")
    rounds = [(r, o["count"]) for _, _, r, o in played.asked if o["prompts"] == 1]
    assert rounds == [(5, 32), (5, 32), (2, 256), (2, 256)]


def test_growth_is_warm_before_it_is_measured(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(TOOLS / "benchmarks")
    ours, called = importlib.import_module("ours"), []
    monkeypatch.setattr(ours, "load_medclip", lambda *_, **__: (None, None))
    monkeypatch.setattr(ours, "read_prompts", lambda _: {})
    monkeypatch.setattr(ours, "classify_images", lambda *given, **_: called.append(len(given[2])))
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "0.png").touch()
    call = ours.growth(tmp_path, 1000)
    assert called == [10]
    call()
    assert called == [10, 1000]


def test_the_stages_of_reading(benchmarks, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(TOOLS / "benchmarks")
    reading = importlib.import_module("reading")
    grey = draw_phantom(0, size=64).image
    files = reading.write_files(tmp_path / "reading", 64)
    for name, file in files.items():
        read = np.asarray(read_radiograph(file), int)
        changed = "16 bits" in name or name in ("JPEG", "JPEG, RGB", "DICOM JPEG")
        assert abs(read - grey).max() <= (40 if changed else 0), name
    found = reading.stages(tmp_path, 64)()
    every = ["open", "decode", "grey", "square", "resize", "normalise"]
    assert list(found) == [f"{name}|{stage}" for name in files for stage in every]
    assert min(found.values()) > 0


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
