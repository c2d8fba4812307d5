"""The explorer as a person meets it, in the classic notebook and in JupyterLab 4.

Screenshots of every step are kept in build/screenshots.
"""

from __future__ import annotations

import csv
import io
import re
import time
from pathlib import Path

import numpy as np
import pytest
from live_notebook import FRONT_ENDS, PATIENCE, ROOT, Notebook, chromium, jupyter, major, missing
from PIL import Image

pytestmark = pytest.mark.browser

playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")

playwright.expect.set_options(timeout=PATIENCE)

SHOTS = ROOT / "build" / "screenshots"
CELLS = [
    "from medclip_helpers import SimilarityExplorer, load_medclip\n"
    "model, processor = load_medclip('demo')\n"
    "explorer = SimilarityExplorer(model, processor)",
    "explorer",
    "SimilarityExplorer(model, processor, presets={'other': ['There is a fracture.', 'edema']})",
]


@pytest.fixture(scope="module", params=FRONT_ENDS)
def notebook(request, tmp_path_factory):
    """The notebook, run from its first cell to its last."""
    if reason := missing(request.param):
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp(request.param)
    size = {"width": 1360, "height": 1500}  # JupyterLab may drop what is out of sight
    with (
        jupyter(folder, CELLS, request.param) as url,
        chromium(viewport=size, accept_downloads=True) as page,
    ):
        notebook = Notebook(page, url)
        notebook.name = f"{request.param}{major(request.param)}"
        notebook.run_all()
        page.locator(".medclip-pictures img").nth(1).wait_for()
        SHOTS.mkdir(parents=True, exist_ok=True)
        yield notebook


class Explorer:
    """An explorer of the notebook, counted from 0, in a person's words."""

    def __init__(self, notebook: Notebook, place: int = 0):
        self.notebook, self.page = notebook, notebook.page
        self.root = self.page.locator(".medclip:visible").nth(place)
        self.area = self.root.locator(".widget-textarea textarea")
        self.status = self.root.locator(".widget-html-content").filter(
            has_text=re.compile("scored in|shows the last valid|encoding|computing")
        )

    def menu(self, label: str):
        return self.root.locator(f".widget-dropdown:has(label:text-is('{label}')) select")

    def options(self, label: str) -> list[str]:
        # ipywidgets 7 writes its options with no-break spaces.
        names = self.menu(label).locator("option").all_inner_texts()
        return [name.replace("\xa0", " ") for name in names]

    def choose(self, label: str, option: str) -> None:
        self.menu(label).select_option(index=self.options(label).index(option))

    def chosen(self, label: str) -> str:
        return self.options(label)[self.menu(label).evaluate("e => e.selectedIndex")]

    def send(self, file: Path) -> None:
        with self.page.expect_file_chooser() as waiting:
            self.root.locator("button:has-text('Upload')").click()
        waiting.value.set_files(file)

    def picture(self) -> str:
        """What stands on the page beside the controls, but for the time that it took."""
        parts = ".medclip-words, .medclip-pictures, .medclip-score, .medclip-matrix, .medclip-text"
        return self.root.evaluate(
            "(root, parts) => [...root.querySelectorAll(parts)].map(e => e.outerHTML).join()", parts
        )

    def wait_for_new_picture(self, old: str) -> str:
        """The page, once it has changed and come to rest: it changes piece by piece."""
        before, deadline = old, time.monotonic() + PATIENCE / 1000
        while time.monotonic() < deadline:
            if (new := self.picture()) != old and new == before:
                return new
            before = new
            time.sleep(0.2)
        raise AssertionError("the picture did not change")

    def download(self, label: str) -> tuple[str, bytes]:
        link = self.root.locator(f"a:has-text('{label}')")
        deadline = time.monotonic() + PATIENCE / 1000
        while not link.is_visible() and time.monotonic() < deadline:
            # again, where the page was still moving under the pointer
            self.root.locator("button:has-text('for download')").click()
            self.page.wait_for_timeout(1000)
        with self.page.expect_download() as waiting:
            link.click()
        return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()

    def numbers(self) -> list[dict]:
        name, content = self.download("the numbers")
        assert name == "similarity.csv"
        return list(csv.DictReader(io.StringIO(content.decode())))

    def numbers_at_rest(self) -> list[dict]:
        """The numbers, once they have stopped changing."""
        before, deadline = None, time.monotonic() + PATIENCE / 1000
        while time.monotonic() < deadline:
            if (now := self.numbers()) == before:
                return now
            before = now
            time.sleep(0.5)
        raise AssertionError("the numbers went on changing")

    def shoot(self, name: str) -> None:
        self.page.mouse.move(0, 0)
        self.root.screenshot(path=SHOTS / f"{self.notebook.name}-{name}.png")


@pytest.fixture(scope="module")
def explorer(notebook) -> Explorer:
    return Explorer(notebook)


def test_first_state_is_there(explorer):
    playwright.expect(explorer.status).to_contain_text("scored in")
    playwright.expect(explorer.root.locator(".medclip-words")).to_contain_text("effusion")
    assert explorer.area.input_value().count("\n") >= 4
    explorer.root.locator(".medclip-pictures img").scroll_into_view_if_needed()
    explorer.shoot("1-first")


def test_another_sample_changes_picture_and_numbers(explorer):
    before, shown = explorer.numbers(), explorer.picture()
    other = explorer.options("Radiograph")[2]
    explorer.choose("Radiograph", other)
    explorer.wait_for_new_picture(shown)
    after = explorer.numbers()
    assert {row["image"] for row in after} == {other} != {row["image"] for row in before}
    assert [row["text"] for row in after] == [row["text"] for row in before]
    assert [row["score"] for row in after] != [row["score"] for row in before]
    explorer.shoot("2-other-sample")


def test_typed_texts_are_scored(explorer):
    shown = explorer.picture()
    explorer.area.fill("The heart is enlarged.")
    explorer.area.press("End")
    explorer.area.press_sequentially("\nThere is a pneumothorax on the left.", delay=20)
    explorer.wait_for_new_picture(shown)
    playwright.expect(explorer.status).to_contain_text("2 texts, scored in")
    texts = ["The heart is enlarged.", "There is a pneumothorax on the left."]
    assert [row["text"] for row in explorer.numbers()] == texts
    assert explorer.chosen("Preset") == "own texts"
    explorer.shoot("3-typed")


def test_temperature_moves_the_softmax(explorer):
    shown = explorer.picture()
    explorer.choose("Score", "softmax over the texts")
    shown = explorer.wait_for_new_picture(shown)
    sharp = [float(row["score"]) for row in explorer.numbers()]
    explorer.root.get_by_label("Temperature").fill("0.5")
    explorer.page.keyboard.press("Enter")
    explorer.wait_for_new_picture(shown)
    playwright.expect(explorer.status).to_contain_text("scored in")
    soft = [float(row["score"]) for row in explorer.numbers_at_rest()]
    assert sum(sharp) == pytest.approx(1) and sum(soft) == pytest.approx(1)
    assert max(soft) < max(sharp), "a higher temperature is less sure"
    explorer.shoot("4-temperature")


def test_map_and_matrix_views(explorer):
    shown = explorer.picture()
    explorer.choose("View", "map of a text")
    shown = explorer.wait_for_new_picture(shown)
    explorer.shoot("5-map")
    explorer.choose("View", "bars")
    shown = explorer.wait_for_new_picture(shown)
    row = explorer.root.get_by_role("button", name="There is a pneumothorax on the left.")
    row.click()
    shown = explorer.wait_for_new_picture(shown)
    playwright.expect(explorer.root.locator(".medclip-pictures")).to_contain_text("pneumothorax")
    explorer.choose("Compare", explorer.options("Compare")[1])
    shown = explorer.wait_for_new_picture(shown)
    playwright.expect(explorer.root.locator(".medclip-pictures img")).to_have_count(2)
    explorer.shoot("5-two")
    explorer.choose("Compare", "none")
    shown = explorer.wait_for_new_picture(shown)
    explorer.choose("View", "all images")
    explorer.wait_for_new_picture(shown)
    images = explorer.options("Radiograph")
    assert list(dict.fromkeys(row["image"] for row in explorer.numbers())) == images
    explorer.shoot("6-matrix")


def test_positive_against_negative(explorer):
    shown = explorer.picture()
    explorer.choose("View", "bars")
    shown = explorer.wait_for_new_picture(shown)
    explorer.choose("Score", "positive against negative")
    explorer.wait_for_new_picture(shown)
    row = explorer.numbers()[1]
    assert row["negative"] == "There is no pneumothorax on the left."
    explorer.shoot("7-pair")


def test_upload_joins_the_samples(explorer, tmp_path):
    file = tmp_path / "my film.png"
    pixels = np.add.outer(np.arange(300), np.arange(260)) % 256
    Image.fromarray(pixels.astype(np.uint8)).save(file)
    shown = explorer.picture()
    explorer.send(file)
    explorer.wait_for_new_picture(shown)
    assert explorer.chosen("Radiograph") == "my film.png"
    assert {row["image"] for row in explorer.numbers()} == {"my film.png"}
    banner = explorer.root.locator(".medclip-banner")
    playwright.expect(banner).to_contain_text("only ever seen drawings")
    explorer.shoot("8-upload")


def test_a_broken_file_leaves_the_result_standing(explorer, tmp_path):
    file = tmp_path / "broken.dcm"
    file.write_bytes(b"\0" * 128 + b"DICM" + b"\1" * 200)
    shown = explorer.picture()
    explorer.send(file)
    playwright.expect(explorer.status).to_contain_text("cannot read broken.dcm")
    playwright.expect(explorer.status).to_contain_text("shows the last valid result")
    assert explorer.picture() == shown
    assert "broken.dcm" not in explorer.options("Radiograph")
    explorer.shoot("9-broken-file")


@pytest.mark.parametrize(
    ("text", "message", "better"),
    [
        ("", "There is no text", "There is edema."),
        ("pleural effusion and " * 60, "expected at most 77", "There is consolidation."),
    ],
    ids=["empty", "too long"],
)
def test_unusable_texts_say_so(explorer, text, message, better):
    shown = explorer.picture()
    explorer.area.fill(text)
    playwright.expect(explorer.status).to_contain_text(message)
    assert explorer.picture() == shown
    explorer.shoot("10-long-text" if text else "10-empty")
    explorer.area.fill(better)
    playwright.expect(explorer.status).to_contain_text("1 text, scored in")
    assert explorer.picture() != shown, "it works again after the mistake"


def test_download_of_the_figure_is_the_figure(explorer):
    name, content = explorer.download("the figure")
    assert name == "similarity.png"
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG" and image.width >= 700


FOCUSED = """
root => {
    const e = document.activeElement, box = e.getBoundingClientRect();
    if (!root.contains(e)) return null;
    return {
        name: (e.labels?.[0]?.innerText || e.innerText || e.alt || '').trim(), kind: e.tagName,
        seen: box.width > 0 && box.top < innerHeight && box.bottom > 0,
    };
}
"""


def tab_stops(explorer: Explorer) -> list[dict]:
    """What Tab reaches from the explorer's first control on, in this order."""
    explorer.menu("Radiograph").focus()
    stops = []
    while (stop := explorer.root.evaluate(FOCUSED)) and len(stops) < 60:
        stops.append(stop)
        explorer.page.keyboard.press("Tab")
    return stops


def test_the_keyboard_alone_chooses_writes_and_opens_a_map(explorer):
    keyboard = explorer.page.keyboard
    shown = explorer.picture()
    explorer.choose("Score", "cosine")
    shown = explorer.wait_for_new_picture(shown)
    explorer.area.fill("There is edema.\nThe heart is enlarged.")
    shown = explorer.wait_for_new_picture(shown)
    explorer.menu("Radiograph").focus()
    keyboard.press("Home")
    keyboard.press("ArrowDown")
    shown = explorer.wait_for_new_picture(shown)
    stops = tab_stops(explorer)
    names = [stop["name"] for stop in stops]
    assert all(names) and all(stop["seen"] for stop in stops)
    kinds = [stop["kind"] for stop in stops]
    texts = kinds.index("TEXTAREA")
    rows = explorer.area.input_value().splitlines()
    assert [name for name in names[texts:] if name in rows] == rows, names  # in their order
    explorer.menu("Radiograph").focus()
    for _ in range(names.index(rows[0])):
        keyboard.press("Tab")
    keyboard.press("Enter")
    explorer.wait_for_new_picture(shown)
    playwright.expect(explorer.root.locator(".medclip-pictures")).to_contain_text(rows[0])
    explorer.shoot("12-keyboard")
    keyboard.press("Enter")


@pytest.mark.parametrize("width", [420, 680])  # a telephone, and 1360 pixels at 200 %
def test_every_control_is_labelled_and_nothing_is_cut_on_a_narrow_page(explorer, width):
    size = explorer.page.viewport_size
    explorer.page.set_viewport_size({"width": width, "height": 900})
    explorer.page.wait_for_timeout(500)
    found = explorer.root.evaluate(
        """page => {
            const edge = page.parentElement.getBoundingClientRect().right + 1;
            const shown = [...page.querySelectorAll('select, textarea, input, button, img')]
                .filter(e => e.offsetParent !== null && e.type !== 'file');
            return {
                unlabelled: shown.filter(e => !(e.labels?.[0]?.innerText || e.innerText || e.alt))
                    .map(e => e.outerHTML.slice(0, 200)),
                cut: shown.filter(e => e.getBoundingClientRect().right > edge)
                    .map(e => e.outerHTML.slice(0, 200)),
                count: shown.length,
            };
        }"""
    )
    explorer.shoot(f"11-narrow-{width}")
    explorer.page.set_viewport_size(size)
    assert found["count"] > 8 and found["unlabelled"] == [] and found["cut"] == []


def test_two_explorers_leave_each_other_alone(notebook, explorer):
    other = Explorer(notebook, 1)
    assert other.area.input_value() == "There is a fracture.\nedema"
    first, second = explorer.picture(), other.picture()
    other.area.fill("There is consolidation.")
    second = other.wait_for_new_picture(second)
    playwright.expect(other.status).to_contain_text("1 text, scored in")
    assert explorer.picture() == first
    explorer.area.fill("There is edema.\nThere is atelectasis.")
    explorer.wait_for_new_picture(first)
    playwright.expect(explorer.status).to_contain_text("2 texts, scored in")
    assert other.picture() == second and "atelectasis" not in second


# Contrast as WCAG 2 has it, of every text in sight against what lies under it.
CONTRASTS = """root => {
    const parse = colour => {
        const found = colour.match(/[\\d.]+/g).map(Number);
        return found.length < 4 ? [...found, 1] : found;
    };
    const over = (top, low) => low.map((c, i) => i < 3 ? top[i] * top[3] + c * (1 - top[3]) : 1);
    const under = e => {
        const layers = [];
        for (; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
        return layers.reduceRight((low, top) => over(top, low), [255, 255, 255, 1]);
    };
    const light = rgb => [.2126, .7152, .0722].reduce((sum, weight, i) => {
        const c = rgb[i] / 255;
        return sum + weight * (c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
    }, 0);
    return [...root.querySelectorAll('*')].filter(e => e.offsetParent && e.tagName !== 'OPTION' &&
        ([...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || e.value)
    ).map(e => {
        const low = under(e), text = over(parse(getComputedStyle(e).color), low);
        const [dim, bright] = [light(text), light(low)].sort((a, b) => a - b);
        return [(e.innerText || e.value).slice(0, 40), (bright + .05) / (dim + .05)];
    });
}"""


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
@pytest.mark.parametrize("view", ["bars", "map of a text", "all images"])
def test_every_text_is_legible(notebook, explorer, theme, view):
    if notebook.classic and theme.endswith("Dark"):
        pytest.skip("the classic notebook has no dark theme")
    if not notebook.classic:
        notebook.theme(theme)
    if explorer.chosen("View") != view:
        shown = explorer.picture()
        explorer.choose("View", view)
        explorer.wait_for_new_picture(shown)
    explorer.page.wait_for_timeout(500)  # buttons fade into their colours
    contrasts = explorer.root.evaluate(CONTRASTS)
    explorer.shoot(f"12-{theme.split()[-1].lower()}-{view.split()[0]}")
    assert len(contrasts) > 15
    assert not [(text, round(contrast, 2)) for text, contrast in contrasts if contrast < 4.5]


def test_after_a_restart_of_the_kernel_the_cells_work_again(notebook):
    notebook.restart()
    playwright.expect(notebook.page.locator(".medclip:visible")).to_have_count(0)
    notebook.run_all()
    notebook.page.locator(".medclip-pictures img").nth(1).wait_for()
    explorer = Explorer(notebook)
    assert explorer.area.input_value().count("\n") >= 4, "the texts of its beginning"
    shown = explorer.picture()
    explorer.area.fill("There is a pneumothorax.")
    explorer.wait_for_new_picture(shown)
    playwright.expect(explorer.status).to_contain_text("1 text, scored in")
