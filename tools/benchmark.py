"""Benchmarks, next to the published package and the bare backbone, in one table.

    python tools/benchmark.py
    python tools/benchmark.py image load --quick
    python tools/benchmark.py cuda
    python tools/benchmark.py --table build/benchmarks/benchmarks.json

Run it with a Python that has this package's requirements. The first run makes an environment for
the published package (Python 3.11, torch 2.11, transformers 4.24: some 6 GB) and the files that
both sides read; they are kept in the folder. Each side runs in a process of its own; the sides take
turns. Values are medians; all measurements are in the JSON file. Weights are stand-ins, on which
times do not depend. The part "cuda" is run only if named: it needs a GPU and some ten
minutes, but neither the published package nor a network.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks import parts
from benchmarks.report import Row, table
from benchmarks.sides import HERE, ROOT, Bench

PUBLISHED = [
    "torch==2.11.0", "torchvision==0.26.0", "transformers==4.24.0", "timm<1", "numpy<2", "pandas<2",
    "nltk", "textaugment", "wget", "requests", "scikit-learn",
]  # fmt: skip


def make_published(folder: Path, python: str) -> Path:
    """The Python of an environment with published MedCLIP, made if it is not there."""
    found = folder / "bin" / "python"
    if (folder / "stamp").is_file():
        return found
    if not shutil.which(python):
        raise SystemExit(
            f"{python} is not found: name a Python 3.11 with --python, or leave the published "
            "package out with --no-published"
        )
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([python, "-m", "venv", folder], check=True)
    install = [found, "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, *PUBLISHED], check=True)
    subprocess.run([*install, "--no-deps", "medclip==0.0.3"], check=True)
    (folder / "stamp").touch()
    return found


def prepare(options: argparse.Namespace) -> Bench:
    """The environments and the files that both sides read."""
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    published, cuda_alone = None, set(options.parts) == {"cuda"}
    if not options.no_published and not cuda_alone:
        published = make_published(
            (options.published or folder / "published").resolve(), options.python
        )
    bench = Bench(
        world=folder / "world",
        log=folder / "sides.log",
        ours=Path(sys.executable),
        published=published,
        threads=options.threads or (os.cpu_count() if cuda_alone else 2),
        quick=options.quick,
        device=options.device,
        small=options.small,
        cases=options.cases,
    )
    bench.log.unlink(missing_ok=True)
    encoders = [] if options.small else ["vit", "resnet"]
    command = [bench.ours, HERE / "world.py", bench.world, options.parity.resolve(), *encoders]
    subprocess.run(command, check=True, env=bench.environment("ours"))
    return bench


def machine(threads: int, gpu: str) -> dict:
    names = ("torch", "timm", "transformers", "numpy")
    return {
        **({"gpu": gpu} if gpu else {}),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "threads": threads,
        "date": time.strftime("%Y-%m-%d"),
        **{name: version(name) for name in names},
    }


def graphics_card() -> str | None:
    """The name of the GPU that torch sees."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def text(record: dict) -> str:
    """The machine and the table."""
    rows = [Row(**{k: v for k, v in row.items() if k in Row.__dataclass_fields__})
            for row in record["rows"]]  # fmt: skip
    head = ", ".join(f"{name} {value}" for name, value in record["machine"].items())
    return f"{head}\n{table(rows)}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART",
                        help=f"{', '.join(parts.PARTS)} (default: all but cuda)")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="fewer and smaller measurements")
    parser.add_argument("--threads", type=int,
                        help="of every side (default: 2; of cuda alone, all cores)")  # fmt: skip
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "benchmarks",
                        help="for environments, files and the result")  # fmt: skip
    parser.add_argument("--published", type=Path,
                        help="the published package's environment, if there is one")  # fmt: skip
    parser.add_argument("--no-published", action="store_true", help="leave that side out")
    parser.add_argument("--python", default="python3.11", help="makes that environment")
    parser.add_argument("--parity", type=Path, default=ROOT / "tests" / "parity",
                        help="folder with the stand-in weights' description")  # fmt: skip
    parser.add_argument("--device", default="cuda", help="of the part cuda (default: cuda)")
    parser.add_argument("--small", action="store_true",
                        help="the part cuda in miniature, on the demo model: a trial")  # fmt: skip
    cases = parts.CUDA_CASES
    parser.add_argument("--cases", nargs="+", default=[], metavar="CASE", choices=cases,
                        help=f"of the part cuda: {', '.join(cases)} (default: all)")  # fmt: skip
    parser.add_argument("--table", type=Path, metavar="JSON", help="only print an earlier result")
    options = parser.parse_args(arguments)
    if options.table:
        try:
            shown = text(json.loads(options.table.read_text()))
        except (OSError, ValueError) as error:
            print(f"{options.table}: {error}", file=sys.stderr)
            return 2
        except (KeyError, TypeError, AttributeError):
            print(f"{options.table}: this is not a result of this program", file=sys.stderr)
            return 2
        print(shown)
        return 0
    if unknown := sorted(set(options.parts) - set(parts.PARTS)):
        parser.error(f"unknown part {unknown[0]!r}, expected some of {', '.join(parts.PARTS)}")
    options.parts = options.parts or [name for name in parts.PARTS if name != "cuda"]
    gpu = graphics_card() if "cuda" in options.parts and options.device == "cuda" else ""
    if gpu is None:
        parser.error("no CUDA here (for a trial in miniature: cuda --device cpu --small)")
    bench = prepare(options)
    record = {"machine": machine(bench.threads, gpu), "quick": options.quick, "rows": []}
    result = options.folder / "benchmarks.json"
    start = time.perf_counter()
    for name in options.parts:
        for row in parts.run(name, bench):
            record["rows"].append(row.as_dict())
            print(f"{time.perf_counter() - start:.0f} s: {name}, {row.measure}", file=sys.stderr)
            result.write_text(json.dumps(record, indent=1) + "\n")  # at once: a later one may fail
    print(text(record))
    print(f"\n{result}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
