"""Build the reference pages from the docstrings, with pdoc: build/reference/index.html.

    python tools/build_reference.py

The package's face has a page, as does each file at its root and each room, which shows what its
face exports. A name in backticks that is documented on a page becomes a link to it.

Fails, and says where, if pdoc warns or a docstring names something of ours that does not exist.
"""

from __future__ import annotations

import argparse
import builtins
import importlib
import pkgutil
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from jinja2 import pass_context
from jinja2.runtime import Context
from pdoc import doc, render
from pdoc.render_helpers import relative_link

ROOT = Path(__file__).parents[1]
PACKAGE = "medclip_helpers"
NAME = re.compile(r"`(?!\w+\.(?:json|safetensors)`)([A-Za-z_]\w*(?:\.\w+)*)(?:\(\))?`")
CLASS = re.compile(r"[A-Z]+[a-z]\w*")
# What begins a line of its own: `images, texts: ...`, wherever it occurs, and `Returns ...`
ARGUMENTS = re.compile(r"(?m)(?:^|(?<=\. ))((?:[a-z_]\w*, )*[a-z_]\w*): ")
BEGINNING = re.compile(r"(?<!\n)\n(?=\*\*|Returns |Raises )|(?<=\.) (?=\*\*)")
OWN_LINK = re.compile(r'<a href="#([\w.]+)">([^<]*)</a>')
# What Python and torch write by default
EMPTY = re.compile(r"Alias for field|Create new instance of|Initialize (self|internal Module)")
# Not ours, yet written like a class of ours: torch's, the published code's, IPython's, a column's
FOREIGN = {"BatchNorm", "Dropout", "ImageTextContrastiveDataset", "In", "Reports"}


def read_pages() -> dict[str, doc.Module]:
    """{name: page} of the package, the files at its root and its rooms."""
    package = importlib.import_module(PACKAGE)
    below = sorted(pkgutil.iter_modules(package.__path__, f"{PACKAGE}."), key=lambda m: m.ispkg)
    pages = {}
    for name in [PACKAGE, *(module.name for module in below)]:
        if not name.endswith("__main__"):
            module = importlib.import_module(name)
            # pdoc looks into a module's dictionary, where a lazy face has put nothing yet
            for public in getattr(module, "__all__", ()):
                setattr(module, public, getattr(module, public))
            for thing in vars(module).values():
                if isinstance(thing, type) and hasattr(thing, "_fields"):
                    # so that pdoc looks for a named tuple's types where it was written
                    thing.__new__.__module__ = thing.__module__
            pages[name] = doc.Module(module)
            for item in described(pages[name]):
                if EMPTY.match(item.docstring):
                    item.docstring = ""
    pages[PACKAGE].submodules = [page for name, page in pages.items() if name != PACKAGE]
    return pages


def described(namespace: doc.Namespace) -> Iterator[doc.Doc]:
    """Everything on a page that the package itself describes."""
    yield namespace
    for member in namespace.own_members:
        private = member.name.startswith("_") and member.name != "__init__"
        if member.taken_from[0].startswith(PACKAGE) and not private:
            yield from described(member) if isinstance(member, doc.Class) else [member]


def unknown_names(pages: dict[str, doc.Module]) -> Iterator[str]:
    """A line for each name in a docstring that looks like ours, or a class, and cannot be found."""
    modules = {n: m for n, m in sys.modules.items() if n.split(".")[0] == PACKAGE}
    everything = {n: thing for module in modules.values() for n, thing in vars(module).items()}
    everything.update(vars(builtins))
    for page in pages.values():
        for item in described(page):
            for name in NAME.findall(item.docstring):
                head, *rest = name.removeprefix(f"{PACKAGE}.").split(".")
                module = modules.get(f"{PACKAGE}.{head}")
                if module:  # or what such a file is about: `processor.tokenizer`
                    classes = (thing for thing in vars(module).values() if isinstance(thing, type))
                    found = any(_has(thing, rest) for thing in (module, *classes))
                elif CLASS.fullmatch(head) and head not in FOREIGN:
                    found = head in everything and _has(everything[head], rest)
                else:
                    continue
                if not found:
                    yield f"{item.fullname}: `{name}` does not exist"


def _has(thing: object, names: list[str]) -> bool:
    for name in names:
        if not hasattr(thing, name) and name not in getattr(thing, "__annotations__", ()):
            return False
        thing = getattr(thing, name, None)
    return True


def markdown_filter(pages: dict[str, doc.Module]):
    """The filter that makes Markdown of a docstring: arguments stand out, names are links."""
    places: dict[str, set[tuple[str, str]]] = {}
    for page, module in pages.items():
        short = page.rpartition(".")[2]
        for name in () if page == PACKAGE else {item.qualname for item in described(module)}:
            for written in (name, f"{short}.{name}") if name else (short,):
                places.setdefault(written, set()).add((page, f"#{name}" if name else ""))

    @pass_context
    def to_markdown(context: Context, docstring: str) -> str:
        here = context["module"].modulename

        def link(match: re.Match[str]) -> str:
            found = places.get(match[1], set())
            if len(found) != 1 or any(page == here for page, _ in found):
                return match[0]  # not on one page, or pdoc finds it on this one
            ((page, anchor),) = found
            return f"[{match[0]}]({relative_link(here, page)}{anchor})"

        return NAME.sub(link, BEGINNING.sub("  \n", ARGUMENTS.sub(r"**\1:** ", docstring)))

    return to_markdown


def build(pages: dict[str, doc.Module], output: Path) -> None:
    """Write the pages into the folder `output`, which is cleared first."""
    render.configure(docformat="markdown", footer_text="Research use only")
    render.env.filters["to_markdown"] = markdown_filter(pages)
    shutil.rmtree(output, ignore_errors=True)
    for name, page in pages.items():
        file = output / (name.replace(".", "/") + ".html")
        file.parent.mkdir(parents=True, exist_ok=True)
        text = render.html_module(page, pages)
        anchors = set(re.findall(r' id="([^"]+)"', text))
        # pdoc links to what a class inherits from torch, and leaves that out of the page
        text = OWN_LINK.sub(lambda m, kept=anchors: m[0] if m[1] in kept else m[2], text)
        file.write_text(text, encoding="utf-8")
    (output / "index.html").write_text(render.html_index(pages), encoding="utf-8")
    (output / "search.js").write_text(render.search_index(pages), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "reference")
    output = parser.parse_args().output
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", module=r"pdoc\.")
        pages = read_pages()
        build(pages, output)
    problems = [str(w.message) for w in caught if "pdoc" in Path(w.filename).parts]
    problems += unknown_names(pages)
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    print(f"{output / 'index.html'}: {len(pages)} pages, {len(problems)} problems")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
