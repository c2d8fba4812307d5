"""GitHub's workflows: valid, with the least permissions, and made of commands that exist here."""

import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")


def run(*command) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def steps(workflow: Path) -> list[dict]:
    jobs = yaml.safe_load(workflow.read_text())["jobs"].values()
    return [step for job in jobs for step in job["steps"]]


def commands(workflow: Path) -> list[str]:
    """Lines of its scripts, continued ones joined."""
    scripts = (step["run"].replace("\\\n", " ") for step in steps(workflow) if "run" in step)
    return [line.strip() for script in scripts for line in script.splitlines()]


@pytest.mark.parametrize("kind, files", [("github-workflows", WORKFLOWS),
                                         ("github-issue-forms", FORMS)])  # fmt: skip
def test_of_github_s_form(kind, files):
    assert files
    run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{kind}", *files)


def test_nothing_that_zizmor_warns_of():
    zizmor = Path(sysconfig.get_path("scripts")) / "zizmor"
    run(zizmor, "--offline", "--config", GITHUB / "zizmor.yml", GITHUB)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_no_action_but_github_s_own_and_no_secret(workflow):
    used = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert used and all(re.fullmatch(r"actions/[\w-]+@v\d+", name) for name in used)
    assert "secrets." not in workflow.read_text()
    assert yaml.safe_load(workflow.read_text())["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_scripts_and_their_options_are_of_this_repository(workflow):
    ours = [line for line in commands(workflow) if re.match(r"\S+ \S+\.(sh|py)\b", line)]
    assert ours
    for line in ours:
        words = shlex.split(line)
        place = next(k for k, word in enumerate(words) if word.endswith((".sh", ".py")))
        script, options = ROOT / words[place], words[place + 1 :]
        assert script.is_file(), line
        shell = script.suffix == ".sh"
        helped = run("bash" if shell else sys.executable, script, "--help")
        for option in options if shell else (o for o in options if o.startswith("--")):
            assert option in helped, line


def test_markers_of_weekly_tests_are_known(pytestconfig):
    lines = [line for line in commands(GITHUB / "workflows" / "weekly.yml") if "pytest" in line]
    known = {line.split(":")[0] for line in pytestconfig.getini("markers")}
    split = map(shlex.split, lines)
    asked = [words[words.index("-m", 3) + 1] for words in split]  # the first -m is Python's
    assert asked
    assert set(re.findall(r"\w+", " ".join(asked))) - {"and", "not"} <= known
