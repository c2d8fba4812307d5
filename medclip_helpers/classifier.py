"""Zero-shot classification: compare an image with prompts that describe each class."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from operator import length_hint
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from .model import MedCLIPModel
from .processor import BATCH_SIZE, MedCLIPProcessor
from .prompts import process_class_prompts
from .similarity import EncodedBatch, encode_batches, eval_mode

if TYPE_CHECKING:
    import pandas


class PromptClassifier(nn.Module):
    """Scores images against several prompts per class.

    model: a `MedCLIPModel`.
    ensemble: a class's score is the mean over its prompts; otherwise, as published, the maximum.
    batch_size: images, and prompts of a class, encoded at once, whatever number is given.

    Nothing is kept between calls: where the same prompts serve many images, encode them once with
    `encode_prompts` and pass them as `prompt_embeds`.
    """

    def __init__(self, model: MedCLIPModel, ensemble: bool = False, batch_size: int = BATCH_SIZE):
        super().__init__()
        self.model = model
        self.ensemble = ensemble
        self.batch_size = batch_size

    def encode_prompts(
        self, prompt_inputs: Mapping[str, Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """{class: {"input_ids", "attention_mask"} (prompts, tokens)} -> {class: (prompts, dim)}."""
        if not prompt_inputs:
            raise ValueError("prompt_inputs is empty: expected {class name: tokenised prompts}")
        embeds = {}
        for name, inputs in prompt_inputs.items():
            parts = (inputs[key].split(self.batch_size) for key in ("input_ids", "attention_mask"))
            batches = zip(*parts, strict=True)
            embeds[name] = torch.cat([self.model.encode_text(*batch) for batch in batches])
        return embeds

    def score(self, image_embeds: Tensor, prompt_embeds: Mapping[str, Tensor]) -> dict:
        """What `forward` returns, from embeddings.

        image_embeds: (images, dim), unit length, on any device. prompt_embeds: {class: (prompts,
            dim)} from `encode_prompts`.
        """
        text_embeds = torch.cat(list(prompt_embeds.values()))
        logits = self.model.compute_logits(image_embeds.to(text_embeds.device), text_embeds)
        by_class = logits.split([len(embeds) for embeds in prompt_embeds.values()], dim=1)
        reduced = [part.mean(1) if self.ensemble else part.amax(1) for part in by_class]
        return {
            "logits": torch.stack(reduced, dim=1),
            "class_names": list(prompt_embeds),
            "prompt_logits": dict(zip(prompt_embeds, by_class, strict=True)),
        }

    def forward(
        self,
        pixel_values: Tensor,
        prompt_inputs: Mapping[str, Mapping[str, Tensor]] | None = None,
        prompt_embeds: Mapping[str, Tensor] | None = None,
        **unused,
    ) -> dict:
        """Classify images.

        pixel_values: (images, 1 or 3, height, width).
        prompt_inputs: {class: tokenised prompts}, from `prompts.process_class_prompts`.
        prompt_embeds: {class: (prompts, dim)} from `encode_prompts`, instead of prompt_inputs.
        unused: other keys of a processor's output are accepted and ignored.

        Returns `logits` (images, classes), scaled cosine similarities; `class_names`, a list in the
        order of the columns; `prompt_logits`, {class: (images, prompts)}.
        """
        if prompt_embeds is None:
            prompt_embeds = self.encode_prompts(prompt_inputs or {})
        batches = pixel_values.split(self.batch_size)
        image_embeds = torch.cat([self.model.encode_image(batch) for batch in batches])
        return self.score(image_embeds, prompt_embeds)


def classify_images(
    model: MedCLIPModel,
    processor: MedCLIPProcessor,
    images: Iterable,
    prompts: Mapping[str, Sequence[str]],
    *,
    ensemble: bool = True,
    spread: bool = False,
    strict: bool = False,
    batch_size: int | None = None,
    progress: bool = True,
) -> pandas.DataFrame:
    """Classify many radiographs; one that cannot be read affects only its own row.

    images: what `read_radiograph` takes: paths, PIL images, arrays. From a generator, an
        image is taken only when its turn comes.
    prompts: {class: [prompt, ...]}, e.g. from `prompts.load_class_prompts`.
    ensemble: mean over a class's prompts, otherwise their maximum.
    spread: also give the standard deviation over each class's prompts, as "<class> sd".
    strict: raise the error of the first image that cannot be read, instead of giving it a row.
    batch_size: images encoded at once (see `processor.read_batches`).

    Returns one row per image: `image` (its path, or its place in `images`), a score for each class
    (scaled cosine similarity), `predicted` (the class with the highest score), `status` ("ok", or
    why there are no scores: the image could not be read, or the model gives no finite ones) and
    `note` ("blank" for an image of uniform brightness, whose scores mean nothing, else empty).
    """
    import pandas as pd

    if isinstance(images, (str, os.PathLike)):
        raise ValueError(f"images is one path, {images}: expected a list (see `find_radiographs`)")
    if not isinstance(images, Iterable) or isinstance(images, (Mapping, pd.DataFrame)):
        raise ValueError(
            f"images is a {type(images).__name__}: expected a list of radiographs (of a table, the "
            "column with their paths)"
        )
    taken = {"image", "predicted", "status", "note"}
    taken |= {f"{name} sd" for name in prompts} if spread else set()
    if reserved := taken & set(prompts):
        raise ValueError(f"class name {sorted(reserved)[0]!r} is taken by a column of the result")
    classifier = PromptClassifier(model, ensemble)
    rows: list[dict] = []
    bar = tqdm(total=length_hint(images, 0) or None, unit="image", disable=not progress)
    reading = closing(encode_batches(model, processor, images, batch_size))
    with eval_mode(model), torch.no_grad(), bar, reading as batches:
        prompt_embeds = classifier.encode_prompts(process_class_prompts(prompts, processor))
        for batch in batches:
            for error in batch.errors.values() if strict else ():
                raise error
            outputs = classifier.score(batch.embeds, prompt_embeds) if len(batch.embeds) else {}
            rows += _rows(batch, outputs, len(rows), list(prompts), spread)
            bar.update(len(batch.images))
    if not rows:
        raise ValueError("images is empty: expected at least one radiograph")
    return pd.DataFrame(rows)


def _rows(
    batch: EncodedBatch, outputs: Mapping, start: int, names: list[str], spread: bool
) -> Iterator[dict]:
    """A row for each image of the batch; `start`: the place of its first one."""
    columns = [*names, *(f"{name} sd" for name in names if spread)]
    scores: Iterator[list[float]] = iter(())
    if outputs:
        parts = [outputs["logits"]]
        if spread:
            deviations = [part.std(1, correction=0) for part in outputs["prompt_logits"].values()]
            parts.append(torch.stack(deviations, dim=1))
        scores = iter(torch.cat(parts, dim=1).tolist())
    for place, image in enumerate(batch.images):
        row: dict = {
            "image": str(image) if isinstance(image, (str, os.PathLike)) else start + place
        }
        row |= dict.fromkeys([*columns, "predicted"])
        row |= {"status": "ok", "note": "blank" if place in batch.blank else ""}
        if error := batch.errors.get(place):
            row["status"] = str(error)
        elif all(map(math.isfinite, values := next(scores))):
            row |= zip(columns, values, strict=True)
            row["predicted"] = max(names, key=row.__getitem__)
        else:
            row["status"] = "the model gives no finite score"
        yield row
