"""Sweeps: planning without a kernel, and small notebooks through real ones."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import pytest

from medclip_helpers.__main__ import main
from medclip_helpers.runs import execution, plan, plan_files, read_sweep, run_all
from medclip_helpers.runs import sweep as sweeps
from medclip_helpers.runs.report import figures

ROOT = Path(__file__).parents[2]
FORM = """#@title Parameters
number = 1  #@param {type: "integer"}
word = "one"  #@param {type: "string"}
output_dir = ""  #@param {type: "string"}"""
CHECK = "from medclip_helpers.runs import check_parameters, record_result\ncheck_parameters(In)"
RESULT = 'record_result(output_dir, f"{word} is {number}", double=2 * number)'
FIGURE = "from PIL import Image\nImage.new('L', (8, 8), 9 * number)"


def write_notebook(path: Path, *cells: str, form: str = FORM) -> Path:
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(cell) for cell in (form, *cells)]
    notebook.cells[0].metadata.tags = ["parameters"]
    nbformat.write(notebook, path)
    return path


def run_medclip(*arguments, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "medclip_helpers", "run", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def read_csv(path: Path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def sweep(tmp_path):
    """A function that writes tmp_path/sweep.yaml and gives its path."""

    def write(text: str) -> Path:
        path = tmp_path / "sweep.yaml"
        path.write_text(text)
        return path

    write_notebook(tmp_path / "count.ipynb", CHECK, RESULT)
    return write


def test_list_and_grid_combine(sweep):
    path = sweep(
        "notebook: count.ipynb\noutput: out\nparameters: {word: x}\n"
        "runs: [{number: 1}, {number: 2}]\ngrid: {word: [a, b]}"
    )
    pairs, output = read_sweep(path)
    assert output == path.parent / "out"
    assert [tuple(chosen.values()) for _, chosen in pairs] == [
        ("a", 1),
        ("b", 1),
        ("a", 2),
        ("b", 2),
    ]
    assert len({run.folder for run in plan(pairs, output)}) == 4


def test_a_list_of_sweeps(sweep):
    other = write_notebook(sweep("").parent / "other.ipynb")
    path = sweep(
        "- {notebooks: [count.ipynb, other.ipynb]}\n- {notebook: count.ipynb, runs: [{number: 7}]}"
    )
    pairs, output = read_sweep(path)
    assert output == path.parent / "runs" / "sweep"
    runs = plan(pairs, output)
    assert [run.folder.name[:7] for run in runs] == ["count", "other", "count-7"]
    assert runs[1].notebook == other


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid: [", "is not YAML"),
        ("- 3", "expected a mapping with the keys"),
        ("notebok: count.ipynb", "expected a mapping with the keys"),
        ("grid: {number: [1]}", "`notebook` must be a path"),
        ("{notebook: count.ipynb, grid: {number: 1}}", "`grid` must map each parameter to a list"),
        ("{notebook: count.ipynb, grid: {number: []}}", "`grid` must map each parameter to a list"),
        ("{notebook: count.ipynb, runs: {number: 1}}", "`runs` must be a list"),
        (
            "{notebook: count.ipynb, runs: [{number: 1}], grid: {number: [2, 3]}}",
            r"\['number'\] is in `runs` and in `grid`",
        ),
        ("{notebook: count.ipynb, parameters: [1]}", "`parameters` must be a mapping"),
        ("{notebook: count.ipynb, notebooks: [count.ipynb]}", "expected one"),
        (
            "[{notebook: count.ipynb, output: a}, {notebook: count.ipynb, output: b}]",
            r"`output` is \['a', 'b'\]: expected one",
        ),
        ("[]", "nothing to run"),
        ("{notebook: gone.ipynb}", "there is no notebook .*gone.ipynb"),
        ("{notebook: sweep.yaml}", "sweep.yaml is not a notebook"),
        ("{notebook: count.ipynb, grid: {nmber: [1]}}", "parameter 'nmber'.*\n  number: int"),
        ("{notebook: count.ipynb, grid: {number: [1, x]}}", "'number' must be int, got str 'x'"),
        ("{notebook: count.ipynb, parameters: {output_dir: x}}", "output_dir is chosen"),
    ],
)
def test_a_wrong_sweep_is_named_before_anything_runs(sweep, text, message):
    with pytest.raises(ValueError, match=message):
        plan(*read_sweep(sweep(text)))


def test_two_notebooks_of_one_name_are_refused(tmp_path):
    (tmp_path / "sub").mkdir()
    pairs = [(write_notebook(tmp_path / name), {}) for name in ("a.ipynb", "sub/a.ipynb")]
    with pytest.raises(ValueError, match=r"two notebooks are called a\.ipynb"):
        plan(pairs, tmp_path / "out")


def test_fingerprint_follows_notebook_and_parameters_but_not_outputs(tmp_path):
    path = write_notebook(tmp_path / "a.ipynb", "number + 1")
    (run,) = plan([(path, {"number": 2, "word": "two"})], tmp_path)
    before = run.fingerprint()
    assert run._replace(parameters={"word": "two", "number": 2}).fingerprint() == before
    assert run._replace(parameters={"number": 3, "word": "two"}).fingerprint() != before
    notebook = nbformat.read(path, 4)
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="2")]
    nbformat.write(notebook, path)
    assert run.fingerprint() == before
    write_notebook(path, "number + 2")
    assert run.fingerprint() != before


def test_fingerprint_follows_the_package(tmp_path, monkeypatch):
    (run,) = plan([(write_notebook(tmp_path / "a.ipynb", "1"), {})], tmp_path)
    monkeypatch.setattr(sweeps, "PACKAGE", tmp_path / "package")
    found = set()
    for name, text in [("a.py", "1"), ("a.py", "2"), ("b.py", ""), ("__pycache__/a.pyc", "3")]:
        file = tmp_path / "package" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        sweeps._package_hash.cache_clear()
        found.add(run.fingerprint())
    sweeps._package_hash.cache_clear()
    assert len(found) == 3


def test_a_sweep_end_to_end(sweep, tmp_path):
    """Failures go on and are named; a second start does only what failed or changed."""
    write_notebook(tmp_path / "odd.ipynb", CHECK, FIGURE, "assert number % 2, 'even'", RESULT)
    path = sweep("notebook: odd.ipynb\noutput: out\ngrid: {number: [1, 2, 3]}")
    (tmp_path / "elsewhere").mkdir()
    done = run_medclip(path, "--processes", 3, cwd=tmp_path / "elsewhere")
    assert done.returncode == 1, done.stderr
    failure = "FAILED: cell 4 (assert number % 2, 'even'): AssertionError: even"
    for number, found in {1: "one is 1", 2: failure, 3: "one is 3"}.items():
        (line,) = re.findall(rf"^odd number={number} \| .*", done.stdout, re.M)
        assert re.fullmatch(rf"[\d.]+ s \| {re.escape(found)} \| \S+", line.partition(" | ")[2])
    assert "3 done, 1 failed" in done.stdout
    assert not done.stderr  # a progress bar is for terminals
    rows = read_csv(tmp_path / "out" / "summary.csv")
    assert [row["status"] for row in rows] == ["ok", "failed", "ok"]
    assert [row["metrics.double"] for row in rows] == ["2", "", "6"]
    assert [row["number"] for row in rows] == ["1", "2", "3"]
    assert all(float(row["seconds"]) > 0 for row in rows)
    folders = [tmp_path / "out" / row["folder"] for row in rows]
    assert all((folder / "odd.ipynb").is_file() for folder in folders)
    assert json.loads((folders[2] / "result.json").read_text())["metrics"] == {"double": 6}
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert figures(folders[0] / "odd.ipynb")[0].png in page
    assert "AssertionError: even" in page

    kept = (folders[0] / "run.json").stat().st_mtime_ns
    stale = folders[1] / "half-written.csv"
    stale.touch()
    again = run_medclip(path, cwd=tmp_path)
    assert again.returncode == 1
    assert re.findall(r"number=(\d) .*\(earlier\)", again.stdout) == ["1", "3"]
    assert (folders[0] / "run.json").stat().st_mtime_ns == kept
    assert stale.exists()  # nothing that a run has not written down is deleted

    path.write_text(path.read_text().replace("[1, 2, 3]", "[1, 3]"))
    assert run_medclip(path, cwd=tmp_path).returncode == 0
    assert len(read_csv(tmp_path / "out" / "summary.csv")) == 2


def test_each_result_is_shown_at_once_and_on_the_page(tmp_path):
    """While the next notebook runs; and the page has them by name, whichever ran first."""
    write_notebook(tmp_path / "b.ipynb", CHECK, RESULT)
    write_notebook(tmp_path / "c.ipynb", "import time\ntime.sleep(600)")
    write_notebook(tmp_path / "a.ipynb", CHECK, RESULT)
    page = tmp_path / "out" / "index.html"
    process = subprocess.Popen(
        [sys.executable, "-m", "medclip_helpers", "run", "b.ipynb", "a.ipynb", "c.ipynb"]
        + ["--output", "out", "--processes", "1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert f"3 to run; {page} grows after each of them" in process.stdout.readline()
    assert re.fullmatch(r"b \| [\d.]+ s \| one is 1 \| out/b\n", process.stdout.readline())
    assert process.stdout.readline().startswith("a | ")
    until = time.monotonic() + 60
    while "2 of 3 runs" not in page.read_text() and time.monotonic() < until:
        time.sleep(0.1)
    process.kill()
    process.communicate()
    assert re.findall(r'<h2><a href="(\w)/', page.read_text()) == ["a", "b"]
    assert "2 of 3 runs, none failed" in page.read_text()


def test_killed_in_the_middle_no_finished_run_is_lost(sweep, tmp_path):
    wait = "import time\nif number == 2 and word == 'one':\n    time.sleep(600)"
    write_notebook(tmp_path / "slow.ipynb", CHECK, wait, RESULT)
    path = sweep("notebook: slow.ipynb\noutput: out\ngrid: {number: [1, 2]}")
    records = {run.parameters["number"]: run.record for run in plan(*read_sweep(path))}
    process = subprocess.Popen(
        [sys.executable, "-m", "medclip_helpers", "run", str(path), "--processes", "2"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def status(number: int) -> str:
        return json.loads(records[number].read_text())["status"] if records[number].exists() else ""

    deadline = time.monotonic() + 120
    while status(1) != "ok" or status(2) != "running":
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = records[1].read_bytes()
    # number 2 would wait again, so the second start has a word with which it does not
    runs = "runs: [{number: 1}, {number: 2, word: two}]"
    path.write_text("notebook: slow.ipynb\noutput: out\n" + runs)
    assert run_medclip(path, cwd=tmp_path).returncode == 0
    assert records[1].read_bytes() == finished
    assert [row["summary"] for row in read_csv(tmp_path / "out" / "summary.csv")] == [
        "one is 1",
        "two is 2",
    ]


def test_interrupted_before_anything_is_done(sweep, tmp_path):
    write_notebook(tmp_path / "slow.ipynb", "import time\ntime.sleep(600)")
    (run,) = plan(*read_sweep(sweep("notebook: slow.ipynb\noutput: out")))
    process = subprocess.Popen(
        [sys.executable, "-m", "medclip_helpers", "run", tmp_path / "sweep.yaml"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background jobs, and so whatever they start, ignore the signal
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until = time.monotonic() + 120
    while not run.record.is_file() and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in said, said
    assert not (tmp_path / "out" / "summary.csv").exists()


def test_a_dying_kernel_is_one_failed_run(tmp_path):
    path = write_notebook(tmp_path / "dies.ipynb", "1", "import os; os._exit(9)")
    (run,) = plan([(path, {})], tmp_path / "out")
    (record,) = run_all([run], progress=False)
    assert record["status"] == "failed"
    assert record["error"].startswith("cell 3 (import os; os._exit(9)): DeadKernelError")
    assert record["files"] == ["dies.ipynb"]


def test_a_kernel_that_cannot_start_says_why_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "LAUNCH", "raise ImportError('no ipykernel here')")
    (run,) = plan([(write_notebook(tmp_path / "a.ipynb", "1"), {})], tmp_path / "out")
    (record,) = run_all([run], progress=False)
    assert record["status"] == "failed" and "Kernel died before" in record["error"]
    assert "ImportError: no ipykernel here" in (run.folder / "kernel.log").read_text()
    monkeypatch.undo()
    (record,) = run_all([run], progress=False)
    assert record["status"] == "ok" and record["files"] == ["a.ipynb"]


def test_what_a_kernel_writes_past_its_notebook_stays_out_of_the_way(tmp_path, capfd):
    cell = "import atexit, sys\natexit.register(print, 'socket closed', file=sys.__stderr__)"
    (run,) = plan([(write_notebook(tmp_path / "a.ipynb", cell), {})], tmp_path / "out")
    (record,) = run_all([run], progress=False)
    assert record["status"] == "ok" and record["files"] == ["a.ipynb"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(os.name == "nt", reason="kernels listen at ports there")
def test_kernels_listen_at_no_port(tmp_path, monkeypatch):
    cell = "import json, ipykernel\nfrom medclip_helpers.runs import record_result\n" + (
        "found = json.load(open(ipykernel.get_connection_file()))\n"
        "record_result(output_dir, found['ip'], tcp=found['transport'] != 'ipc')"
    )
    (run,) = plan([(write_notebook(tmp_path / "a.ipynb", cell), {})], tmp_path / "out")
    (record,) = run_all([run], progress=False)
    assert record["metrics"] == {"tcp": False}
    assert not Path(record["summary"]).parent.exists()  # removed with the kernel
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))  # as on a cluster: no socket's path fits
    (record,) = run_all([run], progress=False, force=True)
    assert record["metrics"] == {"tcp": True}


def test_a_kernel_cleans_up_before_it_ends(tmp_path):
    bye = tmp_path / "bye"
    cell = f"import atexit, gc, pathlib\nleave = pathlib.Path({str(bye)!r}).write_text\n" + (
        "atexit.register(lambda: leave(str(gc.get_freeze_count())))"
    )
    (run,) = plan([(write_notebook(tmp_path / "ends.ipynb", cell), {})], tmp_path / "out")
    (record,) = run_all([run], progress=False)
    assert record["status"] == "ok" and bye.read_text() == "0"  # nothing was frozen yet


def test_kernels_are_this_interpreter_and_share_the_cores(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cell = "import os, sys, joblib\nfrom medclip_helpers.runs import record_result\n" + (
        "found = {'threads': int(os.environ['OMP_NUM_THREADS']), 'workers': joblib.cpu_count()}\n"
        "record_result(output_dir, sys.executable, **found)"
    )
    runs = plan([(write_notebook(tmp_path / "who.ipynb", cell), {})], tmp_path / "out")
    (record,) = run_all(runs, processes=os.cpu_count(), progress=False)
    assert record["summary"] == sys.executable
    assert record["metrics"] == {"threads": 1, "workers": 1}
    assert "OMP_NUM_THREADS" not in os.environ


def test_relative_paths_start_at_the_sweep_files_folder_for_all_kernels_at_once(sweep, tmp_path):
    """And this process, whose threads start the kernels, stays where it is."""
    cell = "import os, time\ntime.sleep(0.5 * number)\nhere = os.getcwd()\n"
    cell += "record_result(output_dir, here, moved=here != word)"
    write_notebook(tmp_path / "where.ipynb", CHECK, cell)
    path = sweep("notebook: where.ipynb\noutput: out\ngrid: {number: [1, 2, 3]}")
    runs, output = plan_files([path])
    before = os.getcwd()
    seen = [(record["summary"], os.getcwd()) for record in run_all(runs, 2, progress=False)]
    assert output == tmp_path / "out"
    assert seen == [(str(tmp_path), before)] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.yaml"], "expected one existing sweep file"),
        (["a.ipynb", "b.yaml"], "expected one existing sweep file"),
        (["gone.ipynb"], "there is no notebook"),
    ],
)
def test_bad_arguments_end_with_2(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["run", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_no_processes_are_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["run", "gone.ipynb", "--processes", "0"])
    assert "argument --processes: '0', expected a whole number" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["papermill", "ipykernel"])
def test_what_is_missing_is_said(name, tmp_path):
    write_notebook(tmp_path / "a.ipynb")
    source = f"import sys; sys.modules[{name!r}] = None\n"
    source += "import importlib.util as u; find = u.find_spec\n"
    source += f"u.find_spec = lambda n, *p: None if n == {name!r} else find(n, *p)\n"
    source += "from medclip_helpers.__main__ import main; sys.exit(main(['run', 'a.ipynb']))"
    done = subprocess.run(
        [sys.executable, "-c", source],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == f"medclip run: {name} is not installed: python -m pip install {name}\n"


def test_two_batches_in_one_folder_are_refused(tmp_path):
    holder = "import time; from medclip_helpers.hub import locked_folder\n"
    holder += f"with locked_folder({str(tmp_path / 'out')!r}): print(1, flush=True); time.sleep(60)"
    write_notebook(tmp_path / "a.ipynb", "1")
    with subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"1\n"
        told = run_medclip(tmp_path / "a.ipynb", "--output", tmp_path / "out", cwd=tmp_path)
        other.kill()
    assert told.returncode == 2
    assert f"is in use by process {other.pid}" in told.stderr
    assert "Traceback" not in told.stderr


def test_what_a_person_put_into_a_runs_folder_stays(tmp_path):
    write_notebook(tmp_path / "a.ipynb", "open(output_dir + '/made.txt', 'w').write('x')")
    arguments = [tmp_path / "a.ipynb", "--output", tmp_path / "out"]
    assert run_medclip(*arguments, cwd=tmp_path).returncode == 0
    folder = tmp_path / "out" / "a"
    (folder / "mine.txt").write_text("mine")
    write_notebook(tmp_path / "a.ipynb", "1")
    for _ in range(2):
        assert run_medclip(*arguments, "--force", cwd=tmp_path).returncode == 0
        assert (folder / "mine.txt").read_text() == "mine"
    assert not (folder / "made.txt").exists()


def test_an_output_folder_may_be_moved(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_notebook(tmp_path / "a.ipynb", "1")
    assert main(["run", "a.ipynb", "--output", "out"]) == 0
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    assert main(["run", "a.ipynb", "--output", "elsewhere"]) == 0
    assert re.search(r"\(earlier\) \| done \| elsewhere/a$", capsys.readouterr().out, re.M)


def test_a_run_json_of_somebody_else_is_left_alone(tmp_path):
    write_notebook(tmp_path / "a.ipynb", "1")
    folder = tmp_path / "out" / "a"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"mine": 1}')
    told = run_medclip(tmp_path / "a.ipynb", "--output", tmp_path / "out", cwd=tmp_path)
    assert told.returncode == 2 and "run.json is not of this package" in told.stderr
    assert (folder / "run.json").read_text() == '{"mine": 1}'
