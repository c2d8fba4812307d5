"""The rooms: who may import whom, what a face is, what an import loads, how long the root is."""

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "medclip_helpers"
ROOMS = sorted(face.parent.name for face in PACKAGE.glob("*/__init__.py"))
FACES = ["medclip_helpers", *(f"medclip_helpers.{room}" for room in ROOMS)]

# --- the import contract --------------------------------------------------------------------------

ONE_WAY = "Imports run one way"
BY_THE_FACE = "A room's modules are imported from within it only"
NOT_BACK = "Nothing inside comes back"
NO_CIRCLES = "No circles"


def lint(folder: Path) -> tuple[int, set[str], str]:
    """The exit code, the contracts that are broken, and what it says, on one line."""
    program = "import sys; from importlinter.cli import lint_imports as lint; "
    program += "sys.exit(lint(no_cache=True))"
    environment = os.environ | {"COLUMNS": "300"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    said = re.sub(r"\x1b\[[\d;]*m", "", done.stdout + done.stderr)
    return done.returncode, set(re.findall(r"^(.+?) BROKEN", said, re.M)), " ".join(said.split())


@pytest.fixture
def copy(tmp_path):
    """A copy of the package's code and the contract, to break."""
    only_code = shutil.ignore_patterns("*.safetensors", "*.json", "__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "medclip_helpers", ignore=only_code)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_contract_is_kept():
    code, broken, said = lint(ROOT)
    assert code == 0 and not broken, said
    assert "Contracts: 4 kept, 0 broken." in said


def lazily(text: str) -> str:
    return f"def planted():\n    {text}"


PLANTED = {  # what: (file, line to add, the contract that it breaks, what must be said)
    "upwards": (
        "hub/names.py",
        "from ..model import MedCLIPModel",
        ONE_WAY,
        "hub.names -> *.model",
    ),
    "from the root": ("losses.py", "from . import plots", ONE_WAY, "losses -> *.plots"),
    "lazily": (
        "plots/style.py",
        lazily("from ..runs import Run"),
        ONE_WAY,
        "plots.style -> *.runs",
    ),
    "sideways": ("hub/names.py", "from ..demo import IMAGE_SIZE", ONE_WAY, "hub.names -> *.demo"),
    "a new room": ("attic/__init__.py", "", ONE_WAY, "not listed as layers: - *.attic"),
    "inner name": (
        "data/tables.py",
        "from ..hub.files import write_text",
        BY_THE_FACE,
        "data.tables -> *.hub.files",
    ),
    "inner module": ("model.py", "from .hub import names", BY_THE_FACE, "model -> *.hub.names"),
    "inner module, lazily": (
        "runs/sweep.py",
        lazily("import medclip_helpers.data.tables"),
        BY_THE_FACE,
        "runs.sweep -> *.data.tables",
    ),
    "the door": ("plots/style.py", "from .. import load_medclip", NOT_BACK, "plots.style -> * (l."),
    "the door, lazily": (
        "demo/shipped.py",
        lazily("import medclip_helpers"),
        NOT_BACK,
        "demo.shipped -> * (l.",
    ),
    "circle": ("hub/names.py", "from . import weights", NO_CIRCLES, "allowed in *.hub."),
    "circle, lazily": (
        "losses.py",
        lazily("from .classifier import PromptClassifier"),
        NO_CIRCLES,
        "allowed in *.",
    ),
}


def plant(folder: Path, file: str, text: str) -> None:
    path = folder / "medclip_helpers" / file
    path.parent.mkdir(exist_ok=True)
    with open(path, "a", encoding="utf-8") as code:
        code.write(f"\n\n{text}\n")


@pytest.mark.parametrize(("file", "text", "contract", "named"), PLANTED.values(), ids=PLANTED)
def test_an_import_against_the_contract_fails_and_is_named(copy, file, text, contract, named):
    plant(copy, file, text)
    code, broken, said = lint(copy)
    assert code == 1 and any(name.startswith(contract) for name in broken), said
    assert named.replace("*", "medclip_helpers") in said


def test_an_import_for_types_alone_is_free(copy):
    free = "import typing\n\nif typing.TYPE_CHECKING:\n    from ..model import MedCLIPModel"
    plant(copy, "hub/names.py", free)
    assert lint(copy)[:2] == (0, set())


def through_their_own_face(graph: grimp.ImportGraph) -> set[str]:
    """Modules that import the face of their own room, behind which a circle would be hidden."""
    faces = FACES[1:]
    users = {face: graph.find_modules_that_directly_import(face) for face in faces}
    inside = {name for face in faces for name in users[face] if name.startswith(f"{face}.")}
    return {name for name in inside if not name.endswith(".__main__")}  # which nothing imports


def test_no_module_imports_the_face_of_its_own_room():
    how = {"exclude_type_checking_imports": True, "cache_dir": None}
    graph = grimp.build_graph("medclip_helpers", **how)
    assert through_their_own_face(graph) == set()
    graph.add_import(importer="medclip_helpers.hub.names", imported="medclip_helpers.hub")
    assert through_their_own_face(graph) == {"medclip_helpers.hub.names"}


# --- faces ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("face", FACES)
def test_a_face_says_what_it_is_and_has_what_it_names(face):
    module = importlib.import_module(face)
    assert module.__doc__ and 1 <= len(module.__doc__.strip().splitlines()) <= 6
    assert module.__all__ and not [name for name in module.__all__ if not hasattr(module, name)]


@pytest.mark.parametrize("face", FACES)
def test_types_and_names_of_a_face_are_the_same(face):
    stub = ast.parse(Path(importlib.import_module(face).__file__).with_suffix(".pyi").read_text())
    (listed,) = (
        ast.literal_eval(node.value)
        for node in stub.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
    )
    assert listed == sorted(set(listed))
    assert set(listed) == set(importlib.import_module(face).__all__)


def test_a_room_is_a_folder_with_a_face():
    code = {path.parent for path in PACKAGE.rglob("*.py")}
    assert code == {PACKAGE, *(PACKAGE / room for room in ROOMS)} and len(ROOMS) >= 10


def test_the_root_can_be_read_in_an_hour():
    files = [path for path in PACKAGE.glob("*.py") if path.name != "__main__.py"]
    assert len(files) == 9
    lines = {path.name: len(path.read_text("utf-8").splitlines()) for path in files}
    assert sum(lines.values()) <= 1600, lines


# --- what an import loads -------------------------------------------------------------------------

HEAVY = ["torch", "matplotlib", "ipywidgets", "sklearn"]


def loaded_by(program: str, **environment: str) -> list[str]:
    """Which of HEAVY, and of pandas and transformers, a fresh interpreter has loaded after it."""
    names = [*HEAVY, "pandas", "transformers"]
    program += f"\nimport json, sys; print(json.dumps([n for n in {names} if n in sys.modules]))"
    environment = {**os.environ, "EAGER_IMPORT": "", "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_the_faces_loads_nothing_heavy():
    assert loaded_by("\n".join(f"import {face}" for face in FACES)) == []


@pytest.mark.parametrize(
    ("rooms", "free_of"),
    [
        (["radiographs"], [*HEAVY, "pandas"]),
        (["demo", "runs"], HEAVY),
        (["plots"], ["torch", "ipywidgets", "sklearn"]),
        # transformers loads scikit-learn by itself
        (["data", "evaluation", "training"], ["matplotlib", "ipywidgets"]),
    ],
    ids=lambda value: "-".join(value),
)
def test_getting_all_that_a_room_has_loads_no_more_than_it_needs(rooms, free_of):
    program = "import importlib\n"
    program += f"for room in {rooms}:\n"
    program += "    face = importlib.import_module(f'medclip_helpers.{room}')\n"
    program += "    names = [getattr(face, name) for name in face.__all__]"
    assert not set(loaded_by(program)) & set(free_of)


def test_every_face_can_be_read_at_once():
    program = "\n".join(f"import {face}" for face in FACES)
    assert set(loaded_by(program, EAGER_IMPORT="1")) >= {"torch", "matplotlib", "ipywidgets"}


# --- papers ---------------------------------------------------------------------------------------


def test_changelog_and_citation_are_of_this_version():
    version = importlib.import_module("medclip_helpers").__version__
    headings = re.findall(r"^## \[(.+?)\] - ", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert headings[0] == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
