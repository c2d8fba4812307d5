"""`medclip`, the command line, also as `python -m medclip_helpers`.

A verb is a function that does the work, whose docstring is its help and whose result is the exit
code: 0, or 1 where something failed; a function that adds its arguments; and a line in VERBS. It
imports its room only when it runs, so that help appears at once.
"""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from . import __version__

# What a user can fix: one line, no traceback. RuntimeError is a training run that stopped, or
# torch's for a device that is missing or full.
MENDABLE = (ValueError, OSError, ImportError, RuntimeError)


def classify(options: argparse.Namespace) -> int:
    """Score radiographs against prompts, into a CSV file with one row per image.

    A file that cannot be read keeps its row, with the reason, and the exit code is then 1.

    example:
      medclip classify scans "more/**/*.dcm" --model vit --prompts chexpert --out scores.csv
    """
    from . import find_radiographs

    _refuse_folder(options.out)
    found = (path for source in options.scans for path in find_radiographs(source))
    scans = list(dict.fromkeys(found))
    import torch  # only now, because it takes seconds

    from . import classify_images, load_medclip
    from .hub import write_text
    from .prompts import load_class_prompts

    prompts = load_class_prompts(options.prompts)
    model, processor = load_medclip(
        options.model, options.device, precision=options.precision, engine=options.engine
    )
    if model.device.type != "cpu":
        # torch's threads would take cores from the reading threads: 177 files/s, 304 without (16
        # cores with an H200)
        torch.set_num_threads(1)
    how = {"ensemble": not options.maximum, "batch_size": options.batch_size}
    table = classify_images(model, processor, scans, prompts, **how)
    write_text(options.out, table.to_csv(index=False))
    read = int((table["status"] == "ok").sum())
    scored = f"{read} of {len(table)} images read, computed in {model.precision} by {model.engine}"
    sys.stdout.write(f"{options.out}: {scored}. {model.note}\n")
    return int(read < len(table))


def _classify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scans", nargs="+", help="files, folders, patterns")
    _model_arguments(parser)
    parser.add_argument("--prompts", default="chexpert", help="chexpert, covid, rsna or a file")
    parser.add_argument("--out", type=Path, default=Path("scores.csv"), help="default: scores.csv")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--ensemble", action="store_true", help="mean over prompts (default)")
    how.add_argument("--maximum", action="store_true", help="maximum over prompts, as published")
    text = "auto (default: the fastest on the device), float32 (the reference), bfloat16, float16"
    parser.add_argument("--precision", default="auto", help=text)
    text = "torch (default), openvino, or auto: the faster one, measured first"
    parser.add_argument("--engine", default="torch", help=text)
    parser.add_argument("--batch-size", type=_count, help="images at once (default: by device)")


def explain(options: argparse.Namespace) -> int:
    """Plot which sentence a radiograph is nearest to, and where in the image that comes from.

    Without a radiograph, a drawing with an effusion is explained; the effusion is outlined.

    example:
      medclip explain scan.dcm --model vit --text "large effusion" --text "no effusion"
    """
    _refuse_folder(options.out)
    from . import explain_similarity, load_medclip, read_radiograph
    from .demo import draw_phantom
    from .hub import whole_file
    from .plots import figure_png

    scan = options.scan and read_radiograph(options.scan)
    image = scan or draw_phantom(0, {"Pleural Effusion": 0.8})
    model, processor = load_medclip(options.model, options.device)
    figure = explain_similarity(model, processor, image, options.text or None)
    with whole_file(options.out) as part:
        part.write_bytes(figure_png(figure))
    sys.stdout.write(f"{options.out}: {figure.alt} {model.note}\n")
    return 0


def _explain_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scan", nargs="?", help="PNG, JPEG or DICOM file")
    _model_arguments(parser)
    parser.add_argument("--text", action="append", help="a sentence; repeat for more")
    parser.add_argument("--out", type=Path, default=Path("explained.png"),
                        help="default: explained.png")  # fmt: skip


def check(options: argparse.Namespace) -> int:
    """Are my numbers right? Check each part of a model on numbers that need no download.

    If a part is wrong, the exit code is 1 and the probable cause is named.

    example:
      medclip check --model vit
    """
    from . import load_medclip
    from .evaluation import check_numbers

    table = check_numbers(*load_medclip(options.model, options.device))
    for row in table.to_dict("records"):
        checked = row["verdict"] != "not checked"
        names = ("expected", "found", "probably") if checked else ("reported", "found", "note")
        pairs = zip(names, (row["expected"], row["found"], row["meaning"]), strict=True)
        said = "".join(f"  {name} {text}\n" for name, text in pairs if text)
        sys.stdout.write(f"{row['part']}: {row['verdict']}\n{said}")
    return int((table["verdict"] == "wrong").any())


def _model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="vit", help="vit (default), resnet, demo or a folder")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, ...")


def export(options: argparse.Namespace) -> int:
    """Write a folder that serves a model with ONNX Runtime or OpenVINO, without torch.

    It also holds the preprocessing of images (preprocessing.json), the prompts and their embeddings
    (prompts.json, prompts.npy), the tokenizer, and a description of the weights (export.json).
    example.py scores an image with them.

    example:
      medclip export vit --format onnx --out served
    """
    import io
    from string import Template

    import numpy as np
    import torch

    from . import PromptClassifier, load_medclip
    from .engines import write_export
    from .hub import describe_weights, read_settings
    from .loading import encoders_of
    from .prompts import load_class_prompts, process_class_prompts

    prompts = load_class_prompts(options.prompts)
    model, processor = load_medclip(options.model, "cpu")
    with torch.no_grad():
        texts = process_class_prompts(prompts, processor)
        embeds = PromptClassifier(model).encode_prompts(texts)
        scale = model.compute_logits(torch.ones(1, 1), torch.ones(1, 1)).item()
    np.save(rows := io.BytesIO(), torch.cat(list(embeds.values())).numpy())
    words = read_settings(Path(__file__).with_name("export.yaml"))
    example = Template(words["example"]).substitute(words["runtimes"][options.format])
    tokenizer = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    contents = {
        "preprocessing": vars(processor.image_processor) | words["preprocessing"],
        "prompts": prompts,
        "tokenizer": tokenizer | {"padding": None, "truncation": None},
    }
    files = {f"{name}.json": json.dumps(what, indent=1).encode() for name, what in contents.items()}
    files |= {"prompts.npy": rows.getvalue(), "example.py": example.encode()}
    about = {"note": model.note, **describe_weights(model), "scale": scale, **words["about"]}
    encoders = dict(zip(("image", "text"), encoders_of(model, processor).values(), strict=True))
    write_export(options.out, encoders, files, about, options.format, options.force)
    sys.stdout.write(f"{options.out}: example.py shows how to use it. {model.note}\n")
    return 0


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="vit, resnet, demo or a folder")
    kinds = "onnx", "openvino"
    parser.add_argument("--format", choices=kinds, default="onnx", help="default: onnx")
    parser.add_argument("--out", type=Path, required=True, help="a folder, new or empty")
    parser.add_argument("--prompts", default="chexpert", help="chexpert, covid, rsna or a file")
    parser.add_argument("--force", action="store_true", help="replace what the folder holds")


def data(options: argparse.Namespace) -> int:
    """Write a data set's manifest: images, labels, split, and what the authors pretrained on.

    --recipe authors gives exactly the test images of MedCLIP's authors, from the data set's tables;
    for chexpert and mimic-cxr its train images are those that they pretrained on.
    --sentences writes the labelled sentences of the reports that are not in the test, for
    pretraining. --cache 256 writes a small copy of each image and lists the copies in the manifest;
    run again, it resumes.

    example:
      medclip data chexpert-5x200 CheXpert-v1.0-small --recipe authors --out manifest.csv
      medclip data mimic-cxr mimic-cxr-jpg --sentences sentences.csv --cache 256 --out train.csv
    """
    for file in (options.out, options.sentences):
        if file is not None:
            _refuse_folder(file)
    from .data import build_manifest, cache_images, describe_test, label_sentences, split_report
    from .hub import write_text

    if options.name == "demo":
        raise ValueError("the demo's drawings are not files: expected another data set")
    table = build_manifest(
        options.name,
        options.root.expanduser().resolve(),  # so that the paths hold wherever the file is read
        recipe=options.recipe,
        seed=options.seed,
        test_ids=options.test_ids,
        check_images=options.check_images,
    )
    test = describe_test(table)
    if options.sentences is not None:
        reports = table.loc[table["split"] != "test", "report"].dropna().unique()
        if not len(reports):
            raise ValueError(f"--sentences: {options.name} has no reports outside its test images")
        labelled = label_sentences(s for report in reports for s in split_report(report, 1))
        write_text(options.sentences, labelled.to_csv(index=False))
        sys.stdout.write(f"{options.sentences}: {len(labelled)} sentences\n")
    if options.cache is not None:
        folder = options.out.with_name(f"{options.out.stem}-{options.cache}").resolve()
        root = options.root.expanduser()
        table = cache_images(table, root, folder, options.cache)
    write_text(options.out, table.to_csv(index=False))
    sys.stdout.write(f"{options.out}: {test['sentence']} Test list: {test['sha256']}\n")
    return 0


def _data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="chexpert-5x200, mimic-5x200, rsna, covid, openi, ...")
    parser.add_argument("root", type=Path, help="the folder that it was unpacked to")
    parser.add_argument("--out", type=Path, required=True, help="a CSV file")
    parser.add_argument("--recipe", default="stratified", help="stratified (default) or authors")
    parser.add_argument("--seed", type=int, default=0, help="for random sampling (default 0)")
    text = "a file with the test images, one column of paths or ids"
    parser.add_argument("--test-ids", type=Path, metavar="FILE", help=text)
    text = "the labelled sentences of its reports, a CSV file to write"
    parser.add_argument("--sentences", type=Path, metavar="FILE", help=text)
    text = "write copies of SIZE pixels a side next to --out, and list these in it"
    parser.add_argument("--cache", type=_count, metavar="SIZE", help=text)
    text = "do not look for the images: a list from the tables alone"
    parser.add_argument("--no-check-images", dest="check_images", action="store_false", help=text)


def reproduce(options: argparse.Namespace) -> int:
    """Make one of the paper's tables, by its authors' protocol and by ours.

    table2 is zero-shot classification, table3 linear probe and prompt tuning, retrieval precision
    at k; efficiency writes a run file for `medclip train` for each number of images. The data sets
    are looked for in --data, each in the folder that it is downloaded as.

    example:
      medclip reproduce table2 --data /data --model vit --out runs/table2
    """
    from .experiments import reproduce

    table = reproduce(
        options.table, options.data, options.model, options.out, sentences=options.sentences,
        test_per_class=options.test_per_class, max_steps=options.max_steps, seed=options.seed,
    )  # fmt: skip
    written = "run files" if options.table == "efficiency" else f"{options.table}.md"
    sys.stdout.write(f"{options.out}: {written}, {len(table)} rows\n")
    return 0


def _reproduce_arguments(parser: argparse.ArgumentParser) -> None:
    tables = "table2", "table3", "retrieval", "efficiency"
    parser.add_argument("table", choices=tables)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the data sets")
    parser.add_argument("--model", default="vit", help="vit (default), resnet, demo or a folder")
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    text = "a CSV file of labelled sentences, for the authors' normal class and for retrieval"
    parser.add_argument("--sentences", type=Path, help=text)
    text = "fewer images of our own test list, for a trial"
    parser.add_argument("--test-per-class", type=_count, help=text)
    parser.add_argument("--max-steps", type=_count, help="shorter training, for a trial")
    parser.add_argument("--seed", type=int, default=0, help="for our own sampling (default 0)")


def run(options: argparse.Namespace) -> int:
    """Run notebooks with many sets of parameters, and collect their results.

    A sweep file names notebooks and parameters; all combinations of its grid are run:
      notebook: notebooks/02_prompt_classification.ipynb
      parameters: {images: scans}
      grid: {model: [demo, vit], ensemble: [true, false]}

    As each ends, a line says what it found. Run again, it does only what is missing, failed or
    changed.

    example:
      medclip run sweep.yaml --processes 2
      medclip run notebooks/[0-9]*.ipynb --output runs
    """
    from tqdm.auto import tqdm

    from .hub import locked_folder
    from .runs import one_line, plan_files, run_all, varying, write_report

    def say(text: str) -> None:
        tqdm.write(text)
        sys.stdout.flush()  # otherwise a pipe or a file gets all of it at the end

    runs, output = plan_files(options.files, options.output)
    shown = varying([run._asdict() for run in runs])
    done: list[dict] = []
    start, due = time.monotonic(), 0.0
    with locked_folder(output):
        say(f"{len(runs)} to run; {output / 'index.html'} grows after each of them")
        try:
            for record in run_all(runs, options.processes, force=options.force):
                done.append(record)
                say(one_line(record, shown))
                if (began := time.monotonic()) > due:
                    write_report(done, output, runs)
                    # at most half of the time: for a thousand runs it takes long
                    due = 2 * time.monotonic() - began
        except KeyboardInterrupt:
            say("interrupted: run this again to do the rest")
        failed = sum(record["status"] != "ok" for record in done)
        files = write_report(done, output, runs) if done else []
    took = f"{len(done)} done, {failed} failed, {time.monotonic() - start:.0f} s"
    say("\n".join([took, *map(str, files)]))
    if len(done) < len(runs):
        os._exit(130)  # the kernels notice that we are gone; threads would wait for them
    return int(failed > 0)


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, help="one sweep file, or notebooks")
    parser.add_argument("--output", type=Path, help="default: the sweep file's, or runs")
    at_once = min(4, max(1, (os.cpu_count() or 1) // 2))
    text = f"notebooks at a time (default: {at_once})"
    parser.add_argument("--processes", type=_count, default=at_once, help=text)
    parser.add_argument("--force", action="store_true", help="also run again what has finished")


def train(options: argparse.Namespace) -> int:
    """Pretrain as specified in a run file.

    example:
      medclip train run.yaml --resume
    """
    from .training import train_from_file

    result = train_from_file(options.run_file, options.resume, options.data)
    sys.stdout.write(f"best at step {result.best_step}; the model is in {result.folder}\n")
    return 0


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    told = Path(__file__).parent / "training" / "run_file.txt"
    parser.epilog = f"{parser.epilog}\n\n{told.read_text(encoding='utf-8')}"
    parser.add_argument("run_file", metavar="RUN.yaml", type=Path)
    text = "base folder of its relative paths (default: its own folder)"
    parser.add_argument("--data", type=Path, metavar="ROOT", help=text)
    parser.add_argument("--resume", action="store_true", help="resume from the newest checkpoint")


def demo(options: argparse.Namespace) -> int:
    """Train the demo model from scratch, on drawings.

    The shipped demo model is never replaced.

    example:
      medclip train demo --out my-demo --seed 1
    """
    from .experiments import train_demo

    numbers = {name: getattr(options, name) for name in ("seed", *DEMO)}
    metrics = train_demo(options.out, **numbers)
    sys.stdout.write(f"{options.out}: {json.dumps(metrics['zero_shot'], indent=2)}\n")
    return 0


DEMO = {
    "samples": (8000, "training drawings"),
    "steps": (600, "of 100 images"),
    "test_images": (1000, "drawings to evaluate it on"),
    "threads": (1, "the result depends on their number"),
}


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--seed", type=int, default=0, help="for weights, drawings and order")
    for name, (default, meaning) in DEMO.items():
        option, text = f"--{name.replace('_', '-')}", f"{meaning} (default {default})"
        parser.add_argument(option, type=int, default=default, help=text)


def _refuse_folder(out: Path) -> None:
    """Fail before hours of work whose result could then not be written."""
    if out.is_dir():
        raise ValueError(f"--out is a folder, {out}: expected the name of a file")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number, 1 or more")
    return int(text)


VERBS = {
    "check": (check, _model_arguments),
    "classify": (classify, _classify_arguments),
    "data": (data, _data_arguments),
    "explain": (explain, _explain_arguments),
    "export": (export, _export_arguments),
    "reproduce": (reproduce, _reproduce_arguments),
    "run": (run, _run_arguments),
    "train": (train, _train_arguments),
    "train demo": (demo, _demo_arguments),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `medclip`; returns 0, 1 if something failed, 2 if it could not start or continue."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:2] == ["train", "demo"]:
        words[:2] = ["train demo"]
    style = argparse.RawDescriptionHelpFormatter
    about = "MedCLIP on the command line. Research use only, not a medical device."
    example = "example:\n  medclip classify scans --model vit --out scores.csv"
    parser = argparse.ArgumentParser(
        prog="medclip", description=about, epilog=example, formatter_class=style
    )
    parser.add_argument("--version", action="version", version=f"medclip-helpers {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name, (do, add_arguments) in VERBS.items():
        summary, _, more = (inspect.getdoc(do) or "").partition("\n\n")
        about = summary[0].lower() + summary[1:].rstrip(".")
        verb = verbs.add_parser(
            name, help=about, description=summary, epilog=more, formatter_class=style
        )
        verb.set_defaults(do=do, prog=verb.prog)
        add_arguments(verb)
    options = parser.parse_args(words)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("medclip_helpers").setLevel(logging.INFO)
    try:
        return options.do(options)
    except KeyboardInterrupt:
        return 130
    except MENDABLE as error:
        missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
        hint = f"{missing} is not installed: python -m pip install {missing}"
        sys.stderr.write(f"{options.prog}: {hint if missing else error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
