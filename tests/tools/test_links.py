"""Every link of the pages and of the notebooks' prose leads somewhere; nothing asks the network."""

import json
import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

ROOT = Path(__file__).parents[2]
PAGES = [
    *ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob(".github/**/*.md"),
    *ROOT.glob("tests/**/*.md"), *ROOT.glob("notebooks/*.ipynb"),
]  # fmt: skip
NAMES = [str(path.relative_to(ROOT)) for path in sorted(PAGES)]


def markdown(path: Path) -> list[str]:
    """The texts of a page, one, or of a notebook, one a cell."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return [text]
    cells = json.loads(text)["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]


def nodes(text: str) -> list[SyntaxTreeNode]:
    return list(SyntaxTreeNode(MarkdownIt("gfm-like", {"linkify": False}).parse(text)).walk())


def targets(text: str) -> list[str]:
    """Where links and pictures point, in Markdown and in HTML; what stands in code is none."""
    found = []
    for node in nodes(text):
        if node.type in ("link", "image"):
            found.append(str(node.attrs.get("href", node.attrs.get("src"))))
        elif node.type in ("html_block", "html_inline"):
            found += re.findall(r"""\b(?:href|src)=["']([^"']*)""", node.content)
    return found


@cache
def anchors(path: Path) -> set[str]:
    """Names of a page's headings, as GitHub makes them, and of what has an id."""
    found: set[str] = set()
    for node in (node for text in markdown(path) for node in nodes(text)):
        if node.type == "heading":
            said = "".join(n.content for n in node.walk() if n.type in ("text", "code_inline"))
            slug = re.sub(r"[^\w\- ]", "", said.lower()).replace(" ", "-")
            again = (f"{slug}-{i}" for i in range(1, 99))
            found.add(next(s for s in (slug, *again) if s not in found))
        elif node.type in ("html_block", "html_inline"):
            found |= set(re.findall(r"""\b(?:id|name)=["']([^"']*)""", node.content))
    return found


def fault(target: str, page: Path) -> str:
    """What is wrong with a link on `page`; "" where nothing is."""
    if re.search(r"\s", target) or not target:
        return "blank, or a space in it"
    try:
        parts = urlsplit(target)
        _, host = parts.port, parts.hostname or ""
    except ValueError as error:  # a port that is no number, a host in half a bracket
        return str(error)
    if parts.scheme == "https":
        sound = re.fullmatch(r"(?=.*\.[a-z]{2,}$)([a-z0-9]([a-z0-9-]*[a-z0-9])?\.?)+", host)
        return "" if sound and not re.search(r"[.,;:)]$", target) else "no sound address"
    if parts.scheme == "mailto":
        return "" if re.fullmatch(r"[^@]+@[^@]+\.\w+", parts.path) else "no address for mail"
    if parts.scheme or parts.netloc:
        return f"scheme {parts.scheme!r}"
    file = page.parent / unquote(parts.path) if parts.path else page
    if not file.exists() or not file.resolve().is_relative_to(ROOT):
        return "no such file"
    if parts.fragment and file.suffix not in (".md", ".ipynb"):
        return ""  # a line of code
    return (
        "" if not parts.fragment or unquote(parts.fragment) in anchors(file) else "no such heading"
    )


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    page = ROOT / name
    found = [(target, fault(target, page)) for text in markdown(page) for target in targets(text)]
    assert [f"{target}: {wrong}" for target, wrong in found if wrong] == []


def test_there_are_links():
    assert {"README.md", "CONTRIBUTING.md", "docs/reproduce.md"} <= set(NAMES)
    for name, count in ("README.md", 10), ("CONTRIBUTING.md", 2), ("CHANGELOG.md", 2):
        assert len([t for text in markdown(ROOT / name) for t in targets(text)]) >= count, name


@pytest.fixture
def page(tmp_path, monkeypatch) -> Path:
    """A page with some headings, and a file beside it."""
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    anchors.cache_clear()
    (tmp_path / "code.py").touch()
    page = tmp_path / "a page.md"
    page.write_text(
        '# Set up, *and* `test_all`!\n## Twice\n## Twice\n<a id="here"></a>\n\n```\n# No\n```'
    )
    yield page
    anchors.cache_clear()


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("code.py", ""), ("./code.py#L3", ""), ("a%20page.md#twice-1", ""), ("#here", ""),
        ("#set-up-and-test_all", ""), ("https://a-b.example.org/x_(y)z?q=1#f", ""),
        ("mailto:a@example.org", ""),
        ("gone.py", "no such file"), ("Code.py", "no such file"), ("../", "no such file"),
        ("#no", "no such heading"), ("#twice-2", "no such heading"),
        ("a%20page.md#Twice", "no such heading"),
        ("https://example", "no sound address"), ("https:///x", "no sound address"),
        ("https://exa_mple.org", "no sound address"), ("https://example.org/x).", "no sound"),
        ("https://example.org:port/", "Port could not be cast"), ("https://[::1", "Invalid IPv6"),
        ("http://example.org", "scheme 'http'"),
        ("htps://example.org", "scheme 'htps'"), ("//example.org", "scheme ''"),
        ("mailto:nobody", "no address for mail"), ("", "blank"), ("a page.md", "a space in it"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_link(target, expected, page):
    found = fault(target, page)
    assert expected in found and bool(found) == bool(expected)


def test_links_of_markdown_and_html_but_not_of_code():
    text = (
        '[a](one "title") ![b](two) [c][ref] <https://three.org>\n\n`[d](no)`\n\n'
        '| t |\n|-|\n| [e](four) |\n\n<p><img src="five"></p>\n\n[ref]: six\n\n    [f](no)\n'
    )
    assert targets(text) == ["one", "two", "six", "https://three.org", "four", "five"]


def test_pages_are_short():
    """What is longer becomes a page of its own."""
    lines = {path.name: len(path.read_text().splitlines()) for path in (ROOT / "docs").glob("*.md")}
    assert max(lines.values()) < 120, lines
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 150
    assert [name for name in lines if f"(docs/{name})" not in readme] == []
