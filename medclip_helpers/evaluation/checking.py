"""Are my numbers right? Each part of a loaded model against numbers that need no download."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn

from ..constants import PUBLISHED_NOTE, UNTRAINED_NOTE, VOCABULARY_SIZE
from ..hub import DownloadError, describe_weights, fetch_example, read_settings
from ..model import MAX_LOGIT_SCALE, MedCLIPModel
from ..processor import MedCLIPProcessor
from ..prompts import process_class_prompts
from ..similarity import eval_mode

TOLERANCE = 1e-4  # of embeddings in float32; bfloat16 is off by some 1e-2


def _picture() -> np.ndarray:
    """A fixed picture, (241, 320) uint8: waves with edges, so that each way to resize it shows."""
    y, x = np.mgrid[:241, :320]
    return ((x * x // 7 + y * 5 + 60 * ((x // 16 + y // 16) % 2)) % 256).astype(np.uint8)


@torch.no_grad()
def check_numbers(model: MedCLIPModel, processor: MedCLIPProcessor) -> pd.DataFrame:
    """A row per part: `part`, `expected`, `found`, `verdict` ("ok", "wrong" or "not checked").

    `meaning` says what is probably wrong with a part. The model is used in eval mode, and left as
    it was. Rows "not checked" hold what users report of the published weights; the README's
    example is computed for comparison, where its picture can be fetched.
    """
    known = read_settings(Path(__file__).with_suffix(".yaml"))
    with eval_mode(model):
        rows = [
            _preprocessing(processor),
            _vocabulary(model, processor, known["special_tokens"]),
            _padding(processor, known["prompts"]),
            _pooling(model, processor, known["sentences"]),
            _precision(model),
            _temperature(model),
            _projection(model),
        ]
        sha256 = describe_weights(model)["sha256"]
        if sha256 in known["recorded"]:
            rows.append(_recorded(model, processor, known["sentences"], known["recorded"][sha256]))
        found = {"README's example, users' logits": _example(model, processor, known["example"])}
    weights = "weights", "", sha256, "not checked", model.note
    reported = [
        (name, text, found.get(name, ""), "not checked", "")
        for name, text in known["reported"].items()
    ]
    columns = ["part", "expected", "found", "verdict", "meaning"]
    return pd.DataFrame([weights, *rows, *reported], columns=columns)


def _row(part: str, expected: object, found: object, right: bool, meaning: str) -> tuple:
    verdict = "ok" if right else "wrong"
    return part, str(expected), str(found), verdict, "" if right else meaning


def _preprocessing(processor: MedCLIPProcessor) -> tuple:
    # The steps are written out: a check that called what it checks could not fail.
    made = processor.image_processor
    picture = Image.fromarray(_picture())
    side = max(*picture.size, made.size)
    square = Image.new("L", (side, side))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    short = min(picture.size)
    left, top = (picture.width - short) // 2, (picture.height - short) // 2
    cropped = picture.crop((left, top, left + short, top + short))

    def pixels(image: Image.Image, filter_: Image.Resampling) -> np.ndarray:
        resized = np.asarray(image.resize((made.size, made.size), filter_), np.float32)
        return (resized / 255 - made.mean) / made.std

    found = made([picture])[0, 0].numpy()
    ways = {
        "as published": pixels(square, Image.Resampling.BICUBIC),
        "it is resized bilinearly, not bicubically": pixels(square, Image.Resampling.BILINEAR),
        "it is cropped to a square, not padded": pixels(cropped, Image.Resampling.BICUBIC),
    }
    error = {name: float(np.abs(found - one).max()) for name, one in ways.items()}
    nearest = min(error, key=lambda name: error[name])
    right = error["as published"] < TOLERANCE
    meaning = nearest if error[nearest] < TOLERANCE else "other steps than padding and bicubic"
    text = "padded with black, bicubic: error 0"
    return _row("preprocessing", text, f"error {error['as published']:.2g}", right, meaning)


def _vocabulary(
    model: MedCLIPModel, processor: MedCLIPProcessor, special_tokens: Mapping[str, int]
) -> tuple:
    size, pieces = model.text_model.config.vocab_size, len(processor.tokenizer)
    numbers = processor.tokenizer.get_vocab()
    found = {name: numbers.get(name) for name in special_tokens}
    published = size == VOCABULARY_SIZE
    right = pieces == size and (not published or found == special_tokens)
    expected = f"{size} word pieces" + (f", {special_tokens}" if published else "")
    text = f"{pieces} word pieces" + (f", {found}" if published else "")
    return _row("tokens", expected, text, right, "the vocabulary is another model's")


def _padding(processor: MedCLIPProcessor, prompts: Mapping[str, list[str]]) -> tuple:
    made = process_class_prompts(prompts, processor)
    found = {name: made[name]["input_ids"].shape[1] for name in prompts}
    expected = {
        name: max(len(processor.tokenizer(text)["input_ids"]) for text in texts)
        for name, texts in prompts.items()
    }
    meaning = "prompts are padded beyond the longest of their class, by the batch or to a maximum"
    return _row("padding", expected, found, found == expected, meaning)


def _pooling(model: MedCLIPModel, processor: MedCLIPProcessor, sentences: list[str]) -> tuple:
    text = model.text_model
    inputs = processor(text=sentences).to(model.device)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    hidden = text.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    mean = (hidden[1].mean(1) + hidden[2].mean(1) + hidden[-1].mean(1)) / 3
    found = text(ids, mask)

    def error(pooled: torch.Tensor) -> float:
        return (found - text.projection_head(pooled)).abs().max().item()

    unit = found.abs().max().item()
    off = error(mean) / unit
    only_last = error(hidden[-1].mean(1)) / unit < TOLERANCE
    meaning = "only the last hidden state is pooled" if only_last else "the pooling is different"
    # half precision is for another part to check
    tolerance = TOLERANCE if found.dtype == torch.float32 else 0.05
    expected = "mean of hidden states 1, 2, last: error 0"
    return _row("pooling", expected, f"error {off:.2g}", off < tolerance, meaning)


def _precision(model: MedCLIPModel) -> tuple:
    stored = {str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters()}
    found = sorted(stored | {model.precision})
    meaning = "it computes in reduced precision: load it with precision='float32'"
    return _row("precision", ["float32"], found, found == ["float32"], meaning)


def _temperature(model: MedCLIPModel) -> tuple:
    one = torch.ones(1, 1, device=model.device)
    found = model.compute_logits(one, one).item()
    expected = math.exp(min(max(model.logit_scale.item(), 0), MAX_LOGIT_SCALE))
    right = math.isclose(found, expected, rel_tol=1e-4)
    meaning = "logits are not the cosine times exp(logit_scale), kept within 1 and 100"
    return _row("temperature", f"{expected:.5g}", f"{found:.5g}", right, meaning)


def _recorded(
    model: MedCLIPModel, processor: MedCLIPProcessor, sentences: list[str], expected: list[float]
) -> tuple:
    """End to end, against recorded numbers: no error can be on both sides."""
    inputs = processor(text=sentences, images=Image.fromarray(_picture())).to(model.device)
    found = model(**inputs).logits_per_image[0].float().tolist()
    right = bool(np.allclose(found, expected, atol=2e-3, rtol=0))
    meaning = "a part above is wrong, perhaps in a way that its check shares"
    return _row("recorded numbers", expected, [round(x, 4) for x in found], right, meaning)


def _example(model: MedCLIPModel, processor: MedCLIPProcessor, example: Mapping) -> str:
    """Logits of the README's example, for published weights alone."""
    if model.note != PUBLISHED_NOTE:
        return ""
    try:
        inputs = processor(text=example["texts"], images=fetch_example())
    except DownloadError as error:
        return f"the picture could not be fetched: {str(error).splitlines()[-1].strip()}"
    logits = model(**inputs.to(model.device)).logits_per_image
    return str([[round(x, 4) for x in row] for row in logits.float().tolist()])


def _projection(model: MedCLIPModel) -> tuple:
    """`nn.Linear` starts with a uniform draw between known bounds, which training leaves."""
    heads = {"image": model.vision_model.projection_head, "text": model.text_model.projection_head}
    fresh = [name for name, head in heads.items() if isinstance(head, nn.Linear) and _fresh(head)]
    found = f"as initialised: {', '.join(fresh)}" if fresh else "not as initialised"
    if model.note == UNTRAINED_NOTE:
        found = f"{found}, but no checkpoint was loaded ({model.note!r})"
    right = not fresh and model.note != UNTRAINED_NOTE
    meaning = "a projection was never filled with trained weights, or not by `load_medclip`"
    return _row("projection", "not as initialised", found, right, meaning)


def _fresh(head: nn.Linear) -> bool:
    weight, bound = head.weight.float(), head.in_features**-0.5
    within = weight.abs().max().item() <= bound * 1.001
    return within and math.isclose(weight.std().item(), bound / math.sqrt(3), rel_tol=0.02)
