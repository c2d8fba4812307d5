"""Start the sides of a case, each in its own process and environment, and measure them in turn."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


class Failed(RuntimeError):
    """A side could not be measured; the message is its own error."""


@dataclass
class Bench:
    """Where things are and how to measure.

    world: folder that `world.py` wrote. log: file for what the sides print.
    ours, published: their Python; published is None where that side is left out.
    device, small: of the part "cuda", which can be tried in miniature on a CPU.
    cases: of that part, in this order; none means all.
    """

    world: Path
    log: Path
    ours: Path
    published: Path | None
    threads: int = 2
    quick: bool = False
    device: str = "cuda"
    small: bool = False
    cases: Sequence[str] = ()

    def python(self, side: str) -> Path:
        return self.published if side == "published" else self.ours

    def has(self, side: str) -> bool:
        return self.python(side) is not None

    def environment(self, side: str) -> dict[str, str]:
        threads = str(self.threads)
        chosen = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        chosen |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        path = [] if side == "published" else [str(ROOT), os.environ.get("PYTHONPATH", "")]
        chosen["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        return os.environ | chosen


class Side:
    """A worker process; see worker.py for what is said between the two."""

    def __init__(self, bench: Bench, side: str, case: str, options: dict):
        command = [bench.python(side), HERE / "worker.py", side, case, bench.world, bench.threads]
        self.name = f"{side}.{case}"
        self.log = open(bench.log, "a")  # noqa: SIM115 (closed in `__exit__`)
        self.process = subprocess.Popen(
            [*map(str, command), json.dumps(options)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
            text=True, env=bench.environment(side),
        )  # fmt: skip

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.kill()  # what it has is at rest or no longer wanted
        self.process.wait()
        self.log.close()

    def answer(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"{self.name} ended with code {self.process.wait()}")
        if line.startswith('{"error"'):
            raise Failed(f"{self.name}: {json.loads(line)['error']}")
        return line

    def measure(self, calls: int) -> dict:
        self.process.stdin.write(f"{calls}\n")
        self.process.stdin.flush()
        return json.loads(self.answer())


@dataclass
class Measured:
    """What one side took.

    first: seconds of the first call. seconds: of those after it in the same process (of all, if
    each process made one call, or there was no other). before_mb, peak_mb: memory of the process
    before the calls, and at most over all rounds. found: what the calls returned, by name.
    """

    first: float
    seconds: list[float]
    before_mb: float
    peak_mb: float
    found: dict[str, list[float]] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def value(self, name: str) -> float:
        return statistics.median(self.found[name])


def gather(answers: list[dict], warm: bool = True) -> Measured:
    """warm: the first call of all only warmed up, if there was another."""
    seconds = [second for answer in answers for second in answer["seconds"]]
    found = defaultdict(list)
    for answer in answers:
        for name, value in answer["found"].items():
            found[name].append(value)
    return Measured(
        first=seconds[0],
        seconds=(seconds[1:] if warm else None) or seconds,
        before_mb=answers[0]["before_mb"],
        peak_mb=max(answer["peak_mb"] for answer in answers),
        found=dict(found),
    )


def alternate(
    bench: Bench, case: str, calls: dict[str, int], rounds: int, options: dict | None = None
) -> dict[str, Measured]:
    """Measure a case on several sides in turn: A, B, A, B, ...

    calls: {side: calls a round}; a side that is left out is passed over. rounds: after a first one
    of a single call each, which is the first call; 0 measures nothing but that.
    """
    with ExitStack() as stack:
        sides = {
            name: stack.enter_context(Side(bench, name, case, options or {}))
            for name in calls
            if bench.has(name)
        }
        for side in sides.values():  # set up one after the other would take longer
            side.answer()
        answers = {name: [side.measure(1)] for name, side in sides.items()}
        for _ in range(rounds):
            for name, side in sides.items():
                answers[name].append(side.measure(calls[name]))
        return {name: gather(found) for name, found in answers.items()}


def fresh(
    bench: Bench, case: str, sides: list[str], rounds: int, options: dict
) -> dict[str, Measured]:
    """Like `alternate`, with a new process for every measurement, one at a time."""
    answers = defaultdict(list)
    for number in range(rounds):
        for name in filter(bench.has, sides):
            numbered = {key: str(value).format(round=number) if isinstance(value, str) else value
                        for key, value in options.items()}  # fmt: skip
            with Side(bench, name, case, numbered) as side:
                side.answer()
                answers[name].append(side.measure(1))
    return {name: gather(found, warm=False) for name, found in answers.items()}
