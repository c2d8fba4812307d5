"""The reference pages: built without a complaint, links lead somewhere, stale names are found."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pdoc")

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "medclip_helpers"
# Docstrings that are put in place of one, and whether something in them is not there
STALE = ["`RadiographError`", "`hub.forget`", "`medclip_helpers.data.Nothing()`",
         "`PromptClassifier.colour`", "`processor.nothing`"]  # fmt: skip
FINE = ["`hub.write_text`", "`processor.tokenizer`", "`ValueError`", "`model.safetensors`",
        "`medclip_helpers.load_medclip`", "`PromptClassifier.score()`", "`torch.nn.Module`",
        "`a_word`, which may be an argument, a column, a key"]  # fmt: skip

# In a process of its own, because pdoc runs what stands under `if TYPE_CHECKING:`
BUILD = """
import json, sys
sys.path.insert(0, {tools!r})
import build_reference as reference
sys.argv = ["build_reference.py", "--output", {output!r}]
code, pages = reference.main(), reference.read_pages()
found = {{}}
for text in {texts!r}:
    pages["medclip_helpers.losses"].docstring = text
    found[text] = list(reference.unknown_names(pages))
public = {{name: list(getattr(page.obj, "__all__", ())) for name, page in pages.items()}}
print(json.dumps([code, public, found]))
"""


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    (folder / "stale.html").write_text("of an earlier build")
    return folder


@pytest.fixture(scope="module")
def built(output) -> list:
    """The exit code, the public names of each page, what is said of STALE and FINE."""
    where = {"tools": str(ROOT / "tools"), "output": str(output), "texts": STALE + FINE}
    command = [sys.executable, "-c", BUILD.format(**where)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "0 problems" in done.stdout, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_page_for_the_face_each_root_file_and_each_room(output, built):
    assert built[0] == 0
    names = {path.stem for path in PACKAGE.glob("*.py") if not path.name.startswith("__")}
    names |= {face.parent.name for face in PACKAGE.glob("*/__init__.py")}
    assert {path.stem for path in output.glob("medclip_helpers/*.html")} == names
    assert {path.name for path in output.glob("*.html")} == {"index.html", "medclip_helpers.html"}
    face = (output / "medclip_helpers.html").read_text("utf-8")
    assert all(f'href="medclip_helpers/{name}.html"' in face for name in names)


def test_every_public_name_is_on_its_page_and_every_link_leads_somewhere(output, built):
    texts = {path.resolve(): path.read_text("utf-8") for path in output.rglob("*.html")}
    anchors = {path: set(re.findall(r' id="([^"]+)"', text)) for path, text in texts.items()}
    for name, public in built[1].items():
        assert set(public) <= anchors[output.resolve() / f"{name.replace('.', '/')}.html"]
    links = 0
    for path, text in texts.items():
        for target, anchor in re.findall(r'href="([\w./]*\.html)?(?:#([\w.-]+))?"', text):
            page = (path.parent / target).resolve() if target else path
            assert not anchor or anchor in anchors[page], (path.name, target, anchor)
            links += page != path
    assert links > 200


def test_arguments_stand_out_and_names_link_to_the_room_that_has_them(output, built):
    page = (output / "medclip_helpers" / "similarity.html").read_text("utf-8")
    link = '<a href="radiographs.html#read_radiograph"><code>read_radiograph</code></a>'
    assert f"<strong>images:</strong> what {link} takes" in page
    assert re.search(r"<pre>.*cos\(image", page), "an indented block is code"
    assert "Alias for field" not in page


@pytest.mark.parametrize("text", STALE)
def test_a_name_that_is_not_there_is_found(built, text):
    (said,) = built[2][text]
    assert said == f"medclip_helpers.losses: {text.replace('()', '')} does not exist"


@pytest.mark.parametrize("text", FINE)
def test_what_is_there_is_no_complaint(built, text):
    assert built[2][text] == []
