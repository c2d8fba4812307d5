"""The diagram of the rooms: made from the contract and the faces, and checked to be current."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("draw_rooms", ROOT / "tools" / "draw_rooms.py")
draw_rooms = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(draw_rooms)


def run(root: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "tools" / "draw_rooms.py", "--root", root, *options]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def house(tmp_path) -> Path:
    """Two rooms and a cellar over two files."""
    (tmp_path / "pyproject.toml").write_text(
        '[[tool.importlinter.contracts]]\nid = "other"\n'
        '[[tool.importlinter.contracts]]\nid = "layers"\n'
        'layers = ["attic", "left | right", "b", "a | c", "cellar"]\n'
    )
    for room in ("attic", "left", "right", "cellar"):
        face = tmp_path / "medclip_helpers" / room / "__init__.py"
        face.parent.mkdir(parents=True)
        face.write_text(f'"""The `{room}`,\nso "called".\n\nNot said."""\n')
    text = f"before\n{draw_rooms.START}{draw_rooms.END}after\n"
    (tmp_path / "CONTRIBUTING.md").write_text(text)
    return tmp_path


def test_the_diagram_in_this_repository_is_current():
    done = run(ROOT, "--check")
    assert done.returncode == 0, done.stderr


def test_rooms_of_a_layer_stand_beside_each_other_and_root_files_in_one_box(house):
    lines = draw_rooms.diagram(house).splitlines()
    assert lines[0] == "```mermaid" and lines[-1] == "```" and "flowchart TB" in lines
    boxes = dict(re.findall(r'^    (\w+)\["<b>(.+)"\]$', "\n".join(lines), re.M))
    assert boxes == {
        **{n: f"{n}</b><br>The {n}, so #quot;called#quot;." for n in ("attic", "left", "right")},
        "root": "MedCLIP itself</b><br>from the ground up: a and c, b",
        "cellar": "cellar</b><br>The cellar, so #quot;called#quot;.",
    }
    arrows = [line.strip() for line in lines if " --> " in line]
    assert arrows == ["attic --> left & right", "left & right --> root", "root --> cellar"]


def test_written_between_the_markers_then_current_until_something_changes(house):
    page = house / "CONTRIBUTING.md"
    before = page.read_text()
    stale = run(house, "--check")
    assert stale.returncode == 1 and "python tools/draw_rooms.py" in stale.stderr
    assert page.read_text() == before
    assert run(house).returncode == 0
    written = page.read_text()
    parts = [draw_rooms.START, draw_rooms.diagram(house), draw_rooms.END]
    assert written == "".join(["before\n", *parts, "after\n"])
    assert run(house, "--check").returncode == 0
    assert run(house).returncode == 0 and page.read_text() == written
    (house / "medclip_helpers/left/__init__.py").write_text('"""Another room."""\n')
    assert run(house, "--check").returncode == 1 and page.read_text() == written


def test_a_page_without_markers_is_said(house):
    page = house / "CONTRIBUTING.md"
    page.write_text("no diagram here\n")
    done = run(house)
    assert done.returncode == 1 and "rooms: python tools/draw_rooms.py" in done.stderr
    assert page.read_text() == "no diagram here\n"


def test_every_room_is_in_the_diagram():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    rooms = {face.parent.name for face in (ROOT / "medclip_helpers").glob("*/__init__.py")}
    assert rooms <= set(re.findall(r'^    (\w+)\["<b>', text, re.M))
