"""Whether the check names the part that a planted fault concerns, and no other."""

import hashlib
import re

import pytest
import torch
from PIL import Image

from medclip_helpers import load_medclip
from medclip_helpers.__main__ import main
from medclip_helpers.constants import PUBLISHED_NOTE
from medclip_helpers.evaluation import check_numbers


def bilinear(model, processor, patch):
    resize = Image.Image.resize
    made = processor.image_processor
    square = type(made).square

    def with_bilinear(self, image):
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Image.Image, "resize", lambda i, s, _: resize(i, s, Image.BILINEAR))
            return square(self, image)

    patch.setattr(type(made), "square", with_bilinear)


def crop(model, processor, patch):
    def cropped(self, image):
        left, short = (image.width - image.height) // 2, image.height
        image = image.crop((left, 0, left + short, short))
        return image.resize((self.size, self.size), Image.Resampling.BICUBIC)

    patch.setattr(type(processor.image_processor), "square", cropped)


def batch_padding(model, processor, patch):
    call = type(processor).__call__

    def padded(self, text=None, images=None, **how):
        return call(self, text, images, **{**how, "padding": "max_length"})

    patch.setattr(type(processor), "__call__", padded)


def last_layer(model, processor, patch):
    text = model.text_model

    def forward(ids, mask):
        hidden = text.model(ids, mask).last_hidden_state
        return text.projection_head(hidden.mean(1))

    patch.setattr(text, "forward", forward)


def half(model, processor, patch):
    model.precision = "bfloat16"


def vocabulary(model, processor, patch):
    processor.tokenizer.add_tokens(["anotherword"])


def untrained(model, processor, patch):
    torch.manual_seed(0)
    model.text_model.projection_head.reset_parameters()


def unscaled(model, processor, patch):
    patch.setattr(model, "compute_logits", lambda images, texts: images @ texts.T)


FAULTS = {
    bilinear: ("preprocessing", "bilinearly"),
    crop: ("preprocessing", "cropped"),
    batch_padding: ("padding", "by the batch"),
    last_layer: ("pooling", "only the last"),
    half: ("precision", "reduced precision"),
    vocabulary: ("tokens", "another model's"),
    unscaled: ("temperature", "exp(logit_scale)"),
    untrained: ("projection", "never filled"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_named(fault, monkeypatch):
    model, processor = load_medclip("demo", "cpu")
    fault(model, processor, monkeypatch)
    table = check_numbers(model, processor)
    wrong = table[table["verdict"] == "wrong"]
    part, word = FAULTS[fault]
    assert set(wrong["part"]) - {"recorded numbers"} == {part}
    assert word in wrong["meaning"].iloc[0]


def test_an_error_that_the_check_shares_shows_in_the_recorded_numbers(monkeypatch):
    """A limit of the temperature that is wrong wherever it is read."""
    model, processor = load_medclip("demo", "cpu")
    for module in ("medclip_helpers.model", "medclip_helpers.evaluation.checking"):
        monkeypatch.setattr(f"{module}.MAX_LOGIT_SCALE", 0.5)
    table = check_numbers(model, processor).set_index("part")
    assert table.loc["temperature", "verdict"] == "ok"
    assert table.loc["recorded numbers", "verdict"] == "wrong"


def test_the_readme_s_example_is_computed_for_published_weights(tmp_path, monkeypatch):
    """The picture from a mirror, refused where it is another file."""
    model, processor = load_medclip("demo", "cpu")
    model.note = PUBLISHED_NOTE
    monkeypatch.setenv("MEDCLIP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MEDCLIP_MIRROR", tmp_path.as_uri())

    def found() -> str:
        table = check_numbers(model, processor).set_index("part")
        return table.loc["README's example, users' logits", "found"]

    Image.new("L", (9, 9), 99).save(tmp_path / "view1_frontal.jpg")
    assert "has SHA-256" in found() and "could not be fetched" in found()
    assert not (tmp_path / "home" / "view1_frontal.jpg").exists()
    known = hashlib.sha256((tmp_path / "view1_frontal.jpg").read_bytes()).hexdigest()
    monkeypatch.setattr("medclip_helpers.hub.published.EXAMPLE_SHA256", known)
    assert re.fullmatch(r"\[\[-?\d+\.\d+, -?\d+\.\d+\]\]", found())


def test_the_command_passes_the_demo_model_and_fails_a_reduced_one(capsys, monkeypatch):
    assert main(["check", "--model", "demo"]) == 0
    said = capsys.readouterr().out
    assert "reported by users, not verified by us" in said and "wrong" not in said
    load = load_medclip

    def reduced(*arguments, **how):
        return load(*arguments, **{**how, "precision": "bfloat16"})

    monkeypatch.setattr("medclip_helpers.load_medclip", reduced)
    assert main(["check", "--model", "demo"]) == 1
    assert "precision: wrong" in capsys.readouterr().out
