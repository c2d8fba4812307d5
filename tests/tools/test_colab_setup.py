"""colab_setup.sh, with a python, uv and df that only write down what they are asked for."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from medclip_helpers.runs import plan

ROOT = Path(__file__).parents[2]
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PYTHON = f"""#!/usr/bin/env bash
echo "python $* ${{PIP_EXTRA_INDEX_URL:-}}" >>"$LOG"
case "$*" in
    *version_info*) [ "${{0##*/}}" = python3.13 ] && echo 3.13 || echo 3.11 ;;
    *find_spec*) exit "${{WITHOUT_TORCH:-1}}" ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m pip config list") echo "${{PIP_SETTINGS:-}}" ;;
    *{CPU_INDEX}*) echo "ERROR: no index" >&2 && exit "${{WITHOUT_INDEX:-0}}" ;;
    "-m pip install"*) echo "WARNING: as root" && exit "${{WITHOUT_PIP:-0}}" ;;
esac
"""
UV = """#!/usr/bin/env bash
echo "uv $*" >>"$LOG"
[ "$1" != venv ] || { mkdir -p "${@: -1}/bin" && cp "${0%uv}python3" "${@: -1}/bin/python"; }
exit "${WITHOUT_UV:-0}"
"""
DF = 'echo; echo "disk 0 0 $((${FREE:-50} * 1048576)) 0 /"'


@pytest.fixture
def setup(tmp_path):
    """A function that runs a copy of the script: what it printed, and what it asked for."""
    here = tmp_path / "clone"
    shutil.copytree(ROOT / "constraints", here / "constraints")
    for name in ("colab_setup.sh", "pyproject.toml", "requirements-colab.txt"):
        shutil.copy(ROOT / name, here)
    (here / "notebooks").mkdir()
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        (here / "notebooks" / notebook.name).touch()
    commands = {"python3": PYTHON, "python3.13": PYTHON, "df": f"#!/usr/bin/env bash\n{DF}\n"}

    def run(*arguments, uv=False, terminal=False, code=0, **variables) -> tuple[str, list[str]]:
        folder, log = tmp_path / "bin", tmp_path / "log"
        folder.mkdir(exist_ok=True)
        log.write_text("")
        for name, text in (commands | ({"uv": UV} if uv else {})).items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        variables |= {"PATH": f"{folder}:/usr/bin:/bin", "HOME": str(tmp_path), "LOG": str(log)}
        command = ["bash", here / "colab_setup.sh", *arguments]
        reader, writer = os.openpty() if terminal else os.pipe()
        done = subprocess.run(command, env=variables, stdout=writer, stderr=writer)
        said = os.read(reader, 50_000).decode()  # little, and all of it is there
        os.close(reader), os.close(writer)
        assert done.returncode == code, said
        return said, log.read_text().splitlines()

    return run


def installs(log: list[str]) -> list[str]:
    return [line for line in log if " install " in line]


def test_each_step_is_said_with_its_size_and_its_seconds(setup):
    said, log = setup()
    steps = re.findall(r"^ {3}(.+)\n(?:WARNING.*\n)?   done in \d+ s$", said, re.M)
    assert steps == ["a new environment", "packages: 3.5 GB to download, 7 GB on disk"]
    again, log = setup()
    assert "already there" in again and not installs(log)


@pytest.mark.parametrize("terminal", [False, True])
def test_a_terminal_has_the_bar_of_pip_and_a_log_its_errors_alone(setup, terminal):
    _, log = setup(terminal=terminal)
    (line,) = installs(log)
    assert ("-q" in line) is not terminal
    assert terminal or "-qq" in line.split()


def test_uv_where_it_is_at_hand(setup):
    said, log = setup(uv=True)
    made, installed = [line for line in log if line.startswith("uv ")]
    assert "--seed" in made and made.endswith("clone/.venv")
    assert re.search(r"--python \S+clone/.venv/bin/python .*--editable \S+\[notebooks,", installed)
    assert installs(log) == [installed]


def test_pip_where_uv_fails(setup):
    said, log = setup(uv=True, WITHOUT_UV="1")
    assert [line.split()[0] for line in installs(log)] == ["uv", "python"]
    assert any(line.startswith("python -m venv ") for line in log)
    assert "now with pip" in said and "ready: " in said


def test_pip_where_it_has_settings_that_uv_does_not_read(setup):
    _, log = setup(uv=True, PIP_SETTINGS="global.index-url='https://mirror'")
    assert not any(line.startswith("uv ") for line in log)
    assert len(installs(log)) == 1


def test_pip_that_fails_ends_it_with_a_hint(setup):
    said, _ = setup(code=1, WITHOUT_PIP="1")
    assert "pip could not install what is needed" in said and "ready" not in said
    again, log = setup()
    assert installs(log) and "ready: " in again  # a half-made environment is not kept


def test_a_python_may_be_named_by_a_relative_path(setup, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, before = setup(WITHOUT_TORCH="0")
    said, log = setup(PYTHON="bin/python3", WITHOUT_TORCH="0")
    assert f"at {tmp_path}/bin/python3 has torch" in said and log == before


MODULES = re.compile(r"missing_of\(\) {.*?<<'PYTHON'\n(.*?)\nPYTHON\n", re.S)


@pytest.mark.parametrize(
    ("lines", "keep", "said"),
    [
        (
            '["torch>=2", "no-such-package>=1", "pytest>=7"]',
            [],
            "wget-of-none>=3\nno-such-package>=1",
        ),
        ('["pytest>=9999"]', [], "wget-of-none>=3\npytest>=9999"),
        ('["pytest>=9999"]', ["pytest"], "pytest>=9999 is needed, .* has .*: upgrade it, or name"),
    ],
)
def test_all_that_the_package_needs_is_looked_for(tmp_path, lines, keep, said):
    """Not only what Colab lacks: another environment may have torch and nothing else."""
    (tmp_path / "colab.txt").write_text("wget-of-none>=3  # why\n")
    (tmp_path / "pyproject.toml").write_text(
        f"[project]\ndependencies = {lines}\n[project.optional-dependencies]\nnotebooks = []\n"
    )
    (source,) = MODULES.findall((ROOT / "colab_setup.sh").read_text())
    command = [sys.executable, "-c", source, "colab.txt", "pyproject.toml", *keep]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert re.search(f"{said}", done.stdout + done.stderr), done
    assert done.returncode == bool(keep)


@pytest.mark.parametrize("uv", [False, True])
def test_cpu_takes_both_from_the_index_of_pytorch_and_then_all_else(setup, uv):
    own = {} if uv else {"PIP_EXTRA_INDEX_URL": "https://own"}  # may have one of the two only
    said, log = setup("--cpu", uv=uv, FREE="5", **own)  # GiB, too little for CUDA
    first, second = map(str.split, installs(log))
    assert first[-4:] == ["--index-url", CPU_INDEX, "torch", "torchvision"]
    assert CPU_INDEX not in second and "--editable" in second
    assert uv or second[-1] == "https://own"
    assert "packages: 0.5 GB to download, 3 GB on disk" in said


def test_cpu_takes_the_versions_of_colab(setup):
    _, log = setup("test", "--cpu")
    pinned = (ROOT / "constraints" / "colab.txt").read_text().splitlines()
    pins = [line for line in pinned if re.match("torch(vision)?==", line)]
    asked = [line.partition(CPU_INDEX)[2].split() for line in installs(log) if CPU_INDEX in line]
    assert len(pins) == 2 and asked == [pins, ["torch", "torchvision"]]


def test_cpu_without_that_index_is_the_default_and_no_error(setup):
    said, log = setup("--cpu", WITHOUT_INDEX="1")
    assert f"not available at {CPU_INDEX}: the default torch instead" in said
    assert "packages: 3.5 GB to download, 7 GB on disk" in said
    assert "ERROR" not in said and "ready: " in said
    assert "--editable" in installs(log)[1]
    said, _ = setup("--cpu")
    assert "--cpu is for a new one: rm -r .venv first" in said


def test_cpu_without_that_index_needs_the_space_of_the_default(setup):
    said, _ = setup("--cpu", WITHOUT_INDEX="1", FREE="5", code=1)
    assert "5 GiB free under" in said and "this needs 9 GiB" in said


def test_cpu_leaves_an_environment_with_torch_alone(setup):
    said, log = setup("--cpu", WITHOUT_TORCH="0")
    assert "this one keeps its torch" in said
    assert not any(CPU_INDEX in line for line in log)


@pytest.mark.parametrize("cpu", [[], ["--cpu"]])
def test_dry_run_says_it_and_installs_nothing(setup, cpu):
    said, log = setup("--dry-run", *cpu)
    assert ("in .venv, torch for CPUs" in said) is bool(cpu)
    assert "in .venv" in said and not installs(log)


def test_quick_notebooks_run_first_and_each_once(setup):
    _, log = setup("run")
    words = log[-1].split()
    assert words[:4] == ["python", "-m", "medclip_helpers", "run"] and "--output" in words
    given = [ROOT / word for word in words if word.endswith(".ipynb")]
    order = [run.notebook.name for run in plan([(path, {}) for path in given], Path("runs"))]
    assert [name[:2] for name in order[:7]] == ["00", "01", "02", "04", "03", "06", "05"]
    numbered = (ROOT / "notebooks").glob("[0-9]*.ipynb")
    assert sorted(order) == sorted(path.name for path in numbered)
