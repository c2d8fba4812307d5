"""Warnings that point at the user's line, however deep inside this package they arise."""

from __future__ import annotations

import sys
import warnings
from traceback import walk_stack

PACKAGE = __name__.partition(".")[0]
_TOLD: dict = {}  # so that Python shows each once per line, as with its own


def warn_user(message: str, line: tuple[str, int] | None = None) -> None:
    """A UserWarning that names `line`, by default `users_line()`."""
    warnings.warn_explicit(message, UserWarning, *(line or users_line()), registry=_TOLD)


def users_line() -> tuple[str, int]:
    """File and number of the line that called this package; call it in the thread that did.

    The line nearest to the stack's foot, because libraries that the package uses call it back.
    """
    stack = list(walk_stack(sys._getframe()))  # from here to the foot
    ours = [i for i, (frame, _) in enumerate(stack) if _is_ours(frame)]
    frame, number = stack[min(ours[-1] + 1, len(stack) - 1)]
    return frame.f_code.co_filename, number


def _is_ours(frame) -> bool:
    return frame.f_globals.get("__name__", "").partition(".")[0] == PACKAGE
