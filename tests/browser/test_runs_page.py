"""The page of a run as a person meets it: on a phone, in the dark, with the keyboard."""

from __future__ import annotations

import base64
import shutil
from io import BytesIO

import nbformat
import pytest
from PIL import Image

from medclip_helpers.runs import write_report

pytestmark = pytest.mark.browser

playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    """A page of two runs, with a wide picture and words that are longer than a phone."""
    output = tmp_path_factory.mktemp("out")
    Image.new("L", (900, 400), 99).save(buffer := BytesIO(), "PNG")
    data = {"image/png": base64.b64encode(buffer.getvalue()).decode()}
    cell = nbformat.v4.new_code_cell(outputs=[nbformat.v4.new_output("display_data", data)])
    records = []
    for name, status in ("a" * 70, "ok"), ("b", "failed"):
        (output / name).mkdir()
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), output / name / f"{name}.ipynb")
        records.append({
            "notebook": name, "parameters": {"images": "/data" * 30}, "folder": str(output / name),
            "status": status, "error": "E" * 99 * (status != "ok"), "summary": "S" * 99,
            "metrics": {f"m{i}": i / 7 for i in range(20)}, "note": "N", "seconds": 3, "files": [],
        })  # fmt: skip
    write_report(records, output)
    return (output / "index.html").as_uri()


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_fits_the_screen_and_asks_for_nothing(browser, address, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    for opened in False, True:
        page.evaluate(f"document.querySelectorAll('details').forEach(d => d.open = {+opened})")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert [url for url in asked if not url.startswith("data:")] == [address]
    # white paper on a light screen, light letters on a dark one
    style = "getComputedStyle(document.querySelector('td')).color.match(/\\d+/g).map(Number)"
    letters = sum(page.evaluate(style)) / 3
    assert letters > 200 if scheme == "dark" else letters < 60
    page.close()


def test_the_keyboard_reaches_the_notebook_the_metrics_and_the_figure(browser, address):
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(address)
    seen = []
    for _ in range(3):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.tagName"))
    assert seen == ["A", "SUMMARY", "SUMMARY"]
    image = page.locator("img").first
    small = image.bounding_box()["width"]
    page.keyboard.press("Enter")
    assert small < 300 and image.bounding_box()["width"] > 800
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.close()
