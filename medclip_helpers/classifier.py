"""Zero-shot classification: compare an image with prompts that describe each class."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from operator import length_hint
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from .model import MedCLIPModel
from .processor import BATCH_SIZE, MedCLIPProcessor, read_batches
from .prompts import process_class_prompts

if TYPE_CHECKING:
    import pandas


class PromptClassifier(nn.Module):
    """Scores images against several prompts a class.

    model: a `MedCLIPModel`.
    ensemble: a class scores the mean over its prompts; otherwise their maximum.
    batch_size: images, and prompts of a class, encoded at once, whatever number is given.

    In eval mode the embeddings of the prompts are computed once, without gradients, and kept until
    the prompts or the text encoder's weights change. In train mode nothing is kept.
    """

    def __init__(self, model: MedCLIPModel, ensemble: bool = True, batch_size: int = BATCH_SIZE):
        super().__init__()
        self.model = model
        self.ensemble = ensemble
        self.batch_size = batch_size
        self._cache: tuple[object, dict[str, Tensor]] | None = None

    def train(self, mode: bool = True):
        self._cache = None
        return super().train(mode)

    def encode_prompts(
        self, prompt_inputs: Mapping[str, Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """{class: {"input_ids", "attention_mask"} (prompts, tokens)} -> {class: (prompts, dim)}."""
        if not prompt_inputs:
            raise ValueError("prompt_inputs is empty: expected {class name: tokenised prompts}")
        if self.model.training:
            self._cache = None
            return self._encode_prompts(prompt_inputs)
        key = (self._weights_state(), self._prompts_state(prompt_inputs))
        if self._cache is None or self._cache[0] != key:
            # inference_mode(False): what is kept may later be used where gradients are recorded.
            with torch.inference_mode(False), torch.no_grad():
                self._cache = (key, self._encode_prompts(prompt_inputs))
        return self._cache[1]

    def _encode_prompts(self, prompt_inputs) -> dict[str, Tensor]:
        return {
            name: torch.cat(
                [
                    self.model.encode_text(input_ids, mask)
                    for input_ids, mask in zip(
                        inputs["input_ids"].split(self.batch_size),
                        inputs["attention_mask"].split(self.batch_size),
                        strict=True,
                    )
                ]
            )
            for name, inputs in prompt_inputs.items()
        }

    def _weights_state(self) -> tuple:
        # PyTorch counts each in-place change of a tensor; a move to another device gives a new one.
        return tuple((p.data_ptr(), p._version) for p in self.model.text_model.parameters())

    @staticmethod
    def _prompts_state(prompt_inputs) -> tuple:
        return tuple(
            (name, inputs[part].shape, inputs[part].cpu().numpy().tobytes())
            for name, inputs in prompt_inputs.items()
            for part in ("input_ids", "attention_mask")
        )

    def forward(
        self, pixel_values: Tensor, prompt_inputs: Mapping[str, Mapping[str, Tensor]], **unused
    ) -> dict:
        """Classify images.

        pixel_values: (images, 1 or 3, height, width).
        prompt_inputs: {class: tokenised prompts}, from `prompts.process_class_prompts`.
        unused: other keys of a processor's output are accepted and ignored.

        Returns `logits` (images, classes), scaled cosine similarities; `class_names`, a list in the
        order of the columns; `prompt_logits`, {class: (images, prompts)}.
        """
        embeds = self.encode_prompts(prompt_inputs)
        text_embeds = torch.cat(list(embeds.values()))
        logits = torch.cat(
            [
                self.model.compute_logits(self.model.encode_image(batch), text_embeds)
                for batch in pixel_values.split(self.batch_size)
            ]
        )
        by_class = logits.split([len(e) for e in embeds.values()], dim=1)
        reduced = [part.mean(1) if self.ensemble else part.amax(1) for part in by_class]
        return {
            "logits": torch.stack(reduced, dim=1),
            "class_names": list(embeds),
            "prompt_logits": dict(zip(embeds, by_class, strict=True)),
        }


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
    """Classify many radiographs; one that cannot be read costs its own row and nothing else.

    images: what `read_radiograph` takes: paths, PIL images, arrays. A generator is asked for an
        image only when its turn comes.
    prompts: {class: [prompt, ...]}, e.g. from `prompts.load_class_prompts`.
    ensemble: mean over a class's prompts, otherwise their maximum.
    spread: also give the standard deviation over each class's prompts, as "<class> sd".
    strict: raise the error of the first image that cannot be read, instead of giving it a row.
    batch_size: images encoded at once (see `processor.read_batches`).

    Returns one row an image: `image` (its path, or its place in `images`), a score for each class
    (scaled cosine similarity), `predicted` (the class with the highest score) and `status` ("ok",
    or why the image could not be read; its scores are then missing).
    """
    import pandas as pd

    if isinstance(images, (str, os.PathLike)):
        raise ValueError(f"images is one path, {images}: expected a list (see `find_radiographs`)")
    if reserved := {"image", "predicted", "status"} & set(prompts):
        raise ValueError(f"class name {sorted(reserved)[0]!r} is taken by a column of the result")
    classifier = PromptClassifier(model.eval(), ensemble, batch_size or BATCH_SIZE)
    prompt_inputs = process_class_prompts(prompts, processor.tokenizer)
    rows = []
    bar = tqdm(total=length_hint(images, 0) or None, unit="image", disable=not progress)
    batches = read_batches(processor, images, model.device, batch_size)
    with bar, closing(batches), torch.no_grad():
        for batch in batches:
            rows += _classify_batch(classifier, batch, len(rows), prompt_inputs, spread, strict)
            bar.update(len(batch))
    if not rows:
        raise ValueError("images is empty: expected at least one radiograph")
    return pd.DataFrame(rows)


def _classify_batch(classifier, batch, start, prompt_inputs, spread, strict) -> list[dict]:
    rows, readable = [], []
    for place, (image, inputs) in enumerate(batch, start):
        is_path = isinstance(image, str) or hasattr(image, "__fspath__")
        row = {"image": str(image) if is_path else place}
        row |= dict.fromkeys(prompt_inputs)
        if spread:
            row |= {f"{name} sd": None for name in prompt_inputs}
        row |= {"predicted": None, "status": "ok"}
        rows.append(row)
        try:
            readable.append((row, inputs.result()["pixel_values"]))
        except (OSError, ValueError) as error:
            if strict:
                raise
            row["status"] = str(error)
    if not readable:
        return rows
    outputs = classifier(torch.cat([pixels for _, pixels in readable]), prompt_inputs)
    names, logits = outputs["class_names"], outputs["logits"].tolist()
    if spread:
        parts = outputs["prompt_logits"].values()
        deviations = torch.stack([part.std(1, correction=0) for part in parts], dim=1).tolist()
    for i, (row, _) in enumerate(readable):
        row |= zip(names, logits[i], strict=True)
        row["predicted"] = max(names, key=row.get)
        if spread:
            row |= zip((f"{name} sd" for name in names), deviations[i], strict=True)
    return rows
