"""A notebook's parameters: what its first form says, one literal per line.

    model = "auto"  #@param ["auto", "demo"] {allow-input: true}
    seed = 0  #@param {type: "integer"}

papermill sets a parameter by adding a cell after that one, and only warns about a name that the
form does not have. Here that is an error, before anything heavy has run: `check_parameters(In)` in
the notebook, and `validate`, the same rules, before a sweep starts.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

# https://github.com/googlecolab/colabtools: the types of Colab's form fields
_FORM_TYPES = {"string": str, "date": str, "integer": int, "number": float, "boolean": bool}
_INJECTED = "# Parameters"  # the first line of the cell that papermill adds


class Parameter(NamedTuple):
    """One line of a notebook's form."""

    name: str
    default: Any
    type: builtins.type | None  # None: anything goes
    choices: tuple | None = None  # the only values allowed, where the form has a closed list

    def __str__(self) -> str:
        kind = self.type.__name__ if self.type else "any"
        among = f", one of {list(self.choices)}" if self.choices else ""
        return f"{self.name}: {kind} = {self.default!r}{among}"


def known_parameters(source: str) -> dict[str, Parameter]:
    """The parameters that the form in `source`, a notebook cell's text, declares.

    Raises ValueError for a line that is not `name = literal`.
    """
    lines = source.splitlines()
    known = {}
    for name, value, node in _assignments(source):
        # ast counts columns in bytes
        line = lines[(node.end_lineno or node.lineno) - 1].encode()
        comment = line[node.end_col_offset :].decode()
        form = comment.partition("#@param")[2]
        known[name] = Parameter(name, value, _form_type(form, value), _choices(form))
    return known


def injected_parameters(source: str) -> dict[str, Any]:
    """Names and values that a cell added by papermill assigns."""
    return {name: value for name, value, _ in _assignments(source)}


def validate(given: Mapping[str, Any], known: Mapping[str, Parameter], where: str = "") -> None:
    """Raise ValueError where `given` has an unknown name or a value of another type.

    An integer passes for a float; True and False are not integers; None is a value only where it is
    the default, and an integer below 0 only where the default is one. `where` names the place in
    the message, which lists the known parameters.
    """
    faults = []
    for name, value in given.items():
        if name not in known:
            faults.append(f"unknown parameter {name!r}")
        elif fault := _fault(known[name], value):
            faults.append(f"parameter {name!r} {fault}")
    if faults:
        listed = "".join(f"\n  {parameter}" for parameter in known.values())
        raise ValueError(
            f"{where + ': ' if where else ''}{'; '.join(faults)}. Known parameters:{listed}"
        )


def check_parameters(cells: Iterable[str]) -> None:
    """Check the parameters a notebook runs with; call it as `check_parameters(In)`.

    cells: the texts of the cells run so far, IPython's `In`. The one with `#@param` comments (its
    latest state where it ran more than once) declares names and types; its own values and those
    of cells added by papermill must fit.

    Raises ValueError naming the parameter and listing the known ones, or where no form was run.
    """
    cells = list(cells)
    if not any(cells):  # a front end that keeps no history, such as nbval: nothing to read
        return
    forms = [cell for cell in cells if "#@param" in cell]
    if not forms:
        raise ValueError("no cell with #@param comments has run: run the parameters cell first")
    known = known_parameters(forms[-1])
    validate({name: parameter.default for name, parameter in known.items()}, known)
    for cell in cells:
        if cell.startswith(_INJECTED):
            validate(injected_parameters(cell), known)


def _assignments(source: str) -> list[tuple[str, Any, ast.expr]]:
    found = []
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise ValueError(
            f"line {error.lineno} of the parameters cell is not Python: expected `name = literal`"
        ) from None
    for statement in statements:
        try:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=node):
                    found.append((name, _literal(node), node))
                case _:
                    raise ValueError
        except ValueError:
            raise ValueError(
                f"line {statement.lineno} of the parameters cell is {ast.unparse(statement)!r}: "
                "expected `name = literal`"
            ) from None
    return found


def _literal(node: ast.expr) -> Any:
    match node:
        case ast.Call(func=ast.Name(id="float"), args=[text]):  # papermill writes float('nan')
            return float(ast.literal_eval(text))
    return ast.literal_eval(node)


def _form_type(form: str, default: Any) -> type | None:
    declared = re.search(r'type:\s*"(\w+)"', form)
    if declared and declared[1] in _FORM_TYPES:
        return _FORM_TYPES[declared[1]]
    return None if default is None else type(default)


def _choices(form: str) -> tuple | None:
    listed = re.search(r"\[.*\]", form)
    if not listed or re.search(r"allow-input:\s*true", form):
        return None
    return tuple(ast.literal_eval(listed[0]))


def _fault(parameter: Parameter, value: Any) -> str:
    expected = parameter.type
    fits = (
        type(value) is expected
        or (value is None and parameter.default is None)
        or (expected is float and type(value) is int)
    )
    if expected and not fits:
        hint = ""
        if expected is str:
            hint = " (on papermill's command line, -r passes the text as it is)"
        elif expected is float and isinstance(value, str):
            hint = " (YAML reads 1e-3 as text: write 1.0e-3)"
        kind = type(value).__name__
        return f"must be {expected.__name__}, got {kind} {value!r}{hint}"
    if expected is int and value is not None and value < 0 <= (parameter.default or 0):
        return f"must be 0 or more, got {value}"
    if parameter.choices and value not in parameter.choices:
        return f"must be one of {list(parameter.choices)}, got {value!r}"
    return ""
