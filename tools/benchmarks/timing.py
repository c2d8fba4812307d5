"""Seconds of calls that take turns in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def medians(
    calls: dict[str, Callable],
    rounds: int,
    repeats: int = 1,
    wait: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Median seconds of one call of each, after a round that warms up.

    repeats: calls in a row that are timed together. wait: returns when what was asked for is done.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(1 + rounds):
        for name, call in calls.items():
            wait()
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            wait()
            seconds[name].append((time.perf_counter() - start) / repeats)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}
