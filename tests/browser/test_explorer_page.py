"""The explorer as a person meets it: a real Jupyter, a real kernel, a real Chromium.

Jupyter is whatever the environment has: the classic notebook 6 of Colab's pins, or notebook 7.
Screenshots of every step are kept in build/screenshots.
"""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.browser

playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
nbformat = pytest.importorskip("nbformat", reason="needs Jupyter")
pytest.importorskip("notebook", reason="needs Jupyter's notebook server")

ROOT = Path(__file__).parents[2]
SHOTS = ROOT / "build" / "screenshots"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()
CLASSIC = int(version("notebook").split(".")[0]) < 7
PATIENCE = 90_000  # milliseconds; a loaded machine is slow to import torch

CELLS = [
    "from medclip_helpers import SimilarityExplorer, load_medclip\n"
    "model, processor = load_medclip('demo')\n"
    "explorer = SimilarityExplorer(model, processor)",
    "explorer",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Address of a Jupyter server over a folder with one notebook, explorer.ipynb."""
    folder = tmp_path_factory.mktemp("jupyter")
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(
        nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "explorer.ipynb"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = "NotebookApp" if CLASSIC else "ServerApp"
    command = [
        sys.executable, "-m", "notebook", "--no-browser", "--allow-root", "--ip=127.0.0.1",
        f"--port={port}", f"--{app}.port_retries=0", f"--{app}.token=", f"--{app}.password=",
    ]  # fmt: skip
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    home = folder / "home"
    env = os.environ | {
        "PYTHONPATH": path,
        "HOME": str(home),
        "JUPYTER_RUNTIME_DIR": str(home / "run"),
    }
    log = folder / "server.log"
    with open(log, "w") as out:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=out)
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(600):
                try:
                    urlopen(f"{url}/api", timeout=1).close()
                    break
                except (URLError, OSError):
                    assert process.poll() is None, f"Jupyter ended:\n{log.read_text()}"
                    time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture(scope="module")
def page(server):
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1360, "height": 1000}, accept_downloads=True)
        page.set_default_timeout(PATIENCE)
        page.goto(f"{server}/notebooks/explorer.ipynb")
        if CLASSIC:
            page.wait_for_function("window.Jupyter?.notebook?.kernel?.is_connected()")
            page.click("#menus a:text-is('Cell')")
            page.click("#run_all_cells")
        else:
            page.wait_for_selector(".jp-Notebook .jp-CodeCell")
            page.click(".lm-MenuBar-item:has-text('Run')")
            page.click(".lm-Menu-item:has-text('Run All Cells')")
        page.wait_for_selector(".medclip-pictures img")
        SHOTS.mkdir(parents=True, exist_ok=True)
        yield page
        browser.close()


class Explorer:
    """The page, in a person's words."""

    def __init__(self, page):
        self.page = page
        self.status = page.locator(".widget-html-content").filter(
            has_text=re.compile("scored in|shows the last valid|encoding|computing")
        )

    def menu(self, label: str):
        return self.page.locator(f".widget-dropdown:has(label:text-is('{label}')) select")

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
            self.page.click("button:has-text('Upload')")
        waiting.value.set_files(file)

    def picture(self) -> str:
        """What stands on the page beside the controls, but for the time that it took."""
        parts = ".medclip-words, .medclip-pictures, .medclip-score, .medclip-matrix, .medclip-text"
        return self.page.evaluate(
            "parts => [...document.querySelectorAll(parts)].map(e => e.outerHTML).join()", parts
        )

    def wait_for_new_picture(self, old: str) -> str:
        deadline = time.monotonic() + PATIENCE / 1000
        while time.monotonic() < deadline:
            if (new := self.picture()) != old:
                return new
            time.sleep(0.1)
        raise AssertionError("the picture did not change")

    def download(self, label: str) -> tuple[str, bytes]:
        link = self.page.locator(f"a:has-text('{label}')")
        deadline = time.monotonic() + PATIENCE / 1000
        while not link.is_visible() and time.monotonic() < deadline:
            # again, where the page was still moving under the pointer
            self.page.click("button:has-text('for download')")
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
        kind = f"nb{version('notebook').split('.')[0]}"
        self.page.screenshot(path=SHOTS / f"{kind}-{name}.png")


@pytest.fixture(scope="module")
def explorer(page) -> Explorer:
    return Explorer(page)


def test_first_state_is_there(explorer):
    playwright.expect(explorer.status).to_contain_text("scored in")
    playwright.expect(explorer.page.locator(".medclip-words")).to_contain_text("effusion")
    assert explorer.page.locator(".widget-textarea textarea").input_value().count("\n") >= 4
    explorer.page.locator(".medclip-pictures img").scroll_into_view_if_needed()
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
    area = explorer.page.locator(".widget-textarea textarea")
    area.fill("The heart is enlarged.")
    area.press("End")
    area.press_sequentially("\nThere is a pneumothorax on the left.", delay=20)
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
    explorer.page.get_by_label("Temperature").fill("0.5")
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
    row = explorer.page.get_by_role("button", name="There is a pneumothorax on the left.")
    row.click()
    shown = explorer.wait_for_new_picture(shown)
    playwright.expect(explorer.page.locator(".medclip-pictures")).to_contain_text("pneumothorax")
    explorer.choose("Beside it", explorer.options("Beside it")[1])
    shown = explorer.wait_for_new_picture(shown)
    assert explorer.page.locator(".medclip-pictures img").count() == 2
    explorer.shoot("5-two")
    explorer.choose("Beside it", "nothing")
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
    banner = explorer.page.locator(".medclip-banner")
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
    area = explorer.page.locator(".widget-textarea textarea")
    area.fill(text)
    playwright.expect(explorer.status).to_contain_text(message)
    assert explorer.picture() == shown
    explorer.shoot("10-long-text" if text else "10-empty")
    area.fill(better)
    playwright.expect(explorer.status).to_contain_text("1 text, scored in")
    assert explorer.picture() != shown, "it works again after the mistake"


def test_download_of_the_figure_is_the_figure(explorer):
    name, content = explorer.download("the figure")
    assert name == "similarity.png"
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG" and image.width >= 700


def test_every_control_is_labelled_and_nothing_is_cut_on_a_narrow_page(explorer):
    explorer.page.set_viewport_size({"width": 420, "height": 900})
    explorer.page.wait_for_timeout(500)
    found = explorer.page.evaluate(
        """() => {
            const page = document.querySelector('.medclip');
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
    explorer.shoot("11-narrow")
    assert found["count"] > 8 and found["unlabelled"] == [] and found["cut"] == []
