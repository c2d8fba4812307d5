"""How the setup cell finds its repository, whatever Colab's runtime answers.

That answer is observed in public code, not documented: whatever is not exactly of its form means
that the repository is unknown, and reaches neither git nor a shell.
"""

import json
import subprocess
import sys
import threading
import time
import types
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest
from test_release import fmt

UNSET = "https://github.com/OWNER/medclip-helpers"
NOTEBOOK = "notebooks/00_setup.ipynb"
REFS = ("main", "feature", "feature/deep/branch", "v1.0")


@pytest.fixture
def runtime():
    """A server in the place of Colab's; `runtime.answer` is (status, headers, body, seconds)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, body, seconds = server.answer
            time.sleep(seconds)
            server.asked.append(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                self.wfile.write(body)
            except OSError:
                pass  # whoever asked has gone

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.answer = [], (200, {}, b"", 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def look(runtime, tmp_path, monkeypatch):
    """(address of pyproject.toml, environment) -> the commands that the cell ran, curl apart."""
    real, calls = subprocess.run, []

    def run(words, **how):
        assert isinstance(words, (list, tuple)) and not how.get("shell")
        words = [str(word) for word in words]
        if words[0] == "curl":
            return real(words, **how)
        calls.append(words)
        out = ""
        if words[:2] == ["git", "ls-remote"]:
            out = "".join(f"0\trefs/heads/{ref}\n" for ref in REFS)
        elif words[:2] == ["git", "clone"]:
            package = Path(words[-1]) / "medclip_helpers"
            package.mkdir()
            (package / "py.typed").touch()
        else:  # pip
            sys.modules["medclip_helpers"] = types.ModuleType("medclip_helpers")
        return subprocess.CompletedProcess(words, 0, out)

    def find(address: str = UNSET, **environment: str) -> list[list[str]]:
        monkeypatch.setattr(subprocess, "run", run)
        monkeypatch.setitem(sys.modules, "medclip_helpers", None)  # as where it is not installed
        monkeypatch.delenv("MEDCLIP_REPOSITORY", raising=False)
        monkeypatch.setenv("COLAB_JUPYTER_IP", "127.0.0.1")
        monkeypatch.setenv("KMP_TARGET_PORT", str(runtime.server_port))
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        exec(fmt.setup_source(address), {})
        return calls

    return find


def says(runtime, path: str, **more) -> None:
    runtime.answer = (200, {}, json.dumps([{"path": path, **more}]).encode(), 0)


def cloned(calls: list[list[str]]) -> tuple[str, str]:
    """The address, and the branch that was asked for."""
    (clone,) = [words for words in calls if words[:2] == ["git", "clone"]]
    address = clone[clone.index("--") + 1]
    return address, clone[clone.index("--branch") + 1] if "--branch" in clone else ""


@pytest.mark.parametrize(
    ("path", "branch"),
    [
        (f"/github/me/fork/blob/main/{NOTEBOOK}", "main"),
        (f"fileId=https%3A//github.com/me/fork/blob/main/{NOTEBOOK}", "main"),
        (quote(f"/github/me/fork/blob/feature/deep/branch/{NOTEBOOK}", safe=""),
         "feature/deep/branch"),
        (f"/github/me/fork/blob/feature/{NOTEBOOK}", "feature"),
        (f"/github/me/fork/blob/0123abc/{NOTEBOOK}", ""),  # a commit: the default branch
    ],
)  # fmt: skip
def test_a_notebook_opened_from_github_finds_its_fork(look, runtime, path, branch, capsys):
    says(runtime, path)
    calls = look()
    assert capsys.readouterr().out == f"cloning https://github.com/me/fork {branch}\n"
    assert cloned(calls) == ("https://github.com/me/fork", branch)
    assert calls[-1][1:4] == ["-m", "pip", "install"] and calls[-1][-1].endswith("[notebooks]")
    assert runtime.asked == ["/api/sessions"]


HOSTILE = {
    "Drive": b'[{"path": "fileId=1AbCdEf"}]',
    "uploaded": b'[{"path": "Untitled0.ipynb"}]',
    "another host": b'[{"path": "https://evil.example/me/fork/blob/main/x.ipynb"}]',
    "a host within": b'[{"path": "https://evil.example/github/me/fork/blob/main/x.ipynb"}]',
    "a host that looks like it": b'[{"path": "https://github.com.evil.example/a/b/blob/m/x.ipynb"}]',
    "up": b'[{"path": "/github/me/../blob/main/x.ipynb"}]',
    "a shell's characters": b'[{"path": "/github/me/fork;touch owned/blob/main/x.ipynb"}]',
    "a substitution": b'[{"path": "/github/$(touch owned)/fork/blob/main/x.ipynb"}]',
    "a new line": b'[{"path": "/github/me/fork\\n/blob/main/x.ipynb"}]',
    "no notebook": b'[{"path": "/github/me/fork/blob/main/x.sh"}]',
    "two sessions": b'[{"path": "/github/a/b/blob/main/x.ipynb"}, {"path": "/"}]',
    "another shape": b'{"sessions": []}',
    "a number": b'[{"path": 7}]',
    "HTML": b"<html>sign in</html>",
    "nothing": b"",
    "no text": bytes(range(256)),
    "ten megabytes": b'[{"path": "' + b"x" * 10_000_000 + b'"}]',
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_any_other_answer_means_unknown_and_starts_nothing(look, runtime, body, tmp_path):
    runtime.answer = (200, {}, body, 0)
    with pytest.raises(RuntimeError, match="does not know where its repository is"):
        look()
    assert not list(tmp_path.iterdir())
    assert cloned(look(address="https://github.com/known/one")) == (
        "https://github.com/known/one", "",
    )  # fmt: skip


@pytest.mark.parametrize(
    "answer",
    [
        (302, {"Location": "http://127.0.0.1:1/"}, b"", 0),
        (500, {}, b"", 0),
        (200, {}, json.dumps([{"path": f"/github/me/fork/blob/main/{NOTEBOOK}"}]).encode(), 3),
    ],
    ids=["redirect", "failure", "slow"],
)
def test_a_runtime_that_does_not_answer_at_once_is_not_waited_for(look, runtime, answer):
    runtime.answer, start = answer, time.monotonic()
    with pytest.raises(RuntimeError, match="does not know"):
        look()
    assert time.monotonic() - start < 2.5


def test_what_is_set_comes_first(look, runtime):
    says(runtime, f"/github/me/fork/blob/main/{NOTEBOOK}")
    calls = look("https://github.com/known/one", MEDCLIP_REPOSITORY="https://example.org/x@dev/two")
    assert cloned(calls) == ("https://example.org/x", "dev/two")
    assert runtime.asked == []


def test_a_clone_beside_is_taken_without_asking(look, runtime, tmp_path):
    (tmp_path / "fork" / "medclip_helpers").mkdir(parents=True)
    (tmp_path / "fork" / "medclip_helpers" / "py.typed").touch()
    calls = look()
    assert len(calls) == 1 and calls[0][-1] == f"{tmp_path / 'fork'}[notebooks]"
    assert runtime.asked == []
