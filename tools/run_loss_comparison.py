"""Run the comparison of losses that notebook 03 shows, and keep it in the package.

    python tools/run_loss_comparison.py
    python tools/run_loss_comparison.py --processes 1

First the candidates of each arm on validation drawings, then the chosen ones on test drawings: some
200 runs of 10 to 20 seconds on one core. They are written a few at a time; start the command again
to resume. If the drawings have changed since, all runs are repeated.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pandas as pd

from medclip_helpers.experiments import (
    FIELDS,
    Setting,
    World,
    comparison_settings,
    run_settings,
    tuning_settings,
)

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "medclip_helpers" / "experiments" / "loss_comparison.csv"


def complete(
    results: pd.DataFrame, world: World, settings: list[Setting], split: str, options
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`results` with the missing ones of `settings`, run some at a time; and the rows of `settings`
    alone, in their order.
    """
    wanted = list(dict.fromkeys(settings))  # one setting may be part of two comparisons
    rows = settings_of(results, split)
    todo = [setting for setting in wanted if setting not in rows]
    print(f"{split}: {len(wanted) - len(todo)} of {len(wanted)} runs are done", flush=True)
    for start in range(0, len(todo), options.at_once):
        found = run_settings(world, todo[start : start + options.at_once], split, options.processes)
        found = found.assign(date=time.strftime("%Y-%m-%d"), drawings=world.fingerprint())
        results = pd.concat([results, found.round(6)], ignore_index=True)
        results.to_csv(options.file, index=False)
    rows = settings_of(results, split)
    return results, results.loc[[rows[setting] for setting in wanted]]


def settings_of(results: pd.DataFrame, split: str) -> dict[Setting, int]:
    """Setting -> its row's label, of the runs on a split."""
    rows = results[results["split"] == split] if len(results) else results
    settings = (Setting(**row) for row in rows.reindex(columns=FIELDS).to_dict("records"))
    return dict(zip(settings, rows.index, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=-1, help="runs at a time (default: cores)")
    parser.add_argument("--at-once", type=int, default=8, help="runs between two saves")
    parser.add_argument("--file", type=Path, default=FILE, help="where the rows are kept")
    options = parser.parse_args()
    world = World()
    results = pd.read_csv(options.file) if options.file.exists() else pd.DataFrame()
    if len(results):
        results = results[results["drawings"] == world.fingerprint()]
    results, tried = complete(results, world, tuning_settings(), "validation", options)
    _, tested = complete(results, world, comparison_settings(tried), "test", options)
    pd.concat([tried, tested]).to_csv(options.file, index=False)  # and nothing of earlier plans
    print(f"{len(tried) + len(tested)} runs in {options.file}")


if __name__ == "__main__":
    main()
