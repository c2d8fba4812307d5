"""Write constraints/colab.txt from the package list that Colab publishes.

    python tools/refresh_constraints.py pip-freeze.gpu.txt --date 2026-08-19 --commit a724079

The list is `pip-freeze.gpu.txt` in github.com/googlecolab/backend-info; date and commit say which
state of it. Local version tags (+cu128) go, since no index serves them. So do packages installed
from a URL, and CUDA and RAPIDS packages: torch from the index brings its own CUDA.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "constraints" / "colab.txt"
PINNED = re.compile(r"^([A-Za-z0-9][\w.-]*)==([^+\s]+)(\+\S+)?$")
ACCELERATOR = re.compile(
    r"^(nvidia-|cuda-|triton$)|-cu1\d$|-cuda1\dx$|^jax-cuda|^numba-cuda$|^dask-cuda$|^torchao$"
)


def constraints(freeze: str) -> list[str]:
    """The `name==version` lines to keep of a `pip freeze`; ValueError if it has none."""
    pins = [PINNED.match(line.strip()) for line in freeze.splitlines()]
    kept = [f"{p[1]}=={p[2]}" for p in pins if p and not ACCELERATOR.search(p[1].lower())]
    if not kept:
        raise ValueError("no line of the form name==version: this is not a pip freeze")
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("freeze", type=Path, help="pip-freeze.gpu.txt of Colab's backend-info")
    parser.add_argument("--date", required=True, help="date of that file, YYYY-MM-DD")
    parser.add_argument("--commit", required=True, help="its commit in backend-info")
    parser.add_argument("--python", default="3.13", help="the runtime's Python (default: 3.13)")
    arguments = parser.parse_args()
    try:
        kept = constraints(arguments.freeze.read_text())
    except (OSError, ValueError) as error:
        print(f"{arguments.freeze}: {error}", file=sys.stderr)
        return 2
    header = (
        f"# Colab's GPU runtime of {arguments.date}, Python {arguments.python}\n"
        f"# googlecolab/backend-info, pip-freeze.gpu.txt, commit {arguments.commit}\n"
        "# Written by tools/refresh_constraints.py; do not edit.\n"
    )
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(header + "\n".join(kept) + "\n")
    print(f"{TARGET}: {len(kept)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
