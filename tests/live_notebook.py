"""A notebook in a real Jupyter, with a real kernel, in a real Chromium.

Jupyter is whatever the environment has: the classic notebook 6 of Colab's pins, notebook 7 or
JupyterLab 4. The last two are one front end at two addresses.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()
PATIENCE = 90_000  # milliseconds; a loaded machine is slow to import torch
# package -> traits of its application, where it keeps notebooks
FRONT_ENDS = {"notebook": ("JupyterNotebookApp", "notebooks"), "jupyterlab": ("LabApp", "lab/tree")}
NOT_ASKED = "@jupyterlab/apputils-extension:announcements"  # whether to fetch news: a call outside


def major(package: str) -> int:
    """Of a package's version; 0 where it is not installed."""
    try:
        return int(version(package).split(".")[0])
    except PackageNotFoundError:
        return 0


def missing(front_end: str) -> str | None:
    """Why a notebook cannot be shown here, if it cannot."""
    for package in ("playwright", "nbformat", front_end):
        if find_spec(package) is None:
            return f"needs the package {package}"
    if front_end == "jupyterlab" and (found := major("ipywidgets")) < 8:
        return f"JupyterLab 4 shows no widgets of ipywidgets {found}, as Colab has them"
    return None if CHROMIUM else "no Chromium on this machine (Debian: apt-get install chromium)"


@contextmanager
def jupyter(folder: Path, cells: Sequence[str], front_end: str) -> Iterator[str]:
    """Address of a notebook of these cells, served from `folder`, which is its home too."""
    import nbformat

    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    code = [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=code, metadata=kernel), folder / "live.ipynb")
    home = folder / "home"
    settings = home / ".jupyter" / "labconfig" / "page_config.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"disabledExtensions": {NOT_ASKED: True}}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page_app, place = FRONT_ENDS[front_end]
    classic = front_end == "notebook" and major("notebook") < 7
    app = "NotebookApp" if classic else "ServerApp"
    command = [
        sys.executable, "-m", front_end, "--no-browser", "--allow-root", "--ip=127.0.0.1",
        f"--port={port}", f"--{app}.port_retries=0", f"--{app}.token=", f"--{app}.password=",
        *([] if classic else [f"--{page_app}.expose_app_in_browser=True"]),
    ]  # fmt: skip
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    env = os.environ | {
        "PYTHONPATH": path,
        "HOME": str(home),
        "JUPYTER_RUNTIME_DIR": str(home / "run"),
    }
    log, url = folder / "server.log", f"http://127.0.0.1:{port}"
    with open(log, "w") as out:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=out)
        try:
            for _ in range(600):
                try:
                    urlopen(f"{url}/api", timeout=1).close()
                    break
                except (URLError, OSError):
                    if process.poll() is not None:
                        raise RuntimeError(f"Jupyter ended:\n{log.read_text()}") from None
                    time.sleep(0.1)
            yield f"{url}/{place}/live.ipynb"
        finally:
            process.terminate()
            process.wait(20)


class Notebook:
    """A notebook in a page of Chromium: `page` is playwright's."""

    def __init__(self, page, url: str):
        page.set_default_timeout(PATIENCE)
        page.goto(url)
        page.wait_for_function(
            "window.jupyterapp || window.Jupyter?.notebook?.kernel?.widget_manager"
            " && Jupyter.notebook.kernel.is_connected()"
        )
        self.page = page
        self.classic = page.evaluate("!window.jupyterapp")
        if not self.classic:
            # what is run before the kernel is there is not run at all
            page.wait_for_function(
                """() => {
                    const context = window.jupyterapp.shell.currentWidget?.sessionContext;
                    return context?.isReady && context.session?.kernel?.status === 'idle';
                }"""
            )
            if "/lab/" in url:
                self._command("application:toggle-left-area")

    def _command(self, name: str, **arguments) -> None:
        self.page.evaluate(
            "([name, arguments]) => void window.jupyterapp.commands.execute(name, arguments)",
            [name, arguments],
        )

    def run_all(self) -> None:
        if self.classic:
            self.page.click("#menus a:text-is('Cell')")
            self.page.click("#run_all_cells")
        else:
            self._command("notebook:run-all-cells")

    def restart(self) -> None:
        """The kernel; the page's outputs are cleared, so that what is there later is new."""
        if self.classic:
            self.page.evaluate("Jupyter.notebook.restart_clear_output({confirm: false})")
        else:
            self._command("kernelmenu:restart-and-clear")
            self.page.click(".jp-Dialog button.jp-mod-accept")

    def theme(self, name: str) -> None:
        """ "JupyterLab Light" or "JupyterLab Dark"; the classic notebook has none."""
        self._command("apputils:change-theme", theme=name)
        light = str(name.endswith("Light")).lower()
        self.page.wait_for_selector(f"body[data-jp-theme-light='{light}']", state="attached")


@contextmanager
def chromium(**options) -> Iterator:
    """A new page of playwright's; options as of its `new_page`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser.new_page(**options)
        finally:
            browser.close()
