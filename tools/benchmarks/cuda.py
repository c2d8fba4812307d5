"""What a GPU gives: throughput by precision, what could make it faster, memory, and equality.

Each case returns {"measure|unit|side": value}. All of them run on any device, and with `small` in a
miniature on the demo model, so that a machine without a GPU can tell whether they still work.
`torch.compile`, CUDA graphs, `channels_last` and weights in half precision are tried here, to see
whether they pay; on a GPU the package does not use them.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
import training
from ours import read_paths, read_prompts
from sides import ROOT
from timing import medians

from medclip_helpers import PromptClassifier, classify_images, load_medclip
from medclip_helpers.engines import PRECISIONS, choose_precision, reduced_precision
from medclip_helpers.losses import ImageTextContrastiveLoss
from medclip_helpers.prompts import process_class_prompts
from medclip_helpers.training.gradient_cache import backward_in_chunks

GIB = 1 << 30
PARITY = ROOT / "tests" / "parity"


def _load(world: Path, encoder: str, device: str, small: bool):
    if small:
        return load_medclip("demo", device)
    return load_medclip(world / f"weights-{encoder}", device)


def _pixels(model, processor, batch: int) -> torch.Tensor:
    channels, size = model.vision_model.config.get("in_chans", 3), processor.image_processor.size
    return torch.rand(batch, channels, size, size, device=model.device)


def _precisions(device: str) -> list[str]:
    """float32 first; a CPU has no float16 that is worth waiting for."""
    return [name for name in PRECISIONS if name != "float16" or device != "cpu"]


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _seconds(device: str, calls: dict[str, Callable], small: bool) -> dict[str, float]:
    """Of one call of each, when it runs many times."""
    rounds, repeats = (1, 1) if small else (5, 5)
    return medians(calls, rounds, repeats, partial(_wait, device))


def _peak(device: str, call: Callable) -> float:
    """GiB allocated on the GPU at most while `call` runs, weights included; 0 on a CPU."""
    if device != "cuda":
        call()
        return 0.0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    call()
    return torch.cuda.max_memory_allocated() / GIB


def inference(world: Path, device: str, small: bool, encoder: str):
    """Classification with ready prompts, beside the backbone alone in the same precision."""
    model, processor = _load(world, encoder, device, small)
    batch = 4 if small else 256
    pixel_values = _pixels(model, processor, batch)
    classifier = PromptClassifier(model, ensemble=True, batch_size=batch)
    backbone = model.vision_model.backbone
    prompts = process_class_prompts(read_prompts(world), processor)

    @torch.inference_mode()
    def call() -> dict[str, float]:
        embeds, found = classifier.encode_prompts(prompts), {}
        for precision in _precisions(device):
            model.precision = precision
            for count, unit in ((1, "ms"), (batch, "images/s")):
                some = pixel_values[:count]

                def bare(some=some, precision=precision):
                    with reduced_precision(precision, device):
                        return backbone(some)

                calls = {
                    "ours": lambda some=some: classifier(some, prompt_embeds=embeds),
                    "bare": bare,
                }
                for side, seconds in _seconds(device, calls, small).items():
                    value = 1000 * seconds if unit == "ms" else count / seconds
                    found[f"{encoder}, batch {count}, {precision}|{unit}|{side}"] = value
            name = f"{encoder}, batch {batch}, {precision}, peak memory"
            found[f"{name}|GiB|ours"] = _peak(device, calls["ours"])
        return found

    return call


def variants(world: Path, device: str, small: bool, encoder: str):
    """Images/s of the image encoder with what might make it faster, beside the same without."""
    model, processor = _load(world, encoder, device, small)
    batch, last = 4 if small else 256, torch.channels_last
    pixel_values = _pixels(model, processor, batch)
    precision = choose_precision("auto", device)

    def run(encode: Callable, values=pixel_values) -> Callable:
        def call():
            with torch.no_grad(), reduced_precision(precision, device):
                return encode(values)

        return call

    def fresh() -> torch.nn.Module:
        return copy.deepcopy(model.vision_model)

    def graph(count: int) -> Callable:
        """The encoder's kernels, recorded once and started together."""
        encode = run(model.vision_model, pixel_values[:count].clone())
        recorded, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                encode()
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(recorded):
            embeds = encode()

        def replay():  # in and out of the memory that was recorded, which is held by what is named
            recorded.replay()
            return encode, embeds

        return replay

    def call() -> dict[str, float]:
        found: dict[str, float] = {}
        half = fresh().to(PRECISIONS[precision])
        halves = pixel_values.to(PRECISIONS[precision])
        many = {
            "plain": run(model.vision_model),
            "channels_last weights": run(fresh().to(memory_format=last)),
            "channels_last weights and pixels": run(
                fresh().to(memory_format=last), pixel_values.contiguous(memory_format=last)
            ),
            f"{precision} weights": lambda: torch.no_grad()(half)(halves),
        }
        one = {"plain": run(model.vision_model, pixel_values[:1])}
        if device == "cuda":
            many["CUDA graph"], one["CUDA graph"] = graph(batch), graph(1)
        if not small:  # a compiler takes a minute
            start = time.perf_counter()
            many["compiled"] = run(torch.compile(fresh()))
            many["compiled"]()
            _wait(device)
            found[f"{encoder}, {precision}, to compile|s|ours"] = time.perf_counter() - start
        for count, unit, calls in ((1, "ms", one), (batch, "images/s", many)):
            seconds = _seconds(device, calls, small)
            for name in calls.keys() - {"plain"}:
                for side, second in (("ours", seconds[name]), ("bare", seconds["plain"])):
                    value = 1000 * second if unit == "ms" else count / second
                    found[f"{encoder}, {precision}, batch {count}, {name}|{unit}|{side}"] = value
        return found

    return call


def files(world: Path, device: str, small: bool):
    """Files to scores, the next batch read meanwhile, beside the encoder on preloaded tensors."""
    model, processor = _load(world, "vit", device, small)
    count = 4 if small else 512
    paths, prompts = read_paths(world, count), read_prompts(world, 1)
    ready = processor(images=paths[:32])["pixel_values"].to(device)

    def encoder() -> None:
        with torch.inference_mode():
            for _ in range(0, count, len(ready)):
                model.encode_image(ready)

    def call() -> dict[str, float]:
        found = {}
        for precision in dict.fromkeys(("float32", choose_precision("auto", device))):
            model.precision = precision
            calls = {
                "ours": lambda: classify_images(model, processor, paths, prompts, progress=False),
                "bare": encoder,
            }
            # as it is used: one call over all files
            seconds = medians(calls, 1 if small else 2, wait=partial(_wait, device))
            name = f"{count} PNG files of 1024 x 1024, {precision}"
            for side, second in seconds.items():
                found[f"{name}|images/s|{side}"] = count / second
            found[f"{name}, peak memory|GiB|ours"] = _peak(device, calls["ours"])
        start = time.perf_counter()
        processor(images=paths)
        found["the same files read and prepared, one thread|images/s|ours"] = count / (
            time.perf_counter() - start
        )
        return found

    return call


def pretraining(world: Path, device: str, small: bool, precision: str):
    """The paper's step, 100 images and as many sentences, beside bare forward and backward."""
    batch = 4 if small else 100
    model, processor = _load(world, "vit", device, small)
    step = training.step_of(
        model, processor, world, steps=4 if small else 12, batch_size=batch, precision=precision,
        device="auto" if device == "cuda" else device,
        num_workers=0 if small else min(16, os.cpu_count() or 1),
    )  # fmt: skip
    pixel_values = _pixels(model, processor, batch)
    inputs = processor(text=json.loads((world / "texts.json").read_text())[:batch])
    reduced = partial(reduced_precision, precision, device)
    context = nullcontext if precision == "float32" else reduced  # training leaves TF32 as it is

    def bare() -> None:
        model.train().zero_grad()
        with context():
            outputs = model(**inputs, pixel_values=pixel_values, return_loss=True)
        outputs.loss.backward()

    def cached() -> None:
        model.train().zero_grad()
        given = {name: part.to(device) for name, part in inputs.items()}
        backward_in_chunks(
            ImageTextContrastiveLoss(model), {**given, "pixel_values": pixel_values}, batch // 4,
            context, torch.Tensor.backward,
        )  # fmt: skip

    def call() -> dict[str, float]:
        shares: dict[str, float] = {}
        name = f"pretraining, batch {batch}, {precision}"
        peak = _peak(device, lambda: shares.update(step()))
        return {
            f"{name}, step beside bare forward and backward|s|ours": shares["seconds"],
            f"{name}, step beside bare forward and backward|s|bare": _seconds(
                device, {"bare": bare}, small
            )["bare"],
            f"{name}, outside forward, backward, optimizer|%|ours": 100 * shares["outside"],
            f"{name}, peak memory|GiB|ours": peak,
            f"{name}, gradients cached in quarters|s|ours": _seconds(
                device, {"ours": cached}, small
            )["ours"],
            f"{name}, gradients cached in quarters, peak memory|GiB|ours": _peak(device, cached),
        }

    return call


def parity(world: Path, device: str, small: bool, encoder: str):
    """Largest difference from what the published package computed on a CPU, in float32."""
    golden = torch.load(PARITY / "golden.pt", weights_only=True)
    model, processor = _load(world, encoder, device, small)
    images = golden["batch_pixel_values"].float()
    if small:  # another model: its own numbers in float32 are the reference
        images = torch.nn.functional.interpolate(images, processor.image_processor.size)

    @torch.inference_mode()
    def logits() -> torch.Tensor:
        texts = model.encode_text(**processor(text=golden["texts"]))
        return model.compute_logits(model.encode_image(images), texts).cpu()

    def call() -> dict[str, float]:
        if small:
            reference = logits()
        else:
            embeds = (golden[encoder][name] for name in ("batch_img_embeds", "text_embeds"))
            reference = model.cpu().compute_logits(*embeds).detach()
            model.to(device)
        found = {}

        def compare(name: str) -> None:
            found[f"{encoder}, largest change of a logit, {name}|logits|ours"] = (
                (logits() - reference).abs().max().item()
            )

        for setting, where in (("highest", "nothing"), ("high", "matmul")):
            torch.set_float32_matmul_precision(setting)
            compare(f"float32, TF32 in {where}")
        torch.set_float32_matmul_precision("highest")
        for precision in _precisions(device)[1:]:
            model.precision = precision
            compare(precision)
        return found

    return call


def resume(world: Path, device: str, small: bool):
    """A run of the demo model killed after a checkpoint and continued, against a run in one go."""
    folder, (steps, every) = world / "resume", (4, 2) if small else (40, 10)
    local = world / "local_data"

    def start(name: str, *more: str) -> subprocess.Popen:
        training = {"output_dir": str(folder / name), "max_steps": steps, "batch_size": 8}
        training |= {"checkpoint_steps": every, "keep_last": 9, "progress": False}
        training |= {"device": "auto" if device == "cuda" else device}
        run = {"model": "demo", "images": [str(local / "dots-meta.csv")]}
        run |= {"sentences": [str(local / "sentence-label.csv")], "training": training}
        file = folder / f"{name}.yaml"
        file.write_text(json.dumps(run))  # JSON is YAML
        command = [sys.executable, "-m", "medclip_helpers", "train", file, *more]
        return subprocess.Popen(command, stdout=sys.stderr)  # ours is the benchmark's

    def weights(name: str, *more: str) -> torch.Tensor:
        if code := start(name, *more).wait():
            raise RuntimeError(f"training {name} ended with code {code}")
        model, _ = load_medclip(folder / name / f"checkpoint-{steps}", "cpu")
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    def call() -> dict[str, float]:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        killed = start("killed")
        while not (folder / "killed" / f"checkpoint-{every}").is_dir():
            if killed.poll() is not None:
                raise RuntimeError(f"training ended with code {killed.returncode}")
            time.sleep(0.01)
        killed.kill()
        killed.wait()
        whole = weights("whole")
        others = {"the same again": weights("again")}
        others["killed and continued"] = weights("killed", "--resume")
        return {
            f"demo model, {steps} steps, {name}: largest change of a weight|of 1|ours": (
                (whole - other).abs().max().item()
            )
            for name, other in others.items()
        }

    return call


def notebook(world: Path, device: str, small: bool, name: str):
    """Seconds from an empty kernel to the last cell, with the notebook's own parameters."""

    def call() -> dict[str, float]:
        import papermill

        folder = world / "notebooks"
        folder.mkdir(exist_ok=True)
        start = time.perf_counter()
        papermill.execute_notebook(
            ROOT / "notebooks" / f"{name}.ipynb", folder / f"{name}.ipynb",
            cwd=folder, kernel_name="python3", progress_bar=False,
        )  # fmt: skip
        return {f"notebook {name}|s|ours": time.perf_counter() - start}

    return call
