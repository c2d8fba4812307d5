"""`medclip`, the command line, also as `python -m medclip_helpers`.

A verb is one function `add_<verb>`, which says what its arguments are, and one that does it and
returns the exit code: 0, or 1 where something failed. Errors that a person can mend end it with 2
and one line. Each imports its room when it runs, so that `--help` is there at once.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from . import __version__

Options = argparse.Namespace
# RuntimeError: training that stopped, a download, and torch's for a device that is not there
MENDABLE = (ValueError, OSError, ImportError, RuntimeError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `medclip`; returns 0, 1 where something failed, 2 where it could not start or go on."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:2] == ["train", "demo"]:  # two words, one verb
        arguments[:2] = ["train demo"]
    parser = argparse.ArgumentParser(
        prog="medclip",
        description="MedCLIP on the command line. Research use only, not a medical device.",
        epilog="example:\n  medclip classify scans --model vit --out scores.csv",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"medclip-helpers {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for add in (add_classify, add_run, add_train, add_train_demo):
        add(verbs)
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("medclip_helpers").setLevel(logging.INFO)
    try:
        return options.do(options)
    except MENDABLE as error:
        message = str(error)
        if isinstance(error, ModuleNotFoundError):
            message = f"{error.name} is not installed: python -m pip install {error.name}"
        sys.stderr.write(f"{options.prog}: {message}\n")
        return 2


def _verb(
    verbs, name: str, do: Callable[[Options], int], summary: str, epilog: str
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(
        name, help=summary, description=summary, epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(do=do, prog=parser.prog)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return int(text)


def add_classify(verbs) -> None:
    parser = _verb(
        verbs, "classify", classify, "score radiographs against prompts, into a CSV file",
        "example:\n  medclip classify scans 'more/**/*.dcm' --model vit --out scores.csv",
    )  # fmt: skip
    parser.add_argument("scans", nargs="+", help="a file, a folder or a pattern")
    parser.add_argument("--model", default="vit", help="vit (default), resnet, demo or a folder")
    parser.add_argument("--prompts", default="chexpert", help="chexpert, covid, rsna or a file")
    parser.add_argument("--out", type=Path, default=Path("scores.csv"), help="default: scores.csv")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--ensemble", action="store_true", help="mean over prompts (default)")
    how.add_argument("--maximum", action="store_true", help="maximum over prompts, as published")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, ...")
    parser.add_argument("--batch-size", type=_count, help="images at once (default: by device)")


def classify(options: Options) -> int:
    """A row a radiograph; one that cannot be read costs its row and the exit code 0."""
    from . import classify_images, find_radiographs, load_medclip
    from .hub import write_text
    from .prompts import load_class_prompts

    if options.out.is_dir():
        raise ValueError(f"--out is a folder, {options.out}: expected the name of a CSV file")
    found = (path for source in options.scans for path in find_radiographs(source))
    scans, prompts = list(dict.fromkeys(found)), load_class_prompts(options.prompts)
    model, processor = load_medclip(options.model, options.device)
    table = classify_images(
        model, processor, scans, prompts,
        ensemble=not options.maximum, batch_size=options.batch_size,
    )  # fmt: skip
    write_text(options.out, table.to_csv(index=False))
    read = int((table["status"] == "ok").sum())
    sys.stdout.write(f"{options.out}: {read} of {len(table)} images read. {model.note}\n")
    return int(read < len(table))


def add_run(verbs) -> None:
    parser = _verb(
        verbs, "run", run, "run notebooks with many sets of parameters, and gather what they found",
        "example:\n  medclip run sweep.yaml --processes 2\n"
        "  medclip run notebooks/*.ipynb --output runs\n\n"
        "a sweep file, all combinations of what is in its grid:\n"
        "  notebook: notebooks/02_prompt_classification.ipynb\n"
        "  parameters: {images: scans}\n"
        "  grid: {model: [demo, vit], ensemble: [true, false]}",
    )  # fmt: skip
    parser.add_argument("files", nargs="+", type=Path, help="one sweep file, or notebooks")
    parser.add_argument("--output", type=Path, help="default: runs/SWEEP beside it, or runs")
    processes = min(4, max(1, (os.cpu_count() or 1) // 2))
    help_ = "notebooks at a time (default: %(default)s)"
    parser.add_argument("--processes", type=_count, default=processes, help=help_)
    parser.add_argument("--force", action="store_true", help="run again what has finished, too")


def run(options: Options) -> int:
    """A line a notebook, and a report over all; what has finished is not run again."""
    from tqdm.auto import tqdm

    from .runs import one_line, plan_files, run_all, varying, write_report

    runs, output = plan_files(options.files, options.output)
    records = {}
    try:
        for record in run_all(runs, options.processes, force=options.force):
            records[record["folder"]] = record
            if record["status"] != "ok":
                tqdm.write(one_line(record, record["parameters"]))
    except KeyboardInterrupt:
        tqdm.write("interrupted: start again to do the rest")
    done = [records[str(run.folder)] for run in runs if str(run.folder) in records]
    lines = [one_line(record, varying(done)) for record in done]
    if done:
        sys.stdout.write("\n".join([*lines, *map(str, write_report(done, output)), ""]))
    if len(done) < len(runs):
        sys.stdout.flush()
        os._exit(130)  # the kernels notice that we are gone; threads would wait for them
    return int(any(record["status"] != "ok" for record in done))


def add_train(verbs) -> None:
    parser = _verb(
        verbs, "train", train, "pretrain as a run file says; `train demo` makes the demo model",
        "example:\n  medclip train run.yaml --resume\n\n"
        "python -m medclip_helpers.training --help tells what a run file holds, and how torchrun\n"
        "starts it on several GPUs.",
    )  # fmt: skip
    parser.add_argument("run_file", metavar="RUN.yaml", type=Path)
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")


def train(options: Options) -> int:
    """What `training.train_from_file` does."""
    from .training import train_from_file

    result = train_from_file(options.run_file, options.resume)
    sys.stdout.write(f"best at step {result.best_step}; the model is in {result.folder}\n")
    return 0


def add_train_demo(verbs) -> None:
    parser = _verb(
        verbs, "train demo", train_demo, "make the demo model from nothing, on drawings",
        "example:\n  medclip train demo --out my-demo --seed 1",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--seed", type=int, default=0, help="of weights, drawings and order")
    for name, default, meaning in (
        ("samples", 8000, "drawn images"),
        ("steps", 600, "of 100 images"),
        ("test-images", 1000, "drawn to judge it by"),
        ("threads", 1, "results depend on it"),
    ):
        text = f"{meaning} (default {default})"
        parser.add_argument(f"--{name}", type=_count, default=default, help=text)


def train_demo(options: Options) -> int:
    """What `experiments.train_demo` does, but never over the checkpoint that ships."""
    from .demo import CHECKPOINT_FOLDER

    if options.out.resolve().is_relative_to(CHECKPOINT_FOLDER.resolve()):
        raise ValueError(f"--out is {options.out}, where the shipped demo model is: name another")
    import torch

    from . import experiments

    torch.set_num_threads(options.threads)
    metrics = experiments.train_demo(
        options.out, options.seed, options.samples, options.steps, options.test_images
    )
    sys.stdout.write(f"{options.out}: {json.dumps(metrics['zero_shot'], indent=2)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
