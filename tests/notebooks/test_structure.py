"""The house rules for notebooks, as far as a program can check them."""

import ast
import importlib.util
import json
import re
import statistics
from pathlib import Path

import pytest

from medclip_helpers.runs import check_parameters, known_parameters

ROOT = Path(__file__).parent.parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
LINES, MEDIAN, WIDTH, DEFINITION = 25, 5, 88, 10
# the derivation in 03 is the one place where a notebook defines something longer
LONG_DEFINITIONS = {"03_semantic_loss"}

_spec = importlib.util.spec_from_file_location("fmt", ROOT / "tools" / "format_notebooks.py")
fmt = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fmt)


def text(cell: dict) -> str:
    return "".join(cell["source"])


@pytest.fixture(params=NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def path(request) -> Path:
    return request.param


@pytest.fixture
def cells(path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


@pytest.fixture
def code(cells) -> list[str]:
    return [text(cell) for cell in cells if cell["cell_type"] == "code"]


@pytest.fixture
def prose(cells) -> str:
    return "\n\n".join(text(cell) for cell in cells if cell["cell_type"] == "markdown")


def test_all_seven_are_there():
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"0{i}" for i in range(7)]


def test_canonical_with_badge_and_setup_from_the_one_address(path):
    before = path.read_text(encoding="utf-8")
    notebook = fmt.canonical(json.loads(before), path.name, fmt.repository_address())
    assert fmt.to_text(notebook) == before, "run tools/format_notebooks.py"


def test_the_tour_in_one_file_is_current_and_small():
    written = (ROOT / "notebooks" / fmt.TOUR).read_text(encoding="utf-8")
    made = fmt.to_text(fmt.the_tour(ROOT / "notebooks", fmt.repository_address()))
    assert made == written, "run tools/format_notebooks.py"
    assert len(written.encode()) <= 1e6


def test_setup_cell_is_folded_and_short(cells):
    (setup,) = [cell for cell in cells if "setup" in fmt.tags(cell)]
    assert setup["metadata"]["cellView"] == "form"
    assert len(setup["source"]) <= 33


def test_one_title_badge_and_introduction(cells, prose):
    assert len(re.findall(r"^# ", prose, re.MULTILINE)) == 1
    title, badge, *introduction = [line for line in text(cells[0]).splitlines() if line]
    assert title.startswith("# ") and ("colab-badge.svg" in badge or badge == fmt.NO_BADGE)
    sentences = re.findall(r"[.!?](?=\s|$)", " ".join(introduction))
    assert 2 <= len(sentences) <= 7  # two to four, and what is said about research use
    assert re.search(r"CPU|GPU", prose) and "esearch use only" in prose


def test_opening(path, cells):
    assert [fmt.tags(cell) for cell in cells[1:3]] == [["parameters"], ["setup"]]
    assert sum("parameters" in fmt.tags(cell) for cell in cells) == 1
    first = next(i for i, cell in enumerate(cells) if i > 2 and "import" in text(cell))
    form, imports = text(cells[1]), text(cells[first])
    assert first == (5 if path.stem == "00_setup" else 3)  # where a picture comes before it
    known = known_parameters(form)
    check_parameters([form])
    assert {"seed", "output_dir"} <= set(known)
    assert known["output_dir"].default == ""
    for line in form.splitlines():
        assert line.startswith("#@title") or line.partition("#@param")[0].count("=") == 1, line
    ending = "check_parameters(In)\nprint(environment_report())"
    assert imports.endswith(ending), "the imports cell ends in these two lines"
    assert not [cell for cell in cells[2:] if "#@param" in text(cell)]


def test_last_cell_records_the_result(code):
    """Or the one before it, where the last shows what was recorded."""
    bodies = [ast.parse(source).body for source in code[-2:]]
    recorded = [b != [] and ast.unparse(b[-1]).startswith("record_result(") for b in bodies]
    assert recorded == [False, True] or recorded[0] and "markdown_table(" in code[-1]


def test_cells_are_short(code):
    written = [source.splitlines() for source in code[2:]]  # form and setup are not prose
    assert statistics.median(map(len, written)) <= MEDIAN
    assert max(map(len, written)) <= LINES
    assert [line for lines in written for line in lines if len(line) > WIDTH] == []


def test_definitions_are_short(path, code):
    nodes = [node for source in code for node in ast.walk(ast.parse(source))]
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    long = [
        node.name
        for node in nodes
        if isinstance(node, kinds) and node.end_lineno - node.lineno >= DEFINITION
    ]
    assert not long or path.stem in LONG_DEFINITIONS, long


def test_commented_cells_are_code(code):
    """What a reader is told to uncomment parses."""
    commented = [s for s in code if all(line.startswith("#") for line in s.splitlines() if line)]
    for source in commented:
        bare = "\n".join(re.sub(r"^#[ ]?", "", line) for line in source.splitlines())
        shell = re.sub(r"^(\s*)[!%].*", r"\1pass", bare, flags=re.MULTILINE)
        ast.parse(shell)


def test_heavy_calls_are_commented_out(code):
    """Nothing live downloads published weights, starts a process or depends on Colab."""
    for source in code[:1] + code[2:]:  # the setup cell may
        assert "google.colab" not in re.sub(r"^#.*", "", source, flags=re.MULTILINE)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call):
                call = ast.unparse(node)
                assert not re.match(r"load_medclip\(['\"](vit|resnet)", call), call
                assert not re.search(r"\.from_pretrained\(\)$", call), call
                assert not re.match(r"(subprocess|os\.system|get_ipython|plt\.show)\b", call), call


def test_sections_end_in_something_to_see(cells):
    sections, last = {}, None
    for cell in cells[4:]:
        heading = re.search(r"^## (.*)", text(cell), re.MULTILINE)
        if cell["cell_type"] == "markdown" and heading:
            last = heading[1]
        elif cell["cell_type"] == "code" and last and ast.parse(text(cell)).body:
            sections[last] = ast.parse(text(cell)).body[-1]
    blind = (ast.Assign, ast.AugAssign, ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    assert sections
    assert [name for name, end in sections.items() if isinstance(end, blind)] == []


def test_outputs_are_kept_where_they_are_checked(cells):
    """nbval runs a marked cell without a stored output, and compares nothing."""
    marked = [cell for cell in cells if fmt.COMPARED in fmt.tags(cell)]
    assert marked
    assert all(cell["outputs"] for cell in marked), "run tools/format_notebooks.py --execute"
