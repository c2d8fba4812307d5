"""This package's side, with weights of the published size unless it says "demo"."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from worker import touch_weights

from medclip_helpers import MedCLIPProcessor, PromptClassifier, classify_images, load_medclip
from medclip_helpers.prompts import process_class_prompts


def load_full(world: Path, **how):
    return load_medclip(world / "weights-vit", device="cpu", **how)


def read_prompts(world: Path, count: int = 10) -> dict[str, list[str]]:
    """The first `count` prompts of each of five classes."""
    prompts = json.loads((world / "prompts.json").read_text())
    return {name: some[:count] for name, some in prompts.items()}


def read_paths(world: Path, count: int) -> list[Path]:
    paths = sorted((world / "images").iterdir())
    return list(itertools.islice(itertools.cycle(paths), count))


def one_image(world: Path, precision: str):
    model, processor = load_full(world, precision=precision)
    classifier = PromptClassifier(model, ensemble=True)
    pixel_values = processor(images=read_paths(world, 1))["pixel_values"]
    prompt_inputs = process_class_prompts(read_prompts(world), processor)
    embeds: dict = {}  # of the prompts, encoded in the first call, as whoever has many images does

    def call():
        with torch.inference_mode():
            embeds.update(embeds or classifier.encode_prompts(prompt_inputs))
            return classifier(pixel_values, prompt_embeds=embeds)["logits"]

    return call


def files(world: Path, count: int, prompts: int, precision: str):
    model, processor = load_full(world, precision=precision)
    settings = {"prompts": read_prompts(world, prompts), "strict": True, "progress": False}
    paths = read_paths(world, count)
    return lambda: classify_images(model, processor, paths, **settings)


def texts(world: Path, count: int):
    from medclip_helpers.similarity import encode_texts

    model, processor = load_full(world)
    lines = json.loads((world / "texts.json").read_text())[:count]
    return lambda: encode_texts(model, processor, lines)


def load(world: Path, warm: bool, url: str, scratch: str):
    def call():
        model, _ = load_medclip("vit", "cpu", cache_dir=f"{scratch}/ours", mirror=url)
        return touch_weights(model)

    return call


def read_dataset(world: Path, images: str):
    from medclip_helpers.data import UnpairedDataset, read_manifest, read_sentences

    local = world / "local_data"
    return UnpairedDataset(
        read_manifest(local / f"{images}-meta.csv"), read_sentences(local / "sentence-label.csv")
    )


def loader(world: Path, count: int):
    from medclip_helpers.data import MedCLIPCollator

    processor = MedCLIPProcessor.from_pretrained(world / "weights-vit")
    batches = torch.utils.data.DataLoader(
        torch.utils.data.Subset(read_dataset(world, "images"), range(count)),
        batch_size=50,
        collate_fn=MedCLIPCollator(processor),
    )
    return lambda: sum(len(batch["pixel_values"]) for batch in batches)


def sampling(world: Path, whole: bool):
    start = time.perf_counter()
    dataset = read_dataset(world, "dots")
    built, rng = time.perf_counter() - start, np.random.default_rng(0)

    def call():
        for i in range(100):
            dataset[i] if whole else dataset.sample_text(i, rng)
        return {"built": built}

    return call


def growth(world: Path, count: int):
    """`count` drawn images through the demo model, from files of its own size."""
    model, processor = load_medclip("demo", device="cpu")
    small = world / "small"
    if not small.is_dir():
        small.mkdir()
        for path in read_paths(world, 32):
            Image.open(path).resize((112, 112)).save(small / path.name)
    paths = list(itertools.islice(itertools.cycle(sorted(small.iterdir())), count))
    settings = {"prompts": read_prompts(world), "strict": True, "progress": False}
    # The largest counts are called once: what a first call sets up is not to be theirs.
    classify_images(model, processor, paths[:10], **settings)
    return lambda: classify_images(model, processor, paths, **settings)
