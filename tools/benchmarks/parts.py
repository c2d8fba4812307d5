"""The parts of the table: what is run on which side, and what it is held against."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from .report import Row
from .sides import ROOT, Bench, Failed, Measured, alternate, fresh

FLOAT32 = "bare is timm's own forward in float32"
SIDE = 1024  # pixels, of the images that world.py draws


def _row(part: str, measure: str, unit: str, found: dict[str, list[float]], **more) -> Row:
    """A row of medians over each side's samples; `found` maps sides to them."""
    medians = {side: statistics.median(values) for side, values in found.items()}
    return Row(part, measure, unit, **medians, samples=found, **more)


def _rates(found: dict[str, Measured], items: int) -> dict[str, list[float]]:
    return {side: [items / second for second in m.seconds] for side, m in found.items()}


def _precisions() -> dict[str, str]:
    """float32, and what "auto" is on this machine's CPU where that is another one."""
    from medclip_helpers.engines import choose_precision  # loads torch

    return dict.fromkeys(("float32", choose_precision("auto", "cpu")))


def image(bench: Bench) -> list[Row]:
    rounds, rows = 2 if bench.quick else 6, []
    for precision in _precisions():
        options = {"precision": precision}
        calls = {"published": 1, "ours": 5, "bare": 5}
        found = alternate(bench, "one_image", calls, rounds, options)
        steady = {side: [1000 * s for s in m.seconds] for side, m in found.items()}
        first = {side: [1000 * m.first] for side, m in found.items() if side != "bare"}
        what = f"1 image, 5 classes x 10 prompts, {precision}"
        full = {"published": 10, "bare": 1.1}
        aims = full if precision == "float32" else {"published": 40, "bare": 1 / 1.5}
        rows += [
            _row("image", f"{what}, first call", "ms", first),
            _row("image", f"{what}, steady", "ms", steady, aims=aims, note=FLOAT32),
        ]
    return rows


def files(bench: Bench) -> list[Row]:
    rows = []
    for count in (32,) if bench.quick else (32, 256):
        for precision in _precisions():
            # The published side takes minutes for 256 images: it is measured once.
            rounds = 1 if bench.quick else {32: 5, 256: 0}[count]
            calls = {"published": 1, "ours": 1}
            options = {"count": count, "precision": precision}
            both = alternate(bench, "files", calls, rounds, {**options, "prompts": 10})
            # One prompt per class, so that it is the image encoder's time that is compared.
            single = alternate(
                bench, "files", {"ours": 1, "bare": 1}, max(rounds, 2), {**options, "prompts": 1}
            )
            what = f"{count} PNG files of {SIDE} x {SIDE}, {precision}"
            peaks = {side: [m.peak_mb] for side, m in (single | both).items()}
            rows += [
                _row("files", f"{what}, 5 x 10 prompts", "images/s", _rates(both, count),
                     aims={"published": 9} if count == 256 else {}),
                _row("files", f"{what}, 5 x 1 prompts", "images/s", _rates(single, count),
                     aims={"bare": 1.15 if precision == "float32" else 1 / 1.4}, note=FLOAT32),
                _row("files", f"{what}: peak memory of the process", "MB", peaks),
            ]  # fmt: skip
    return rows


def modes(bench: Bench) -> Iterator[Row]:
    """Ratios of one process, which two processes on a busy machine do not give."""
    rounds = {1: 3} if bench.quick else {1: 15, 8: 7, 32: 3}  # by images at once
    for encoder in ("vit",) if bench.quick else ("vit", "resnet"):
        for batch, times in rounds.items():
            options = {"encoder": encoder, "batch": batch, "rounds": times}
            found = alternate(bench, "one_image", {"modes": 1}, 0, options)["modes"].found
            yield from _mode_rows(f"{encoder}, {batch} at once", found, batch, encoder == "vit")
    count = 32 if bench.quick else 256
    options = {"count": count, "rounds": 1 if bench.quick else 3}
    found = alternate(bench, "many_files", {"modes": 1}, 0, options)["modes"].found
    yield from _mode_rows(f"{count} PNG files of {SIDE} x {SIDE}", found, count, True, 1.4)


def _mode_rows(
    what: str, found: dict[str, list[float]], items: int, aimed: bool, half: float = 1.5
) -> list[Row]:
    """A row for each mode; half: how many times as fast as bare float32 it is to be in bfloat16."""
    bare, rows = [items / seconds for seconds in found["bare"]], []
    for name in [name for name in found if name != "bare"]:
        least = {"bfloat16": half, "OpenVINO bfloat16": 1.9}.get(name)
        aims = {"bare": 1 / least} if least and aimed else {}
        rates = {"ours": [items / seconds for seconds in found[name]], "bare": bare}
        rows.append(_row("modes", f"{what}, {name}", "images/s", rates, aims=aims, note=FLOAT32))
    return rows


def texts(bench: Bench) -> list[Row]:
    count = 100 if bench.quick else 1000
    found = alternate(bench, "texts", {"published": 1, "ours": 1}, 1, {"count": count})
    note = "ours batches sentences of equal length, without padding; the published code pads"
    return [_row("text", f"{count:,} sentences", "texts/s", _rates(found, count), note=note)]


def load(bench: Bench) -> list[Row]:
    rows = [_imports(bench)]
    rounds = 1 if bench.quick else 3
    scratch = bench.world.parent / "downloads"
    shutil.rmtree(scratch, ignore_errors=True)
    with _weight_host(bench) as url:
        for warm in (False, True):
            place = scratch / ("0" if warm else "{round}")
            options = {"warm": warm, "url": url, "scratch": str(place)}
            found = fresh(bench, "load", ["published", "ours"], rounds, options)
            # float32: four bytes each
            weights = found["ours"].value("parameters") * 4 / (1 << 20)
            seconds = {side: m.seconds for side, m in found.items()}
            memory = {side: [(m.peak_mb - m.before_mb) / weights] for side, m in found.items()}
            name = "load, warm" if warm else "load, cold (download, unpack, convert)"
            rows += [
                _row("load", name, "s", seconds, aims={"most": 2} if warm else {}),
                _row("load", f"{name}: peak memory", "x weights", memory,
                     aims={"most": 1.3} if warm else {}),
            ]  # fmt: skip
    shutil.rmtree(scratch)
    return rows


def _imports(bench: Bench) -> Row:
    code = "import time, sys; t = time.perf_counter(); import {}; t = time.perf_counter() - t; "
    code += "print(t, 'torch' in sys.modules)"
    names = {"published": "medclip", "ours": "medclip_helpers"}
    found, note = {side: [] for side in names if bench.has(side)}, ""
    for _ in range(2 if bench.quick else 5):
        for side, seconds in found.items():
            command = [str(bench.python(side)), "-c", code.format(names[side])]
            done = subprocess.run(
                command, env=bench.environment(side), capture_output=True, text=True
            )
            if done.returncode:
                raise Failed(f"import {names[side]}: {done.stderr.strip().splitlines()[-1]}")
            second, torch = done.stdout.split()[-2:]
            seconds.append(float(second))
            if side == "ours":
                note = f"our import {'loads' if torch == 'True' else 'does without'} torch"
    return _row("load", "import", "s", found, aims={"most": 0.3}, note=note)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class _Host(ThreadingHTTPServer):
    def handle_error(self, *_):
        pass  # a client may ask for the length alone and hang up


@contextmanager
def _weight_host(bench: Bench) -> Iterator[str]:
    """The address of a server on this machine that plays the weights' host."""
    served, name = bench.world / "served", "medclip-vit-pretrained.zip"
    served.mkdir(exist_ok=True)
    if not (served / name).is_file():  # a zip, and a text file with the address of the zip
        with zipfile.ZipFile(
            served / f"{name}.part", "w", zipfile.ZIP_DEFLATED, compresslevel=1
        ) as made:
            made.write(bench.world / "weights-vit" / "pytorch_model.bin", "pytorch_model.bin")
        (served / f"{name}.part").rename(served / name)
    handler = partial(_Quiet, directory=str(served))
    with _Host(("127.0.0.1", 0), handler) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        (served / "address.txt").write_text(f"{url}/{name}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield url
        finally:
            server.shutdown()


def reading(bench: Bench) -> list[Row]:
    rows = []
    for side in (SIDE,) if bench.quick else (SIDE, 2 * SIDE):
        rounds = 3 if bench.quick else 20
        found = alternate(bench, "stages", {"reading": 1}, rounds, {"side": side})["reading"]
        files: dict[str, dict[str, float]] = {}
        for key in found.found:
            name, stage = key.split("|")
            files.setdefault(name, {})[stage] = found.value(key)
        for name, stages in files.items():
            note = ", ".join(f"{stage} {ms:.2f}" for stage, ms in stages.items())
            whole = sum(stages.values())
            rows.append(Row("reading", f"{name}, {side} x {side}", "ms", whole, note=note))
    return rows


def loader(bench: Bench) -> list[Row]:
    count = 50 if bench.quick else 200
    found = alternate(bench, "loader", {"published": 1, "ours": 1}, 3, {"count": count})
    measure = f"pretraining loader, images of {SIDE} x {SIDE}"
    note = "one process, decode to batch, without augmentation on either side"
    return [_row("training", measure, "items/s", _rates(found, count), note=note)]


def step(bench: Bench) -> list[Row]:
    options = {"steps": 4 if bench.quick else 8, "batch_size": 4 if bench.quick else 8}
    found = alternate(bench, "step", {"training": 1}, 0, options)["training"]
    parts = ("forward", "backward", "optimizer", "clipping")
    shares = ", ".join(f"{name} {found.value(name):.1%}" for name in parts)
    what = f"step of batch {options['batch_size']}"
    return [
        Row("training", what, "s", found.value("seconds"), note=shares),
        Row("training", f"{what}: outside forward, backward, optimizer", "%",
            100 * found.value("outside"), aims={"most": 5}),
    ]  # fmt: skip


def growth(bench: Bench) -> list[Row]:
    rows, each = [], {}
    for count in (10, 100, 1000) if bench.quick else (10, 100, 1000, 10_000):
        rounds = {10: 5, 100: 3}.get(count, 0)
        found = alternate(bench, "growth", {"ours": 1}, rounds, {"count": count})["ours"]
        each[count] = 1000 * found.median / count
        rows += [
            Row("growth", f"{count:,} images, demo model, time an image", "ms", each[count]),
            Row("growth", f"{count:,} images, demo model, peak memory", "MB", found.peak_mb),
        ]
    last, before = sorted(each)[-1], sorted(each)[-2]
    name = f"an image among {last:,} against one among {before:,}"
    rows.append(Row("growth", name, "times", each[last] / each[before], aims={"most": 1.1}))
    found = alternate(bench, "growth", {"explorer": 1}, 20, {"seen": 1000})["explorer"]
    fresh_edit, used_edit = found.value("fresh"), found.value("used")
    rows += [
        Row("growth", "explorer, a new text after none", "s", fresh_edit),
        Row("growth", "explorer, a new text after 1,000", "s", used_edit),
        Row("growth", "explorer, after 1,000 against after none", "times",
            used_edit / fresh_edit, aims={"most": 1.1}),
    ]  # fmt: skip
    return rows


def explorer(bench: Bench) -> list[Row]:
    rows = []
    for model, most in (("demo", 0.05),) if bench.quick else (("demo", 0.05), ("full", 0.15)):
        options = {"model": model, "repeats": 5}
        found = alternate(bench, "changes", {"explorer": 1}, 0, options)["explorer"]
        rows += [
            Row("explorer", f"{name}, {model} model", "s", found.value(name))
            for name in found.found
        ]
        if not bench.quick:
            rows += _in_chromium(bench, model, most)
    return rows


def _in_chromium(bench: Bench, model: str, most: float) -> list[Row]:
    name = f"one text edited, in Chromium, {model} model"
    options = {"model": model, "edits": 50}
    try:
        found = alternate(bench, "in_chromium", {"explorer": 1}, 0, options)["explorer"]
    except Failed as error:  # as where there is no Chromium
        return [_failed("explorer", name, error, bench)]
    note = "from its input event to the painted page, without the pause for further typing"
    return [
        Row("explorer", name, "s", found.value("whole"), aims={"most": most}, note=note),
        Row("explorer", f"{name}: the kernel's share", "s", found.value("kernel")),
    ]


def sampling(bench: Bench) -> list[Row]:
    rows, built = [], {}
    for whole, name in ((False, "a sentence"), (True, "an item, image of 8 x 8")):
        found = alternate(bench, "sampling", {"published": 1, "ours": 5}, 5, {"whole": whole})
        built = {side: [m.value("built")] for side, m in found.items()}
        rows.append(_row("sampling", f"draw {name}", "items/s", _rates(found, 100)))
    return [_row("sampling", "build, 50,000 sentences", "s", built), *rows]


CUDA_CASES = (
    "parity", "inference", "files", "pretraining", "resume", "variants", "notebook",
)  # fmt: skip


def cuda(bench: Bench) -> Iterator[Row]:
    """A process for each case, so that one that fails, or fills the memory, costs itself alone."""
    encoders = ({"encoder": "vit"}, {"encoder": "resnet"})
    precisions = ("float32", "bfloat16", "float16") if bench.device == "cuda" else ("float32",)
    names = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
    cases = {
        "parity": encoders,
        "inference": encoders,
        "files": ({},),
        "pretraining": tuple({"precision": name} for name in precisions),
        "resume": ({},),
        "variants": encoders,
        "notebook": tuple({"name": name} for name in (names[:1] if bench.small else names)),
    }
    for case in bench.cases or CUDA_CASES:
        several = cases[case]
        for options in several[:1] if bench.small else several:
            options = {"device": bench.device, "small": bench.small, **options}
            try:
                found = alternate(bench, case, {"cuda": 1}, 0, options)["cuda"].found
            except Failed as error:
                yield _failed("cuda", f"{case} failed", error, bench)
                continue
            sides: dict[tuple[str, str], dict[str, float]] = {}
            for key, (value,) in found.items():
                measure, unit, side = key.split("|")
                sides.setdefault((measure, unit), {})[side] = value
            for names_of, values in sides.items():
                yield Row("cuda", *names_of, **values)


PARTS = {
    "image": image,
    "files": files,
    "modes": modes,
    "text": texts,
    "load": load,
    "reading": reading,
    "loader": loader,
    "step": step,
    "growth": growth,
    "explorer": explorer,
    "sampling": sampling,
    "cuda": cuda,
}


def _failed(part: str, measure: str, error: Failed, bench: Bench) -> Row:
    return Row(part, measure, note=f"{error} (see {bench.log.name})")


def run(name: str, bench: Bench) -> Iterator[Row]:
    """The rows of a part; one row with the reason if it could not be measured."""
    try:
        yield from PARTS[name](bench)
    except Failed as error:
        yield _failed(name, "failed", error, bench)
