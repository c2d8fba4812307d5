"""An environment with only Colab's packages, and a way to run notebooks."""

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent.parent
FREEZE = ROOT / "constraints" / "colab.txt"


def _name(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


def _needed(names: Iterable[str]) -> list[Distribution]:
    """What is installed here of `names`, and of what they need; never this package itself."""
    installed = {_name(found.metadata["Name"]): found for found in distributions()}
    todo, wanted = [*map(_name, names)], {}
    while todo:
        name = todo.pop()
        if name in wanted or name not in installed or name == "medclip-helpers":
            continue
        wanted[name] = installed[name]
        needs = [Requirement(text) for text in installed[name].requires or []]
        todo += [_name(r.name) for r in needs if not r.marker or r.marker.evaluate({"extra": ""})]
    return list(wanted.values())


@pytest.fixture(scope="session")
def linked_python():
    """A function: (new folder, names of packages) -> interpreter that has them and no others.

    Made of links to what is installed here, so it costs no download and no space. pip in it must
    run with PIP_NO_INDEX: to replace a package would go through the links.
    """

    def make(folder: Path, names: Iterable[str]) -> Path:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        python = folder / "bin" / "python"
        command = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        site = Path(subprocess.check_output(command, text=True).strip())
        for found in _needed(names):
            tops = {file.parts[0] for file in found.files or [] if file.parts[0] != ".."}
            for top in tops - {"__pycache__"}:
                target = Path(found.locate_file(top))
                if target.exists() and not (site / top).exists():
                    (site / top).symlink_to(target)
        return python

    return make


@pytest.fixture(scope="session")
def colab_python(tmp_path_factory, linked_python) -> Path:
    """The interpreter of an environment with the packages of Colab, and no others."""
    frozen = re.findall(r"^([\w.-]+)", FREEZE.read_text(), re.MULTILINE)
    return linked_python(tmp_path_factory.mktemp("colab") / "env", [*frozen, "pip", "setuptools"])


@pytest.fixture
def bare_environment(tmp_path) -> dict[str, str]:
    """Environment variables without a trace of this repository, and no network for pip."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MEDCLIP_REPOSITORY")}
    return kept | {
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this as: do not isolate
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "HOME": str(tmp_path),
        "MEDCLIP_MIRROR": "http://127.0.0.1:9",
    }
