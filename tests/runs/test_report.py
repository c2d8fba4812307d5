"""The page of a run, from records and executed notebooks that no kernel had to make."""

import base64
import html
import json
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from medclip_helpers.runs import write_report
from medclip_helpers.runs.report import figures

NOTE = "Demo model, trained on drawings: not a clinical result."
EMPTY = {"br", "col", "hr", "img", "input", "link", "meta"}


def picture(shade: int, size=(40, 30)) -> str:
    Image.new("L", size, shade).save(buffer := BytesIO(), "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def shown(png: str, **metadata) -> nbformat.NotebookNode:
    """A cell that has shown a picture."""
    output = nbformat.v4.new_output("display_data", {"image/png": png}, metadata=metadata)
    return nbformat.v4.new_code_cell("figure", outputs=[output])


def record(output, name="a", cells=(), **changes) -> dict:
    """A finished run of notebook `name` whose cells are `cells`."""
    folder = output / f"{name}-run"
    folder.mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=list(cells)), folder / f"{name}.ipynb")
    plain = {
        "notebook": name, "parameters": {}, "folder": str(folder), "fingerprint": "x",
        "status": "ok", "error": "", "summary": f"{name} was found", "metrics": {}, "note": NOTE,
        "seconds": 1.5, "files": [],
    }  # fmt: skip
    return plain | changes


class Page(HTMLParser):
    """The elements of a page as (tag, attributes, tags around it), and its text; all are closed."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.around, self.text = [], [], ""
        self.feed(text)
        assert self.around == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), tuple(self.around)))
        if tag not in EMPTY:
            self.around.append(tag)

    def handle_endtag(self, tag):
        assert self.around.pop() == tag

    def handle_data(self, data):
        if "style" not in self.around:
            self.text += data

    def all(self, tag: str) -> list[tuple[dict, tuple]]:
        return [(attributes, around) for name, attributes, around in self.elements if name == tag]


def read_page(records, output) -> Page:
    _, page = write_report(records, output)
    return Page(page.read_text(encoding="utf-8"))


def test_a_row_a_run_with_its_link_result_time_and_first_figure(tmp_path):
    heading = nbformat.v4.new_markdown_cell("text\n## The `first` one")
    pictures = [picture(shade) for shade in (10, 20, 30)]
    cells = [heading, *map(shown, pictures)]
    records = [record(tmp_path, "a", cells), record(tmp_path, "b c"), record(tmp_path, "d#1")]
    page = read_page(records, tmp_path)
    assert len(page.all("article")) == 3
    links = [a["href"] for a, around in page.all("a") if "article" in around]
    assert links == ["a-run/a.ipynb", "b%20c-run/b%20c.ipynb", "d%231-run/d%231.ipynb"]
    assert "a was found" in page.text and page.text.count("1.5 s") == 3
    images = page.all("img")
    assert [a["src"].partition(",")[2] for a, _ in images] == pictures
    # the first is on the page, in a summary that enlarges it; the others are folded away
    assert ["summary" in around for _, around in images] == [True, False, False]
    assert all("details" in around for _, around in images)
    assert "2 more from the notebook" in page.text


def test_every_picture_has_a_caption_and_an_alternative_text(tmp_path):
    own = {"image/png": {"alt": "The picture's own words", "caption": "The picture's caption"}}
    heading = nbformat.v4.new_markdown_cell("# Does it <work>?")
    cells = [shown(picture(1)), heading, shown(picture(2)), shown(picture(3), **own)]
    page = read_page([record(tmp_path, "a", cells)], tmp_path)
    texts = [
        f"a was found. {NOTE}",
        f"Does it <work>? a was found. {NOTE}",
        own["image/png"]["alt"],
    ]
    assert [a["alt"] for a, _ in page.all("img")] == texts
    captions = [NOTE, f"Does it <work>? {NOTE}", f"Does it <work>? The picture's caption. {NOTE}"]
    assert len(page.all("figcaption")) == len(page.all("figure")) == 3
    assert all(caption in page.text for caption in captions)
    assert own["image/png"]["alt"] not in page.text  # it is long, and for who does not see


@pytest.mark.parametrize(
    ("heading", "note", "summary", "caption", "alt"),
    [
        ("Title", "", "found", "Title.", "Title. found."),
        ("", "", "found", "found", "found."),
        ("", "", "", "a", "a"),
        ("", NOTE, "", NOTE, NOTE),
    ],
)
def test_a_caption_of_what_there_is(heading, note, summary, caption, alt, tmp_path):
    cells = [nbformat.v4.new_markdown_cell(f"# {heading}"), shown(picture(1))]
    file = Path(record(tmp_path, "a", cells)["folder"]) / "a.ipynb"
    ((_, *texts),) = figures(file, summary, note)
    assert texts == [caption, alt]


def test_the_note_of_the_model_is_in_the_record_of_a_run(tmp_path):
    """Wherever a notebook records it: as a metric, or in what describes its model."""
    from medclip_helpers.runs import plan, run_all

    code = "from medclip_helpers.runs import record_result\nrecord_result({!r}, 'x', {})"
    given = {"metric": "weights='as a metric'", "model": "model={'note': 'as a model'}", "no": ""}
    for name, text in given.items():
        source = code.format(str(tmp_path / "out" / name), text)
        cells = [nbformat.v4.new_code_cell(source)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    runs = plan([(tmp_path / f"{name}.ipynb", {}) for name in given], tmp_path / "out")
    records = {r["notebook"]: r for r in run_all(runs, 3, progress=False)}
    notes = {name: found["note"] for name, found in records.items()}
    assert notes == {"metric": "as a metric", "model": "as a model", "no": ""}


def test_what_has_no_value_is_not_shown(tmp_path):
    nan = float("nan")
    records = [
        record(tmp_path, "a", parameters={"rate": nan, "seed": 0}, metrics={"share": 0.123456789}),
        record(tmp_path, "b", metrics={"share": None, "count": 3, "right": False}),
        record(tmp_path, "c", parameters={"limit": None}, metrics={"never": None}),
    ]
    page = read_page(records, tmp_path)
    assert not re.search(r"\b(nan|none|na|nat)\b", page.text.replace("none failed", ""), re.I)
    assert "never" not in page.text
    assert "a rate=unset seed=0" in page.text  # what tells the runs apart
    assert page.text.count("0.1235") == 2 and page.text.count("False") == 2  # row and whole table
    summaries = re.findall(r"\n(Param.*|Metrics)\n", re.sub(r"\n+", "\n", page.text))
    assert summaries[0] == "Parameters and metrics" and "Metrics" in summaries
    csv = (tmp_path / "summary.csv").read_text()
    assert "<NA>" not in csv and "nan" not in csv.lower()


def test_metrics_are_folded_away_and_a_wide_table_can_be_reached_by_key(tmp_path):
    records = [
        record(tmp_path, name, parameters={"seed": i}, metrics={"seed": i + 7})
        for i, name in enumerate("ab")
    ]
    page = read_page(records, tmp_path)
    tables = page.all("table")
    assert len(tables) == 5 and all("details" in around for _, around in tables)
    (wide,) = [attributes for attributes, _ in page.all("div") if "tabindex" in attributes]
    assert wide["tabindex"] == "0" and wide["role"] == "region" and wide["aria-label"]
    # a parameter and a metric of one name are two columns
    headings = [a for a, _ in page.all("th") if a["scope"] == "col"]
    assert len(headings) == 3
    assert "a seed=0" in page.text


def test_a_failure_is_said_in_words_and_nothing_of_a_notebook_is_markup(tmp_path):
    bad = "<script>alert(1)</script>\n  seed: int = 0"
    changes = {"status": "failed", "error": bad, "summary": "", "parameters": {"<b>": "<i>"}}
    page = read_page([record(tmp_path, "a"), record(tmp_path, "b", **changes)], tmp_path)
    assert "2 runs, 1 failed." in page.text
    assert f"Failed: {bad}" in page.text and "b <b>=<i> (failed)" in page.text
    assert not page.all("script") and not page.all("b") and not page.all("i")


def test_no_address_outside_and_ready_for_a_phone(tmp_path):
    page = read_page([record(tmp_path, "a", [shown(picture(1))])], tmp_path)
    text = (tmp_path / "index.html").read_text()
    assert not re.search(r"https?:|//|@import|url\(", re.sub(r"base64,[^\"]+", "", text))
    names = {
        attributes.get("name"): attributes.get("content") for attributes, _ in page.all("meta")
    }
    assert "width=device-width" in names["viewport"]
    assert page.all("html")[0][0]["lang"] == "en"
    assert "1 run, none failed" in html.unescape(page.text)


def test_a_notebook_that_is_gone_has_no_figures(tmp_path):
    assert figures(tmp_path / "gone.ipynb") == []
    gone = record(tmp_path, "a")
    (tmp_path / "a-run" / "a.ipynb").unlink()
    assert read_page([gone], tmp_path).all("img") == []
    assert json.loads(json.dumps(gone)) == gone
