"""Checked parameters, and the line about the machine."""

import re

import pytest
import torch

from medclip_helpers.runs import (
    check_parameters,
    environment_report,
    known_parameters,
    validate,
)
from medclip_helpers.runs.parameters import injected_parameters

FORM = """#@title Parameters
model = "auto"  #@param ["auto", "demo"] {allow-input: true}
finding = "Edema"  #@param ["Edema", "Atelectasis"]
seed = 3  #@param {type: "integer"}
rate = 0.1  #@param {type: "number"}
scale = 2  #@param {type: "number"}
ensemble = True  #@param {type: "boolean"}
note = "é # no form"  #@param {type: "string"}
limit = None  #@param {type: "raw"}"""


def test_known_parameters_have_the_forms_types_and_choices():
    known = known_parameters(FORM)
    assert {name: p.type for name, p in known.items()} == {
        "model": str, "finding": str, "seed": int, "rate": float, "scale": float,
        "ensemble": bool, "note": str, "limit": None,
    }  # fmt: skip
    assert known["model"].choices is None
    assert known["finding"].choices == ("Edema", "Atelectasis")
    assert known["note"].default == "é # no form"


@pytest.mark.parametrize(
    "line", ["seed = 1 + int(2)", "seed: int = 1", "a = b = 1", "print(1)", "%matplotlib inline"]
)
def test_a_form_line_that_is_no_literal_is_named(line):
    with pytest.raises(ValueError, match="line 2 .*expected `name = literal`"):
        known_parameters("#@title Parameters\n" + line)


@pytest.mark.parametrize(
    "given",
    [
        {"model": "/a/folder", "seed": 0, "rate": 1, "ensemble": False, "limit": 5},
        {"rate": float("nan"), "limit": None, "finding": "Atelectasis", "scale": 0.5},
        {},
    ],
)
def test_values_that_fit(given):
    validate(given, known_parameters(FORM))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"modle": "x"}, "unknown parameter 'modle'"),
        ({"seed": 1.0}, "'seed' must be int, got float 1.0"),
        ({"seed": True}, "'seed' must be int, got bool True"),
        ({"seed": -1}, "'seed' must be 0 or more, got -1"),
        ({"ensemble": 1}, "'ensemble' must be bool, got int 1"),
        ({"rate": "1e-3"}, "'rate' must be float, got str '1e-3' (YAML reads 1e-3 as text"),
        ({"model": 7}, "'model' must be str, got int 7 (on papermill's command line, -r"),
        ({"model": None}, "'model' must be str, got NoneType None"),
        ({"finding": "Fracture"}, "'finding' must be one of ['Edema', 'Atelectasis']"),
    ],
)
def test_values_that_do_not_fit_are_named_with_all_that_is_known(given, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        validate(given, known_parameters(FORM), "02.ipynb")
    assert str(error.value).startswith("02.ipynb: ")
    assert "\n  seed: int = 3\n  rate: float = 0.1\n" in str(error.value)


def test_check_parameters_reads_what_papermill_writes():
    translate = pytest.importorskip("papermill.translators").PythonTranslator
    values = {"model": "a'b\"\\n", "rate": float("nan"), "limit": [1, {"a": None}], "seed": 11}
    injected = translate.codify(values)
    check_parameters(["", FORM, "import os", injected, "check_parameters(In)"])
    assert injected_parameters(injected)["model"] == values["model"]
    with pytest.raises(ValueError, match="unknown parameter 'sed'"):
        check_parameters(["", FORM, translate.codify({"sed": 1})])


def test_check_parameters_takes_the_latest_form():
    check_parameters([FORM.replace("seed = 3", "seed = 'x'"), FORM])
    with pytest.raises(ValueError, match="'seed' must be int, got str 'x'"):
        check_parameters([FORM, FORM.replace("seed = 3", "seed = 'x'")])


def test_check_parameters_wants_a_form():
    with pytest.raises(ValueError, match="no cell with #@param"):
        check_parameters(["", "seed = 3"])
    check_parameters([""])  # nbval keeps no history


def test_environment_report_is_one_line_with_versions():
    report = environment_report()
    assert "\n" not in report
    assert f"torch {torch.__version__.partition('+')[0]}" in report
    assert "medclip_helpers 0" in report and "transformers " in report
