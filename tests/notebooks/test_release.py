"""Setting up where the package is not: the setup cell, and the notebook that carries it all."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from medclip_helpers.runs import known_parameters

pytestmark = pytest.mark.notebooks

ROOT = Path(__file__).parent.parent.parent
SOURCES = ("pyproject.toml", "README.md", "LICENSE")
LIMIT = 20e6  # bytes, what Colab takes as an upload


def load_tool(name: str):
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(ROOT / "tools"))


fmt, build_release, tour = map(load_tool, ("format_notebooks", "build_release", "tour"))


def run(python: Path, source: str, cwd: Path, env: dict) -> subprocess.CompletedProcess:
    return subprocess.run([python, "-c", source], cwd=cwd, env=env, capture_output=True, text=True)


def test_colab_environment_has_no_helper_package(colab_python, bare_environment, tmp_path):
    """What the other tests rely on."""
    source = "import torch, timm, transformers, ipykernel, pandas\nimport medclip_helpers"
    done = run(colab_python, source, tmp_path, bare_environment)
    assert "No module named 'medclip_helpers'" in done.stderr
    for name in ("papermill", "nbval", "wget", "textaugment"):
        assert run(colab_python, f"import {name}", tmp_path, bare_environment).returncode == 1


def test_setup_cell_says_what_to_set(colab_python, bare_environment, tmp_path):
    source = fmt.setup_source("https://github.com/OWNER/medclip-helpers")
    done = run(colab_python, source, tmp_path, bare_environment)
    assert done.returncode == 1
    assert "os.environ['MEDCLIP_REPOSITORY'] = 'https://github.com/<owner>/<name>'" in done.stderr
    assert "medclip_colab.ipynb" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["https://github.com/OWNER/x", "https://example.invalid/a/b"])
def test_setup_cell_does_nothing_where_the_package_imports(address, tmp_path):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = run(Path(sys.executable), fmt.setup_source(address), tmp_path, env)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_setup_cell_installs_from_a_clone(colab_python, bare_environment, tmp_path):
    """The address comes from the environment, and no restart is needed."""
    origin = tmp_path / "origin"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "medclip_helpers", origin / "medclip_helpers", ignore=ignored)
    for name in SOURCES:
        shutil.copy(ROOT / name, origin)
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-C", str(origin)]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *command], check=True)
    work = tmp_path / "work"
    work.mkdir()
    source = fmt.setup_source("https://github.com/OWNER/medclip-helpers")
    source += "\nfrom medclip_helpers import load_medclip\nload_medclip('demo')\n"
    source += "print(medclip_helpers.__file__)"
    env = bare_environment | {"MEDCLIP_REPOSITORY": f"file://{origin}", "PIP_NO_DEPS": "1"}
    try:
        done = run(colab_python, source, work, env)
        assert done.returncode == 0, done.stderr
        assert "site-packages/medclip_helpers" in done.stdout
    finally:
        uninstall(colab_python, bare_environment)


def uninstall(python: Path, env: dict) -> None:
    # ours alone: everything else in there is a link
    command = [python, "-m", "pip", "uninstall", "--yes", "--quiet", "medclip_helpers"]
    subprocess.run(command, check=True, env=env)


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    """The folder that tools/build_release.py fills."""
    folder = tmp_path_factory.mktemp("dist")
    assert build_release.main(["--output", str(folder)]) == 0
    return folder


def test_wheel_holds_every_file_of_the_package(release):
    """Code, types and data, and the command."""
    (wheel,) = release.glob("medclip_helpers-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [path for path in (ROOT / "medclip_helpers").rglob("*") if path.is_file()]
    wanted = {str(f.relative_to(ROOT)) for f in files if "__pycache__" not in f.parts}
    assert {Path(name).suffix for name in wanted} >= {".py", ".pyi", ".typed", ".yaml", ".html"}
    assert {name for name in names if name.startswith("medclip_helpers/")} == wanted
    assert any(name.endswith(".dist-info/entry_points.txt") for name in names)


def sources(notebook: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(notebook.read_text())["cells"]]


def test_release_is_small_enough_and_needs_no_address(release):
    notebook = release / "medclip_colab.ipynb"
    assert notebook.stat().st_size < LIMIT
    assert len(list(release.glob("medclip_helpers-*.whl"))) == 1
    written = "\n".join(text for text in sources(notebook) if len(text) < 1e5)
    assert "MEDCLIP_REPOSITORY" not in written and "OWNER" not in written
    assert ".ipynb)" not in written  # no link to a notebook that is not there
    assert sources(notebook)[0].startswith("# ")


def test_release_has_one_form_with_every_parameter_of_its_live_notebooks(release):
    texts = sources(release / "medclip_colab.ipynb")
    forms = [text for text in texts if "#@param" in text and not text.startswith("#@title The")]
    live = [text for text in forms if not text.startswith("# ")]
    assert len(live) == 1
    known = known_parameters(live[0])
    for stem in set(tour.SECTIONS) - set(tour.COMMENTED):
        notebook = json.loads((ROOT / "notebooks" / f"{stem}.ipynb").read_text())
        form = next(c for c in notebook["cells"] if "parameters" in fmt.tags(c))
        assert set(known_parameters("".join(form["source"]))) <= set(known)
    assert known["model"].default == "auto"


def test_pretraining_is_there_as_comments(release):
    cells = json.loads((release / "medclip_colab.ipynb").read_text())["cells"]
    texts = ["".join(cell["source"]) for cell in cells]
    code = [text for cell, text in zip(cells, texts, strict=True) if cell["cell_type"] == "code"]
    start = next(i for i, text in enumerate(code) if "output_dir or 'runs'}/05_pre" in text)
    after = code[start:]
    assert len(after) > 3
    assert all(line.startswith("#") for text in after for line in text.splitlines())


def test_release_runs_where_only_colabs_packages_are(
    release, colab_python, bare_environment, tmp_path
):
    """One file in an empty directory, from top to bottom, without this repository."""
    work = tmp_path / "content"
    work.mkdir()
    shutil.copy(release / "medclip_colab.ipynb", work)
    kernel = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    launch = [str(colab_python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": launch, "display_name": "Colab", "language": "python"}))
    command = [sys.executable, "-m", "papermill", "--no-progress-bar"]
    command += ["medclip_colab.ipynb", str(tmp_path / "out.ipynb"), "-k", "python3"]
    command += ["-p", "model", "demo"]  # "auto" would download, where there is a network
    command += ["-p", "steps", "20"]
    env = bare_environment | {"JUPYTER_PATH": str(tmp_path / "jupyter")}
    try:
        done = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    finally:
        uninstall(colab_python, bare_environment)
    results = sorted(path.parent.name for path in (work / "runs").glob("*/result.json"))
    live = [stem for stem in tour.SECTIONS if stem not in tour.COMMENTED]
    assert results == live
    assert str(ROOT) not in (tmp_path / "out.ipynb").read_text()
