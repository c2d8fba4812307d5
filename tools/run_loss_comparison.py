"""Run the comparison of losses that notebook 03 shows, and keep it in the package.

    python tools/run_loss_comparison.py
    python tools/run_loss_comparison.py --processes 1

First the candidates of each arm on validation drawings, then what was chosen on test drawings: some
220 runs of 10 to 20 seconds of one core. Each is written as it ends; start the command again to
resume. Runs in drawings that have changed since are made again, and dropped when all new ones exist.
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
KEY = ["split", *FIELDS]


def complete(
    results: pd.DataFrame, world: World, settings: list[Setting], split: str, options
) -> pd.DataFrame:
    """`results` with a row for each of `settings`; what is missing is run, some at a time."""
    wanted = pd.DataFrame([{"split": split, **vars(setting)} for setting in settings])
    wanted = wanted.drop_duplicates(KEY).assign(place=range(len(wanted.drop_duplicates(KEY))))
    done = results[KEY].drop_duplicates() if len(results) else pd.DataFrame(columns=KEY)
    missing = wanted.merge(done, on=KEY, how="left", indicator=True)
    missing = missing[missing["_merge"] == "left_only"]
    print(f"{split}: {len(wanted) - len(missing)} of {len(wanted)} runs are there", flush=True)
    by_place = [
        Setting(**{name: row[name] for name in FIELDS}) for row in wanted.to_dict("records")
    ]
    todo = [by_place[place] for place in missing["place"]]
    for start in range(0, len(todo), options.at_once):
        found = run_settings(world, todo[start : start + options.at_once], split, options.processes)
        found = found.assign(date=time.strftime("%Y-%m-%d"), drawings=world.fingerprint())
        results = pd.concat([results, found.round(6)], ignore_index=True)
        results.to_csv(options.file, index=False)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=-1, help="runs at a time (default: cores)")
    parser.add_argument("--at-once", type=int, default=8, help="runs between two savings")
    parser.add_argument("--file", type=Path, default=FILE, help="where the rows are kept")
    options = parser.parse_args()
    world = World()
    results = pd.read_csv(options.file) if options.file.exists() else pd.DataFrame()
    if len(results):
        results = results[results["drawings"] == world.fingerprint()]
    results = complete(results, world, tuning_settings(), "validation", options)
    results = complete(results, world, comparison_settings(results), "test", options)
    results.to_csv(options.file, index=False)
    print(f"{len(results)} runs in {options.file}")


if __name__ == "__main__":
    main()
