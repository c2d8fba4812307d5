"""The published package's side. Runs in its own environment: Python 3.11, transformers 4.24.

What it would fetch from the network is put in its place: encoders from their configurations, the
tokenizer from the world's vocabulary. Its calls of `.cuda()` do nothing here.
"""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path

import torch
import transformers
from PIL import Image
from transformers import BertConfig, BertModel, BertTokenizerFast, SwinConfig, SwinModel
from worker import touch_weights


def patch(world: Path) -> None:
    def build(name, **settings):
        if "swin" in name:
            return SwinModel(SwinConfig())
        return BertModel(BertConfig(vocab_size=28996, **settings))

    def tokenizer(name):
        return BertTokenizerFast(str(world / "weights-vit" / "vocab.txt"), do_lower_case=True)

    transformers.AutoModel.from_pretrained = build
    transformers.AutoTokenizer.from_pretrained = tokenizer
    torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *_, **__: self


def _model(folder: str):
    from medclip import MedCLIPModel, MedCLIPVisionModelViT

    model = MedCLIPModel(vision_cls=MedCLIPVisionModelViT)
    model.load_state_dict = partial(fill, model.load_state_dict)
    model.from_pretrained(folder)
    return model.eval()


def fill(load_state_dict, weights: dict) -> None:
    """The stand-ins lack a table that follows from the architecture, and nothing else."""
    missing, left_over = load_state_dict(weights, strict=False)
    wrong = [name for name in missing if not name.endswith("relative_position_index")] + left_over
    if wrong:
        raise ValueError(f"stand-in weights do not fit: {wrong}")


def _classify(world: Path, count: int = 10):
    """Two functions: opened images -> the classifier's inputs -> its outputs.

    count: prompts per class.
    """
    from medclip import MedCLIPProcessor, PromptClassifier
    from medclip.prompts import process_class_prompts

    processor = MedCLIPProcessor()
    classifier = PromptClassifier(_model(str(world / "weights-vit")), ensemble=True).eval()
    prompts = json.loads((world / "prompts.json").read_text())
    prompt_inputs = process_class_prompts({name: some[:count] for name, some in prompts.items()})

    def prepare(images):
        inputs = processor(images=images, return_tensors="pt")
        return {"pixel_values": inputs["pixel_values"], "prompt_inputs": prompt_inputs}

    return prepare, torch.no_grad()(classifier)


def one_image(world: Path, precision: str):
    patch(world)
    prepare, classifier = _classify(world)
    inputs = prepare([Image.open(world / "images" / "00.png")])
    return lambda: classifier(**inputs)["logits"]


def files(world: Path, count: int, prompts: int, precision: str):
    patch(world)
    prepare, classifier = _classify(world, prompts)
    paths = sorted((world / "images").iterdir())

    def call():
        for start in range(0, count, 32):
            batch = [paths[i % len(paths)] for i in range(start, min(count, start + 32))]
            classifier(**prepare([Image.open(path) for path in batch]))

    return call


def texts(world: Path, count: int):
    patch(world)
    from medclip import MedCLIPProcessor

    model, processor = _model(str(world / "weights-vit")), MedCLIPProcessor()
    lines = json.loads((world / "texts.json").read_text())[:count]

    @torch.no_grad()
    def call():
        for start in range(0, count, 64):
            batch = lines[start : start + 64]
            inputs = processor(text=batch, return_tensors="pt", padding=True, truncation=True)
            model.encode_text(inputs["input_ids"], inputs["attention_mask"])

    return call


def load(world: Path, warm: bool, url: str, scratch: str):
    patch(world)
    from medclip import constants

    constants.PRETRAINED_URL_MEDCLIP_VIT = f"{url}/address.txt"
    folder = world / "weights-vit" if warm else f"{scratch}/published"
    return lambda: touch_weights(_model(str(folder)))


def loader(world: Path, count: int):
    patch(world)
    from medclip.dataset import ImageTextContrastiveCollator, ImageTextContrastiveDataset

    dataset = ImageTextContrastiveDataset(["images"])
    batches = torch.utils.data.DataLoader(
        torch.utils.data.Subset(dataset, range(count)),
        batch_size=50,
        collate_fn=ImageTextContrastiveCollator(use_eda=False),
    )
    return lambda: sum(len(batch["pixel_values"]) for batch in batches)


def sampling(world: Path, whole: bool):
    patch(world)
    from medclip.dataset import ImageTextContrastiveDataset

    start = time.perf_counter()
    dataset = ImageTextContrastiveDataset(["dots"])
    built = time.perf_counter() - start

    def call():
        for i in range(100):
            dataset[i] if whole else dataset.sample_sent_prompts(dataset.df.iloc[i])
        return {"built": built}

    return call
