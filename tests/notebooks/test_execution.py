"""Every notebook runs, with two sets of parameters, and stored outputs are what a run gives."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medclip_helpers.demo import draw_phantom
from medclip_helpers.runs import notebook_parameters, plan, run_all

pytestmark = pytest.mark.notebooks
pytest.importorskip("papermill")

ROOT = Path(__file__).parent.parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]
# The second set, with values that take another way through the notebook; IMAGES is a folder of
# radiographs with one file that is none. The first set is the defaults, on the demo model.
IMAGES = "IMAGES"
OTHERS = {
    "00_setup": {"finding": "Edema", "seed": 5},
    "01_pretrained_model": {"seed": 8, "image": f"{IMAGES}/0.png"},
    "02_prompt_classification": {
        "images": IMAGES, "classes": "covid", "prompts_per_class": 3, "ensemble": False,
    },
    "03_semantic_loss": {"seed": 1, "steps": 20},
    "04_similarity_explorer": {"seed": 1},
    "05_pretraining": {"seed": 1, "samples": 200, "steps": 40, "augment": True},
    "06_reproduce_results": {
        "seed": 1, "draws": 2, "test_per_class": 20, "train_images": 50, "steps": 10,
    },
}  # fmt: skip

# nbval repeats what the first set has shown in full: its runs train for fewer steps.
SHORT = {
    "03_semantic_loss": {"steps": 20},
    "05_pretraining": {"steps": 40},
    "06_reproduce_results": {"steps": 10},
}

_spec = importlib.util.spec_from_file_location("fmt", ROOT / "tools" / "format_notebooks.py")
fmt = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fmt)


def defaults(path: Path) -> dict:
    return {"model": "demo"} if "model" in notebook_parameters(path) else {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def records(folder) -> dict[tuple[str, str], dict]:
    """(notebook, "first" or "second") -> the record of its run. All runs start here."""
    images = folder / "images"
    images.mkdir()
    for seed in range(3):
        Image.fromarray(draw_phantom(seed).image).save(images / f"{seed}.png")
    (images / "0-broken.png").write_bytes(b"no picture")
    asked = {}
    for path in NOTEBOOKS:
        second = json.loads(json.dumps(OTHERS[path.stem]).replace(IMAGES, str(images)))
        asked[path.stem, "first"] = path, defaults(path)
        asked[path.stem, "second"] = path, defaults(path) | second
    tour = ROOT / "notebooks" / fmt.TOUR
    asked[tour.stem, "first"] = tour, defaults(tour) | {"steps": 20}
    work = folder / "work"
    work.mkdir()
    runs = plan(asked.values(), folder / "out", cwd=work)
    found = {Path(record["folder"]): record for record in run_all(runs, processes=2)}
    return {key: found[run.folder] for key, run in zip(asked, runs, strict=True)}


@pytest.mark.parametrize("which", ["first", "second"])
@pytest.mark.parametrize("name", NAMES)
def test_runs(records, name, which):
    record = records[name, which]
    assert record["status"] == "ok", record["error"]
    assert record["summary"]
    assert record["metrics"]
    written = {path.suffix for path in Path(record["folder"]).iterdir()}
    assert {".ipynb", ".json"} <= written


def test_the_tour_in_one_file_runs(records):
    record = records["medclip_colab", "first"]
    assert record["status"] == "ok", record["error"]
    live = [stem for stem in fmt.tour.SECTIONS if stem not in fmt.tour.COMMENTED]
    found = {path.parent.name for path in Path(record["folder"]).glob("*/result.json")}
    assert found == set(live)


@pytest.mark.parametrize("name", NAMES)
def test_second_set_changes_what_comes_out(records, name):
    first, second = (records[name, which] for which in ("first", "second"))
    assert (first["summary"], first["metrics"]) != (second["summary"], second["metrics"])


def executed(record: dict) -> dict:
    file = Path(record["folder"]) / f"{record['notebook']}.ipynb"
    notebook = json.loads(file.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if "injected-parameters" not in fmt.tags(cell)]
    return fmt.canonical(notebook | {"cells": cells}, file.name, fmt.repository_address())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_stored_outputs_are_what_a_fresh_run_gives(records, path):
    """Of cells that are compared, text to the letter; pictures have to look alike."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    fresh = fmt.keep_pictures(executed(records[path.stem, "first"]), stored)
    for new, old in zip(fresh["cells"], stored["cells"], strict=True):
        if fmt.COMPARED in fmt.tags(old):
            outputs = [list(map(without_words, cell["outputs"])) for cell in (new, old)]
            assert outputs[0] == outputs[1], "run tools/format_notebooks.py --execute"


CAPTION = re.compile(r'<p class="medclip-caption">.*?</p>', re.DOTALL)


def without_words(output: dict) -> dict:
    """What another version of torch may change in the second digit is in no comparison."""
    metadata = output.get("metadata", {}).get("image/png", {})
    sized = {name: value for name, value in metadata.items() if name not in ("alt", "caption")}
    data = {m: CAPTION.sub("", "".join(text)) for m, text in output.get("data", {}).items()}
    return output | {"metadata": sized, "data": data}


def test_nothing_is_written_beside_the_output_folders(records, folder):
    assert list((folder / "work").rglob("*")) == []


def test_no_stored_output_names_a_place_on_somebodys_machine():
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                words = json.dumps({k: v for k, v in output.items() if k != "data"})
                words += "".join(output.get("data", {}).get("text/plain", ""))
                assert not any(place in words for place in ("/tmp", "/home", "/root", "C:\\")), path


def nbval(folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "-q"]
    # A figure's caption has its numbers, which another step count or version of torch changes
    sanitized = folder / "nbval.cfg"
    sanitized.write_text(f"[captions]\nregex: (?s){CAPTION.pattern}\nreplace: caption\n")
    command += ["--nbval-sanitize-with", str(sanitized)]
    command += ["-p", "no:cacheprovider", "--nbval-cell-timeout", "600", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def prepare(path: Path, folder: Path) -> Path:
    """The notebook with CI's parameters in it, not yet run."""
    target = folder / path.name
    command = [sys.executable, "-m", "papermill", "--prepare-only", str(path), str(target)]
    parameters = defaults(path) | SHORT.get(path.stem, {})
    parameters["output_dir"] = str(folder / path.stem)
    for name, value in parameters.items():
        command += ["-p", name, str(value)]
    subprocess.run(command, check=True, capture_output=True)
    return target


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_nbval(path, tmp_path):
    """Marked cells give their stored output again, and the rest runs."""
    prepare(path, tmp_path)
    done = nbval(tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]


def test_nbval_notices_a_changed_output(tmp_path):
    """The check above has teeth, with parameters injected and all."""
    form = {"tags": ["parameters"]}, 'output_dir = ""  #@param {type: "string"}', []
    result = [{"output_type": "stream", "name": "stdout", "text": "3\n"}]
    cells = [
        {
            "cell_type": "code", "id": str(i), "metadata": metadata, "source": source,
            "outputs": outputs, "execution_count": i + 1,
        }
        for i, (metadata, source, outputs) in enumerate(
            [form, ({"tags": [fmt.COMPARED]}, "print(1 + 1)", result)]
        )
    ]  # fmt: skip
    language = {"kernelspec": {"name": "python3", "language": "python", "display_name": "x"}}
    notebook = {"cells": cells, "metadata": language, "nbformat": 4, "nbformat_minor": 5}
    source, prepared = tmp_path / "wrong.ipynb", tmp_path / "prepared"
    source.write_text(json.dumps(notebook))
    prepared.mkdir()
    prepare(source, prepared)
    done = nbval(prepared)
    assert done.returncode == 1
    assert "1 failed" in done.stdout and "mismatch" in done.stdout


def papermill(notebook: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", str(notebook), "out.ipynb"]
    return subprocess.run(
        [*command, *arguments], cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (["-p", "modell", "demo"], "unknown parameter 'modell'"),
        (["-p", "prompts_per_class", "many"], "'prompts_per_class' must be int, got str 'many'"),
    ],
)
def test_a_wrong_parameter_stops_papermill_before_anything_runs(argument, message, tmp_path):
    done = papermill(ROOT / "notebooks" / "02_prompt_classification.ipynb", *argument, cwd=tmp_path)
    assert done.returncode != 0
    assert message in done.stderr and "prompts_per_class: int = 10" in done.stderr
    cells = json.loads((tmp_path / "out.ipynb").read_text())["cells"]
    ran = [cell for cell in cells if cell.get("execution_count")]
    assert "check_parameters(In)" in "".join(ran[-1]["source"])
    assert [path.name for path in tmp_path.iterdir()] == ["out.ipynb"]


def test_papermill_as_the_readme_says(tmp_path):
    """From any directory, and the table lands where output_dir says."""
    images = tmp_path / "scans"
    images.mkdir()
    for seed in range(2):
        Image.fromarray(np.asarray(draw_phantom(seed).image)).save(images / f"{seed}.png")
    done = papermill(
        ROOT / "notebooks" / "02_prompt_classification.ipynb",
        "-p", "model", "demo", "-p", "image_dir", "scans", "-p", "output_dir", "found",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    table = (tmp_path / "found" / "classification.csv").read_text().splitlines()
    assert len(table) == 3
    assert list((tmp_path / "found").glob("*.png"))
