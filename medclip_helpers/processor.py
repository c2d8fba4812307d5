"""Images and texts in, tensors out, as the published weights expect them."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature, BertTokenizer

from .constants import IMAGE_MEAN, IMAGE_SIZE, IMAGE_STD, MAX_TEXT_TOKENS
from .hub import load_tokenizer, write_text
from .radiographs import open_radiograph, read_radiograph, to_square, users_line, warn_user

RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
MAX_READERS = 16  # threads that read images
# Images encoded at once. A CPU is fastest while a batch's activations stay small: on two cores
# Swin-T encoded 18 images/s in batches of 8, and 10 to 14 in batches of 32 (torch 2.11).
BATCH_SIZE, CPU_BATCH_SIZE = 64, 8
# A tokenizer's settings for a call are its state: two threads would see each other's.
_TOKENIZING = threading.RLock()
MAX_IMAGE_SIZE = 4096  # pixels a side; a damaged config file must not ask for gigabytes


class MedCLIPImageProcessor:
    """Pad to a square with black, resize to `size` pixels a side, normalise.

    The published steps, for one grey channel; the model repeats it where its encoder has three.
    resample: "bicubic", as the published processor, or "bilinear", as the authors' evaluation.
    """

    def __init__(
        self,
        size: int = IMAGE_SIZE,
        mean: float = IMAGE_MEAN,
        std: float = IMAGE_STD,
        resample: str = "bicubic",
    ):
        if not isinstance(size, int) or not 1 <= size <= MAX_IMAGE_SIZE:
            raise ValueError(f"size is {size!r}, expected 1 to {MAX_IMAGE_SIZE} pixels")
        numbers = all(isinstance(value, (int, float)) for value in (mean, std))
        if not numbers or not math.isfinite(mean) or not 0 < std < math.inf:
            raise ValueError(f"mean is {mean!r} and std {std!r}, expected numbers, and std above 0")
        if resample not in list(RESAMPLING):
            raise ValueError(f"resample is {resample!r}, expected one of {list(RESAMPLING)}")
        self.size, self.mean, self.std, self.resample = size, mean, std, resample

    def square(self, image: Image.Image) -> Image.Image:
        """The image (mode "L") centred on a black square of at least `size` pixels, resized."""
        padded = to_square(image, self.size)
        return padded.resize((self.size, self.size), RESAMPLING[self.resample])

    def __call__(self, images) -> torch.Tensor:
        """One radiograph or a sequence of them -> (images, 1, size, size) float32.

        Each is what `read_radiograph` takes; an array or tensor of 2 or 3 axes is one of them.
        """
        if (
            isinstance(images, (str, os.PathLike, Image.Image))
            or hasattr(images, "read")
            or getattr(images, "ndim", 0) in (2, 3)
        ):
            images = [images]
        grey = [np.asarray(self.square(read_radiograph(image)), np.float32) for image in images]
        if not grey:
            raise ValueError("images is empty: expected at least one radiograph")
        pixels = (np.stack(grey) / 255 - self.mean) / self.std
        return torch.from_numpy(pixels.astype(np.float32)).unsqueeze(1)


class MedCLIPProcessor:
    """Turns texts and radiographs into model inputs.

    image_processor: by default the published one.
    tokenizer: by default the published one; its vocabulary is fetched with the first text
        (`cache_dir` and `mirror` as in `hub.load_tokenizer`).
    """

    def __init__(
        self,
        image_processor: MedCLIPImageProcessor | None = None,
        tokenizer=None,
        cache_dir: str | Path | None = None,
        mirror: str | None = None,
    ):
        self.image_processor = image_processor or MedCLIPImageProcessor()
        self._tokenizer = tokenizer
        self._tokenizer_source = {"cache_dir": cache_dir, "mirror": mirror}

    @property
    def tokenizer(self):
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(**self._tokenizer_source)
        return self._tokenizer

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        images=None,
        return_tensors: str = "pt",
        padding: bool | str = True,
        truncation: bool | str = True,
        max_length: int = MAX_TEXT_TOKENS,
    ) -> BatchFeature:
        """Inputs for `MedCLIPModel`, for texts, images or both.

        text: one text or several; `padding=True` pads to the longest of them, which is part of a
            text's embedding (see `MedCLIPTextModel`). Longer texts are cut at `max_length` tokens,
            with a warning; `truncation="longest_first"` does so without one, and False leaves them
            whole.
        images: one radiograph or several: paths, open files, PIL images, arrays or tensors; of the
            last two, 2 or 3 axes are one image and 4 are a batch.

        Returns `input_ids`, `attention_mask` (texts, tokens) and `pixel_values`
        (images, 1, size, size). Raises ValueError where there is neither or an empty list, and
        what `read_radiograph` raises.
        """
        if text is None and images is None:
            raise ValueError("nothing to process: expected text, images or both")
        if return_tensors != "pt":
            raise ValueError(f"return_tensors={return_tensors!r}: only 'pt' is supported")
        features = {}
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            if not texts or not all(isinstance(t, str) for t in texts):
                raise ValueError(f"text must be a string or a non-empty list of them, got {text!r}")
            with _TOKENIZING:
                encoded = self.tokenizer(
                    texts,
                    padding=padding,
                    truncation=truncation,
                    max_length=max_length if truncation else None,
                    return_tensors="pt",
                )
            pieces = encoded.encodings or []
            cut = [texts[i] for i, piece in enumerate(pieces) if piece.overflowing]
            if cut and truncation is True:
                warn_user(
                    f"{len(cut)} of {len(texts)} texts are longer than {max_length} word pieces "
                    f"and were truncated; the first is “{cut[0][:60]}…”"
                )
            features["input_ids"] = encoded["input_ids"]
            features["attention_mask"] = encoded["attention_mask"]
        if images is not None:
            features["pixel_values"] = self.image_processor(images)
        return BatchFeature(features)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `preprocessor_config.json` and the tokenizer's files."""
        config = json.dumps(vars(self.image_processor), indent=2)
        write_text(Path(folder) / "preprocessor_config.json", config)
        self.tokenizer.save_pretrained(folder)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, whole: bool = False, **tokenizer_source
    ) -> MedCLIPProcessor:
        """What `save_pretrained` wrote; parts that the folder lacks are the published ones.

        whole: refuse a folder that lacks a part.

        Raises ValueError naming the folder for a part that cannot be read, or is not there.
        """
        folder = Path(folder)
        config = folder / "preprocessor_config.json"
        has_tokenizer = any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt"))
        if whole and not (config.is_file() and has_tokenizer):
            lacking = "tokenizer" if config.is_file() else "preprocessor_config.json"
            raise ValueError(
                f"{folder} holds a model but no {lacking}: save its processor there as well, "
                "processor.save_pretrained(folder)"
            )
        image_processor = tokenizer = None
        try:
            if config.is_file():
                image_processor = MedCLIPImageProcessor(**json.loads(config.read_text()))
            if has_tokenizer:
                tokenizer = BertTokenizer.from_pretrained(folder)
        except Exception as error:  # tokenizers raises nothing more specific
            raise ValueError(f"{folder} holds a damaged processor: {error}") from error
        return cls(image_processor, tokenizer, **tokenizer_source)


def _prepare(processor: MedCLIPProcessor, image, line: tuple[str, int]) -> dict:
    """`pixel_values` (1, 1, size, size), and whether the image is `blank`: of uniform brightness.

    line: where warnings point, because a thread does not know who asked for the image.
    """
    with open_radiograph(image, line) as picture:
        return {**processor(images=[picture]), "blank": _is_blank(picture)}


def _is_blank(picture: Image.Image) -> bool:
    # Nearly always a few of the pixels suffice, in a hundredth of the time.
    some = picture.resize((64, 64), Image.Resampling.NEAREST)
    return all(len(set(one.getextrema())) == 1 for one in (some, picture))


def read_batches(
    processor: MedCLIPProcessor,
    images: Iterable,
    device: torch.device,
    batch_size: int | None = None,
) -> Generator[list[tuple[object, Future]]]:
    """Batches of (image, future of its inputs), in order, read by threads.

    images: each is what `read_radiograph` takes; it is fetched only when its turn comes.
    device: where the model runs. Beside a GPU the next batch is read while the model works. A CPU
        does one after the other, each with all cores: the model's threads wait for the slowest of
        them, so that reading meanwhile would hold up all of them.
    batch_size: by default 8 on a CPU, 64 elsewhere.

    A future's `result()` is `pixel_values` (1, 1, size, size) and `blank`, or raises what
    `read_radiograph` raised; the first batch raises ValueError for a `batch_size` below 1. Closing
    the generator, as `contextlib.closing` does, drops what is still waiting to be read.
    """
    on_cpu = device.type == "cpu"
    if batch_size is None:
        batch_size = CPU_BATCH_SIZE if on_cpu else BATCH_SIZE
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected at least 1")
    images, line = iter(images), users_line()
    readers = ThreadPoolExecutor(MAX_READERS if on_cpu else min(MAX_READERS, os.cpu_count() or 1))

    def start_reading():
        batch = islice(images, batch_size)
        return [(image, readers.submit(_prepare, processor, image, line)) for image in batch]

    try:
        batch = start_reading()
        while batch:
            following = None if on_cpu else start_reading()
            yield batch
            batch = start_reading() if on_cpu else following
    finally:
        readers.shutdown(cancel_futures=True)
