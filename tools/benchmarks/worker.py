"""One side of one case in a process of its own: sets up, then measures each time it is told to.

    python worker.py SIDE CASE WORLD THREADS OPTIONS

SIDE is a module of this folder (`ours`, `bare`, `published`), CASE a function in it. The function
is called with the world's folder and the options (JSON), and returns what is to be timed. After
"ready" every line of input, a number of calls, is answered with a line of JSON. Written in the
standard library, since two different environments run it.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path


def memory(field: str) -> float:
    """Memory of this process in MB: "VmRSS" now, "VmHWM" the most since `forget_peak`."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass  # not Linux: the most since the process began is all that there is
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # the peak then includes the set-up


def measure(call, count: int) -> dict:
    """`count` calls: seconds each, memory before and at most (MB), and what the last returned."""
    gc.collect()
    forget_peak()
    before, seconds = memory("VmRSS"), []
    for _ in range(count):
        start = time.perf_counter()
        found = call()
        seconds.append(time.perf_counter() - start)
    answer = {"seconds": seconds, "before_mb": before, "peak_mb": memory("VmHWM")}
    return answer | {"found": found if isinstance(found, dict) else {}}


def touch_weights(model) -> dict:
    """Read every weight: of a mapped file nothing is in memory before. Returns their number."""
    for parameter in model.parameters():
        parameter.detach().sum().item()
    return {"parameters": sum(parameter.numel() for parameter in model.parameters())}


def main() -> None:
    side, case, world, threads, options = sys.argv[1:]
    answers, sys.stdout = sys.stdout, sys.stderr  # the published package prints
    try:
        import torch

        torch.set_num_threads(int(threads))
        os.chdir(world)
        call = getattr(import_module(side), case)(Path(world), **json.loads(options))
        print("ready", file=answers, flush=True)
        for line in sys.stdin:
            print(json.dumps(measure(call, int(line))), file=answers, flush=True)
    except Exception as error:
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
        print(json.dumps({"error": reason}), file=answers, flush=True)


if __name__ == "__main__":
    main()
