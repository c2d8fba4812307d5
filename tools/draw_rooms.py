"""Draw the rooms into CONTRIBUTING.md, from the import contract in pyproject.toml.

    python tools/draw_rooms.py            writes the diagram between its two marker comments
    python tools/draw_rooms.py --check    exits with 1 if the diagram is out of date

In the diagram, a room is described by the first sentence of its face's docstring.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import sys
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
START, END = "<!-- rooms: python tools/draw_rooms.py -->\n", "<!-- end of rooms -->\n"


def diagram(root: Path) -> str:
    """The layers of the contract as mermaid text, the lowest at the bottom."""
    contracts = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    layers = next(c["layers"] for c in contracts["contracts"] if c["id"] == "layers")
    floors = [layer.split(" | ") for layer in layers]
    package, above = root / "medclip_helpers", ""
    lines = ["```mermaid", '%%{init: {"flowchart": {"wrappingWidth": 300}}}%%', "flowchart TB"]
    for rooms, group in itertools.groupby(floors, lambda names: (package / names[0]).is_dir()):
        group = list(group)
        if not rooms and len(group) > 1:  # the files at the root are one box
            files = ", ".join(" and ".join(names) for names in reversed(group))
            group = [[f'root["<b>MedCLIP itself</b><br>from the ground up: {files}"]']]
        for names in group:
            boxes = [n if "[" in n else f'{n}["<b>{n}</b><br>{said(package, n)}"]' for n in names]
            lines += [f"    {box}" for box in boxes]
            nodes = " & ".join(box.split("[")[0] for box in boxes)
            lines += [f"    {above} --> {nodes}"] if above else []
            above = nodes
    return "\n".join([*lines, "```\n"])


def said(package: Path, name: str) -> str:
    """The first sentence of a room's or a file's docstring."""
    file = package / name / "__init__.py" if (package / name).is_dir() else package / f"{name}.py"
    text = ast.get_docstring(ast.parse(file.read_text("utf-8"))).split("\n\n")[0]
    return " ".join(text.split()).replace('"', "#quot;").replace("`", "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if out of date")
    parser.add_argument("--root", type=Path, default=ROOT, help="the project's folder")
    options = parser.parse_args()
    page = options.root / "CONTRIBUTING.md"
    text = page.read_text("utf-8")
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not end:
        sys.exit(f"{page}: expected the lines {START.strip()} and {END.strip()}")
    new = before + start + diagram(options.root) + end + after
    if new != text and options.check:
        sys.exit(f"{page}: the diagram of the rooms is out of date; run python tools/draw_rooms.py")
    page.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
