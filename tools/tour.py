"""The tour: numbered notebooks as sections of one, with one form and one setup."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
from PIL import Image

from medclip_helpers.runs import known_parameters

SECTIONS = (
    "00_setup",
    "01_pretrained_model",
    "02_prompt_classification",
    "03_semantic_loss",
    "04_similarity_explorer",
    "05_pretraining",
)
COMMENTED = ("05_pretraining",)

TITLE = "# MedCLIP, the whole tour"

FINDS = """One file: upload it to Colab (or open it in Jupyter) and choose Run all. The setup
cell finds the helper package's repository by itself, or says what it needs."""

CARRIES = """One file, and the helper package travels inside it: upload it to Colab (or open it in
Jupyter) and choose Run all."""

ABOUT = """See MedCLIP load, classify radiographs by prompt, explain its loss and show its
similarities. Pretraining stands at the end as comments. With the demo model it runs in a few
minutes on a CPU; a GPU helps with the published weights.

**Research use only.** The demo model was trained on drawings, and what it says about a radiograph
means nothing. Images that you load stay on the machine that runs this notebook."""

PICTURES = 700_000  # characters of base64, of the smallest pictures, that a stored tour keeps

OPENING = """\
from medclip_helpers.runs import check_parameters, environment_report

check_parameters(In)
print(environment_report())
parameters = {{name: globals()[name] for name in {names}}}"""

SECTION = """\
globals().update(parameters)  # the form's values, whatever a section made of them
output_dir = f"{{output_dir or 'runs'}}/{stem}\""""

ONCE = ("check_parameters(In)", "print(environment_report())")


def cells(sources: dict[str, list[dict]], title: str, setup: list[dict]) -> list[dict]:
    """The tour's cells. sources: {stem: canonical cells}; setup: the cells that install."""
    form = merged_form({stem: sources[stem] for stem in SECTIONS if stem not in COMMENTED})
    names = tuple(known_parameters(form))
    made = [new("markdown", title), new("code", form, tags=["parameters"]), *setup]
    made.append(new("code", OPENING.format(names=names)))
    for stem, section in sources.items():
        made += _section(stem, section, names)
    _keep_small_pictures(made)
    return made


def _keep_small_pictures(made: list[dict]) -> None:
    """Half as sharp, and the largest left out, so that the one file stays small."""
    outputs = [output for cell in made for output in cell.get("outputs", [])]
    bundles = [o["data"] for o in outputs if "image/png" in o.get("data", {})]
    for bundle in bundles:
        bundle["image/png"] = smaller(bundle["image/png"], 2)
    kept, total = set(), 0
    for picture in sorted((bundle["image/png"] for bundle in bundles), key=len):
        total += len(picture)
        if total <= PICTURES:
            kept.add(picture)
    for cell in made:
        if "outputs" in cell:
            cell["outputs"] = [
                output
                for output in cell["outputs"]
                if output.get("data", {}).get("image/png") in kept | {None}
            ]


def smaller(picture: str, times: int = 1) -> str:
    """A PNG, base64 text, in 256 colours, 64 of them grey, for radiographs; `times` less sharp.

    One that has few colours loses only sharpness.
    """
    with Image.open(io.BytesIO(base64.b64decode(picture))) as drawn:
        if drawn.mode == "P" and times == 1:
            return picture.strip()
        pixels = np.asarray(drawn.convert("RGB").reduce(times))
    coloured = np.ptp(pixels.astype(int), axis=-1) > 10
    # apart: a palette made for both tints what is grey, or has steps where a map lies over it
    places = np.round(pixels.mean(-1) / 255 * 63).astype(np.uint8)
    palette = np.linspace(0, 255, 64).round().repeat(3).astype(int).tolist()
    if coloured.any():
        found = Image.fromarray(pixels[coloured][None])
        found = found.quantize(192, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=0)
        places[coloured] = 64 + np.asarray(found)[0]
        palette += found.getpalette()
    few = Image.fromarray(places)
    few.putpalette(palette[: 3 * 256])
    few.save(buffer := io.BytesIO(), "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def merged_form(sources: dict[str, list[dict]]) -> str:
    """One parameters cell for all, each parameter as the first notebook that has it declares it.

    The setup notebook, which only shows the demo model, comes last.

    Raises ValueError where two notebooks give one name different types.
    """
    lines, known = ["#@title Parameters"], {}
    for stem, cells in [*list(sources.items())[1:], *list(sources.items())[:1]]:
        source = next("".join(c["source"]) for c in cells if "parameters" in _tags(c))
        for name, parameter in known_parameters(source).items():
            if known.setdefault(name, parameter).type is not parameter.type:
                raise ValueError(f"{stem}: {parameter}, but another notebook has {known[name]}")
        lines += [line for line in _form_lines(source) if line not in lines]
    names, merged = set(), []
    for line in lines:
        name = line.partition("=")[0].strip()
        if name not in names:
            merged.append(line)
        names.add(name)
    return "\n".join(merged)


def _form_lines(source: str) -> list[str]:
    return [line for line in source.splitlines() if "#@param" in line]


def _section(stem: str, cells: list[dict], names: tuple[str, ...]) -> list[dict]:
    commented = stem in COMMENTED
    made = []
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            made.append(new("markdown", _demoted(source)))
        elif "parameters" in _tags(cell):
            start = SECTION.format(stem=stem)
            if commented:
                own = [line for line in _form_lines(source) if line.split(" ")[0] not in names]
                start = "\n".join([start, *own])
            made.append(new("code", start))
        elif "setup" not in _tags(cell):
            kept = [line for line in source.splitlines() if line not in ONCE]
            new_cell = new("code", "\n".join(kept).strip(), tags=_tags(cell))
            made.append(new_cell | {"outputs": [] if commented else _plain(cell["outputs"])})
    for cell in made:
        if commented and cell["cell_type"] == "code":
            lines = cell["source"].splitlines()
            cell["source"] = "\n".join(f"# {line}".rstrip() for line in lines)
    return made


def _demoted(source: str) -> str:
    lines = [line for line in source.splitlines() if "colab-badge.svg" not in line]
    text = re.sub(r"^#", "##", "\n".join(lines), flags=re.MULTILINE)
    # the other notebooks are sections here
    text = re.sub(r"\[([^]]+)\]\(\d\d_\w+\.ipynb\)", r"\1", text)
    return re.sub(r"\n{3,}", "\n\n", text)


def _plain(outputs: list[dict]) -> list[dict]:
    """Copies whose texts are one string, as before numbering."""
    copies = []
    for output in outputs:
        copy = {name: value for name, value in output.items() if name != "data"}
        if "text" in copy:
            copy["text"] = "".join(copy["text"])
        if "data" in output:
            copy["data"] = {mime: "".join(text) for mime, text in output["data"].items()}
        copies.append(copy)
    return copies


def new(kind: str, source: str, **metadata) -> dict:
    """A cell of this kind, without outputs; source as one string."""
    cell = {"cell_type": kind, "metadata": metadata, "source": source}
    return cell | ({"outputs": [], "execution_count": None} if kind == "code" else {})
