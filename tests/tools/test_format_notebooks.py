"""The canonical form of a notebook, and the address that stands in one place."""

import base64
import copy
import importlib.util
import io
import json
from pathlib import Path

import nbformat
import pytest
from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("fmt", ROOT / "tools" / "format_notebooks.py")
fmt = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fmt)

ADDRESS = "https://github.com/someone/medclip-colab"


def code(source, outputs=(), **metadata):
    return {
        "cell_type": "code", "id": "aB3dE", "metadata": metadata, "source": source,
        "outputs": list(outputs), "execution_count": 41,
    }  # fmt: skip


def markdown(source, **metadata):
    return {"cell_type": "markdown", "id": "x", "metadata": metadata, "source": source}


STDOUT = {"output_type": "stream", "name": "stdout"}


@pytest.fixture
def messy() -> dict:
    """A notebook as Colab leaves it behind."""
    result = {
        "output_type": "execute_result", "execution_count": 41, "metadata": {"needs": "light"},
        "data": {"text/plain": ["1\n", "2"], "application/json": {}},
    }  # fmt: skip
    return {
        "cells": [
            markdown("# Title  \nText with a tail.   \n", id="H2xYz", colab_type="text"),
            code(
                ['seed = 3  #@param {type: "integer"}\n'], tags=["parameters"],
                cellView="form", executionInfo={"user": {"displayName": "A. Person"}},
            ),
            code("print(1)", [{**STDOUT, "text": "1\n"}], colab={"height": 34}),
            code(
                "kept", [
                    {**STDOUT, "text": "a\n"}, {**STDOUT, "text": ["b\n"]},
                    {**STDOUT, "name": "stderr", "text": "100%|###|"}, result,
                ], tags=["z", "nbval-check-output"],
            ),
            code("  \n"),
            markdown("## End"),
        ],
        "metadata": {
            "accelerator": "GPU", "colab": {"provenance": [{"file_id": "1x"}]},
            "kernelspec": {"name": "venv", "display_name": "mine"},
            "widgets": {"application/vnd.jupyter.widget-state+json": {"state": {}}},
        },
        "nbformat": 4,
        "nbformat_minor": 0,
    }  # fmt: skip


def test_canonical_form(messy):
    clean = fmt.canonical(messy, "01_x.ipynb", ADDRESS)
    nbformat.validate(clean)
    title, form, setup, plain, kept, end = clean["cells"]
    assert "".join(title["source"]) == (
        "# Title\n\n[![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
        "(https://colab.research.google.com/github/someone/medclip-colab/blob/main/notebooks/"
        "01_x.ipynb)\n\nText with a tail."
    )
    assert form["metadata"] == {"tags": ["parameters"], "cellView": "form"}
    assert "".join(form["source"]) == 'seed = 3  #@param {type: "integer"}'
    hidden = {"source_hidden": True}
    assert setup["metadata"] == {"tags": ["setup"], "cellView": "form", "jupyter": hidden}
    assert "".join(setup["source"]) == fmt.setup_source(ADDRESS)
    assert (plain["outputs"], plain["execution_count"]) == ([], None)
    assert kept["metadata"] == {"tags": ["nbval-check-output", "z"]}
    assert kept["execution_count"] == 4
    assert kept["outputs"] == [
        {**STDOUT, "text": ["a\n", "b\n"]},
        {
            "output_type": "execute_result", "execution_count": 4, "metadata": {},
            "data": {"text/plain": ["1\n", "2"]},
        },
    ]  # fmt: skip
    assert end["source"] == ["## End"]
    assert clean["metadata"] == {
        "accelerator": "GPU",
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert "Person" not in fmt.to_text(clean)


def test_canonical_form_is_a_fixed_point(messy):
    once = fmt.to_text(fmt.canonical(messy, "01_x.ipynb", ADDRESS))
    assert fmt.to_text(fmt.canonical(json.loads(once), "01_x.ipynb", ADDRESS)) == once
    other = fmt.to_text(fmt.canonical(json.loads(once), "01_x.ipynb", ADDRESS + "2"))
    assert other != once
    assert fmt.to_text(fmt.canonical(json.loads(other), "01_x.ipynb", ADDRESS)) == once


def test_one_edit_changes_one_place(messy):
    before = fmt.to_text(fmt.canonical(messy, "01_x.ipynb", ADDRESS)).splitlines()
    messy["cells"][2]["source"] = "print(2)"
    after = fmt.to_text(fmt.canonical(messy, "01_x.ipynb", ADDRESS)).splitlines()
    assert len(before) == len(after)
    changed = [new.strip() for old, new in zip(before, after, strict=True) if old != new]
    assert len(changed) == 2 and '"print(2)"' in changed  # the cell's id, and its text


def test_equal_cells_have_different_ids(messy):
    messy["cells"] += [copy.deepcopy(messy["cells"][2]) for _ in range(2)]
    ids = [cell["id"] for cell in fmt.canonical(messy, "01_x.ipynb", ADDRESS)["cells"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("drop", "message"), [(0, "must be markdown and start with"), (1, "tagged `parameters`")]
)
def test_a_notebook_without_its_opening_is_refused(messy, drop, message):
    del messy["cells"][drop]
    with pytest.raises(ValueError, match=message):
        fmt.canonical(messy, "01_x.ipynb", ADDRESS)


def test_address_comes_from_pyproject(tmp_path):
    file = tmp_path / "pyproject.toml"
    file.write_text('[project.urls]\nRepository = "https://example.org/a/b.git/"\n')
    assert fmt.repository_address(file) == "https://example.org/a/b"
    file.write_text("[project]\n")
    with pytest.raises(ValueError, match="has no Repository"):
        fmt.repository_address(file)


def readme_of(badges: list[str]) -> str:
    rows = [f"| [x](notebooks/0{i}_x.ipynb) | words | {b} |" for i, b in enumerate(badges, 1)]
    return "\n".join([fmt.HEADER.strip(), "|---|---|---|---|", *rows, "words", ""])


@pytest.fixture
def folder(messy, tmp_path, monkeypatch):
    """A repository of one messy notebook, with its address, and a README of an earlier one."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_x.ipynb").write_text(json.dumps(messy))
    badges = [fmt.badge("https://github.com/before/it", f"0{i}_x.ipynb") for i in (1, 2)]
    (tmp_path / "README.md").write_text(readme_of(badges))
    monkeypatch.setattr(fmt, "ROOT", tmp_path)
    monkeypatch.setattr(fmt, "repository_address", lambda: ADDRESS)
    return tmp_path / "notebooks"


def test_check_fails_until_it_is_written(folder, capsys, monkeypatch):
    file = folder / "01_x.ipynb"
    before = file.read_text()
    assert fmt.main(["--check"]) == 1
    assert file.read_text() == before
    assert "colab-badge" in capsys.readouterr().out
    assert fmt.main([]) == 0
    assert fmt.main(["--check"]) == 0
    badges = [fmt.badge(ADDRESS, f"0{i}_x.ipynb") for i in (1, 2)]
    readme = folder.parent / "README.md"
    assert readme.read_text() == readme_of(badges)
    readme.write_text(readme.read_text().replace("someone", "before"))
    assert fmt.main(["--check"]) == 1
    monkeypatch.setattr(fmt, "repository_address", lambda: ADDRESS + "-moved")
    assert fmt.main(["--check", str(file)]) == 1


def test_one_file_keeps_the_address_of_the_others(folder, capsys, monkeypatch):
    monkeypatch.setattr(fmt, "origin_address", lambda: "https://github.com/me/fork")
    file = folder / "01_x.ipynb"
    assert fmt.main([str(file)]) == 0
    assert "me/fork" not in file.read_text() and not capsys.readouterr().err
    assert fmt.main([]) == 0
    assert "me/fork" in file.read_text()
    assert "the repository is https://github.com/me/fork, pyproject" in capsys.readouterr().err


def test_execute_stores_what_a_fresh_run_gives(folder):
    file = folder / "01_x.ipynb"
    notebook = json.loads(file.read_text())
    notebook["cells"][3]["source"] = "print(seed + 1)"
    notebook["cells"][2]["source"] = "print('not kept')"
    file.write_text(json.dumps(notebook))
    assert fmt.main(["--execute"]) == 0
    written = json.loads(file.read_text())
    outputs = [cell["outputs"] for cell in written["cells"] if cell.get("outputs")]
    assert outputs == [[{**STDOUT, "text": ["4\n"]}]]
    assert fmt.main(["--execute", "--check"]) == 0
    file.write_text(file.read_text().replace('"4\\n"', '"5\\n"'))
    assert fmt.main(["--check"]) == 0
    assert fmt.main(["--execute", "--check"]) == 1


def picture(width: int) -> str:
    image = Image.new("RGB", (300, 200), "white")
    ImageDraw.Draw(image).rectangle((20, 20, 20 + width, 100), fill="navy")
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_a_picture_is_kept_unless_it_shows_something_else():
    def notebook(png):
        output = {"output_type": "display_data", "data": {"image/png": png}, "metadata": {}}
        return {"cells": [{"id": "a", "outputs": [output]}]}

    stored = picture(150)
    assert stored != picture(151)
    kept = fmt.keep_pictures(notebook(picture(151)), notebook(stored))
    assert kept == notebook(stored)
    assert fmt.keep_pictures(notebook(picture(250)), notebook(stored)) == notebook(picture(250))


def test_a_widget_is_stored_by_its_picture_or_not_at_all():
    png = base64.b64encode(picture_of("white", (8, 4))).decode()
    sized = {"image/png": {"width": 4, "height": 2, "alt": "white"}, "text/plain": {}}
    bar = {"text/plain": ["  0%|"], fmt.WIDGET: {}}
    explorer = {"text/plain": ["VBox"], fmt.WIDGET: {}, "image/png": png}
    outputs = [
        {"output_type": "display_data", "metadata": sized, "data": data} for data in (bar, explorer)
    ]
    (stored,) = fmt._outputs(outputs)
    assert set(stored["data"]) == {"text/plain", "image/png"}
    assert stored["metadata"] == sized
    assert fmt.tour.smaller(stored["data"]["image/png"]) == stored["data"]["image/png"]  # once


def picture_of(color: str, size: tuple[int, int]) -> bytes:
    Image.new("RGB", size, color).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


def test_pictures_of_two_sizes_are_two_pictures():
    first, same, larger = (
        base64.b64encode(picture_of("white", size)).decode() for size in ((8, 8), (8, 8), (16, 16))
    )
    assert fmt.look_alike(first, same) and not fmt.look_alike(first, larger)


def test_neighbours_are_linked_under_the_title():
    assert fmt.neighbours("00_setup.ipynb") == (
        "<sub>next: [01_pretrained_model](01_pretrained_model.ipynb)</sub>"
    )
    middle = fmt.neighbours("03_semantic_loss.ipynb")
    assert middle.startswith("<sub>before: [02_") and " · next: [04_" in middle
    assert fmt.neighbours("somebody_elses.ipynb") == ""
