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
    """Inside, torch's CPU generator is a function of `key`; afterwards it is restored."""
    with torch.random.fork_rng(devices=[]):
        seed = np.random.SeedSequence(tuple(key)).generate_state(1, np.uint64)[0]
        # Not torch.manual_seed, which would also reseed CUDA's generators.
        torch.default_generator.manual_seed(int(seed >> 1))
        yield


class MedCLIPCollator:
    """Samples into model inputs.

    processor: a `MedCLIPProcessor`. Texts are padded to the longest of the batch and truncated at
        77 tokens, as published; the padding is part of their embedding.
    image_transform: PIL image -> PIL image, with torch's randomness (`image_augmentation`).
    text_transform: (text, numpy Generator) -> text (`TextAugmentation`).
    keep_original: give the texts unchanged, and the transformed ones as `aug_input_ids` and
        `aug_attention_mask`, for the mean of the two losses.
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
        keep_original: bool = False,
    ):
        if keep_original and text_transform is None:
            raise ValueError("keep_original is True, expected a text_transform with it")
        encode_labels(np.zeros(0), absent, uncertain)  # refuses what is not a number
        self.processor = processor
        self.image_transform, self.text_transform = image_transform, text_transform
        self.absent, self.uncertain, self.keep_original = absent, uncertain, keep_original

    def _image(self, item: dict):
        if self.image_transform is None:
            return item["image"]
        with _torch_seed(item["random_key"]):
            return self.image_transform(item["image"])

    def _text(self, item: dict) -> str:
        if self.text_transform is None:
            return item["text"]
        # The extra 1: draws other than those that chose the sentence.
        return self.text_transform(item["text"], np.random.default_rng((*item["random_key"], 1)))

    def fingerprint(self) -> str:
        """A hash of what determines a batch, besides its samples."""
        image_processor = vars(self.processor.image_processor)
        tokenizer = self.processor.tokenizer
        names = "absent", "uncertain", "keep_original"
        states = {name: getattr(self, name) for name in names}
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
        texts = [self._text(item) for item in items]
        given = [item["text"] for item in items] if self.keep_original else texts
        images = [self._image(item) for item in items]
        batch = dict(self.processor(text=given, images=images, truncation="longest_first"))
        if self.keep_original:
            varied = self.processor(text=texts, truncation="longest_first")
            batch |= {f"aug_{name}": part for name, part in varied.items()}
        for name in ("image_labels", "text_labels"):
            labels = np.stack([item[name] for item in items])
            batch[name] = torch.from_numpy(encode_labels(labels, self.absent, self.uncertain))
        return batch
