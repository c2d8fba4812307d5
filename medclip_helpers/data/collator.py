"""The collator: samples of a dataset into one batch of model inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from ..hub import fingerprint
from .labels import encode_labels


@contextmanager
def _torch_seed(key: Iterable[int]):
    """Inside, torch's CPU generator is a function of `key`; afterwards it is as it was."""
    with torch.random.fork_rng(devices=[]):
        seed = np.random.SeedSequence(tuple(key)).generate_state(1, np.uint64)[0]
        # Not torch.manual_seed, which would also reseed CUDA's generators.
        torch.default_generator.manual_seed(int(seed >> 1))
        yield


class MedCLIPCollator:
    """Samples into model inputs.

    processor: a `MedCLIPProcessor`. Texts are padded to the longest of the batch and cut at 77
        tokens, as published; the padding is part of their embedding.
    image_transform: PIL image -> PIL image, with torch's randomness (`image_augmentation`).
    text_transform: (text, numpy Generator) -> text (`TextAugmentation`).
    absent, uncertain: what these states count as, see `encode_labels`.

    Transforms draw from the sample's `random_key`, so a sample is the same in any batch and worker.

    Returns {"pixel_values" (batch, 1, size, size), "input_ids", "attention_mask" (batch, tokens),
    "image_labels", "text_labels" (batch, 14) float32}.
    """

    def __init__(
        self,
        processor,
        image_transform: Callable | None = None,
        text_transform: Callable | None = None,
        absent: float = 0.0,
        uncertain: float = 0.0,
    ):
        self.processor = processor
        self.image_transform, self.text_transform = image_transform, text_transform
        self.absent, self.uncertain = absent, uncertain

    def _image(self, item: dict):
        if self.image_transform is None:
            return item["image"]
        with _torch_seed(item["random_key"]):
            return self.image_transform(item["image"])

    def _text(self, item: dict) -> str:
        if self.text_transform is None:
            return item["text"]
        # The extra 1: other draws than those that chose the sentence.
        return self.text_transform(item["text"], np.random.default_rng((*item["random_key"], 1)))

    def fingerprint(self) -> str:
        """A hash of what a batch follows from, besides its samples."""
        image_processor = vars(self.processor.image_processor)
        tokenizer = self.processor.tokenizer
        states = {"absent": self.absent, "uncertain": self.uncertain}
        transforms: list = [self.image_transform, self.text_transform]
        transforms += [vars(t) for t in transforms if hasattr(t, "__dict__")]
        words = sorted(tokenizer.get_vocab().items())
        return fingerprint(image_processor, words, states, transforms)

    def __call__(self, items: list[dict]) -> dict[str, torch.Tensor]:
        wanted = ("image", "text", "image_labels", "text_labels", "random_key")
        if (
            not isinstance(items, Sequence)
            or not items
            or not all(isinstance(i, Mapping) and i.keys() >= {*wanted} for i in items)
        ):
            raise ValueError(f"expected a list of samples, each with {wanted}")
        batch = dict(
            self.processor(
                text=[self._text(item) for item in items],
                images=[self._image(item) for item in items],
                truncation="longest_first",
            )
        )
        for name in ("image_labels", "text_labels"):
            labels = np.stack([item[name] for item in items])
            batch[name] = torch.from_numpy(encode_labels(labels, self.absent, self.uncertain))
        return batch
