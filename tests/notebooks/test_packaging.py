"""What people install: the wheel, by way of the sdist too, and alone in an empty environment."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path

import pandas as pd
import pytest
from packaging.requirements import Requirement
from test_release import ROOT, build_release

from medclip_helpers import __version__

pytestmark = pytest.mark.slow

# Imports that the package does without until somebody asks for what they do: the extras, and what
# comes with them
OPTIONAL = {"IPython", "ipywidgets", "jupyter_client", "papermill", "openvino", "onnx", "negspacy"}


def call(*command, **options) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """As tools/build_release.py builds it, from the tree."""
    return build_release.build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """As the release workflow builds it, from what git would have checked out."""
    pytest.importorskip("build")
    git = ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        names = call(*git).splitlines()
    except (OSError, AssertionError) as error:
        pytest.skip(f"not a git repository: {error}")
    tree = tmp_path_factory.mktemp("tree")
    for name in names:
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    folder = tmp_path_factory.mktemp("sdist")
    build = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", folder]
    call(*build, tree, env={**os.environ, "SOURCE_DATE_EPOCH": "1767225600"})
    (file,) = folder.glob("*.tar.gz")
    return file


def contents(wheel: Path) -> dict[str, bytes]:
    """Name -> bytes, without the list of checksums, whose order is free."""
    with zipfile.ZipFile(wheel) as zipped:
        return {n: zipped.read(n) for n in zipped.namelist() if not n.endswith("/RECORD")}


def test_the_sdist_builds_the_same_wheel_as_the_tree(sdist, wheel, tmp_path):
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps"]
    call(*pip, "--no-build-isolation", "--wheel-dir", tmp_path, sdist)
    (other,) = tmp_path.glob("*.whl")
    assert other.name == wheel.name
    expected, found = contents(wheel), contents(other)
    assert len(expected) > 100
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []


def test_the_sdist_is_named_after_the_version_and_holds_nothing_compiled(sdist):
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
    top = f"medclip_helpers-{__version__}"
    assert sdist.name == f"{top}.tar.gz"
    assert {f"{top}/{name}" for name in ("LICENSE", "README.md", "pyproject.toml")} <= set(names)
    assert [n for n in names if n.endswith(".pyc") or "__pycache__" in n] == []


@pytest.fixture(scope="module")
def installed(wheel, linked_python, tmp_path_factory) -> Path:
    """bin of an environment with the wheel and what it says that it needs, and nothing else."""
    (info,) = [p for p in zipfile.Path(wheel).iterdir() if p.name.endswith(".dist-info")]
    needs = map(Requirement, PathDistribution(info).requires)
    names = [r.name for r in needs if not r.marker or r.marker.evaluate({"extra": ""})]
    folder = tmp_path_factory.mktemp("empty") / "env"
    python = linked_python(folder, names)
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index"]
    call(*pip, "--no-deps", wheel)
    return python.parent


@pytest.fixture
def alone(bare_environment, tmp_path) -> dict:
    """How to start something that must not see this repository."""
    work = tmp_path / "work"
    work.mkdir()
    return {"cwd": work, "env": bare_environment | {"CUDA_VISIBLE_DEVICES": ""}}


def test_the_command_and_the_package_come_from_the_wheel(installed, alone):
    assert call(installed / "medclip", "--version", **alone) == f"medclip-helpers {__version__}\n"
    source = "import medclip_helpers as m; print(m.__version__, m.__file__)"
    version, file = call(installed / "python", "-c", source, **alone).split()
    assert version == __version__
    assert Path(file).is_relative_to(installed.parent)


def test_every_module_imports_with_what_the_wheel_says_it_needs(installed, alone):
    """What is missing is optional, and only that."""
    source = """
import importlib, pkgutil, medclip_helpers
print(".")
for module in pkgutil.walk_packages(medclip_helpers.__path__, "medclip_helpers."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
            print(".")
        except ModuleNotFoundError as error:
            print(error.name)
"""
    found = call(installed / "python", "-c", source, **alone).splitlines()
    assert found.count(".") > 80
    assert {name.partition(".")[0] for name in set(found) - {"."}} <= OPTIONAL


def test_a_phantom_is_classified_as_by_the_tree(installed, alone):
    draw = "from PIL import Image; from medclip_helpers.demo import draw_phantom\n"
    draw += "Image.fromarray(draw_phantom(0, {'Edema': 0.8}).image).save('phantom.png')"
    call(installed / "python", "-c", draw, **alone)
    classify = ["classify", "phantom.png", "--model", "demo", "--precision", "float32", "--out"]
    said = call(installed / "medclip", *classify, "wheel.csv", **alone)
    assert "1 of 1 images read" in said and "Demo model" in said
    tree = {**alone, "env": alone["env"] | {"PYTHONPATH": str(ROOT)}}
    call(sys.executable, "-m", "medclip_helpers", *classify, "tree.csv", **tree)
    tables = [pd.read_csv(alone["cwd"] / f"{name}.csv") for name in ("wheel", "tree")]
    pd.testing.assert_frame_equal(*tables)
    assert tables[0]["predicted"].tolist() == ["Edema"]
