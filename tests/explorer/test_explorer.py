"""The explorer with a stub model: what each control does to table, picture and message."""

from __future__ import annotations

import asyncio
import base64
import io
import logging
import re
import subprocess
import sys
import warnings
import zlib
from contextlib import nullcontext
from html import unescape
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medclip_helpers.demo import draw_phantom
from medclip_helpers.explorer import SimilarityExplorer, inputs, pieces
from medclip_helpers.explorer import page as module
from medclip_helpers.explorer.inputs import split_pair
from medclip_helpers.explorer.page import BARS, COSINE, MAP, MATRIX, PAIR, SOFTMAX
from medclip_helpers.plots import figure_png
from medclip_helpers.plots.style import number

PRESETS = {
    "first": ["There is edema.", "The heart is enlarged."],
    "pairs": ["edema | no edema", "cardiomegaly | normal heart"],
}
DEFECTS = {"explode": "no such thing", "inject": "<script>"}  # text -> what is raised
TWO_TONES = np.repeat(np.array([[20, 90]], np.uint8), 20, 1).repeat(30, 0)
DARK, LIGHT = np.full((40, 30), 20, np.uint8), np.full((30, 40), 230, np.uint8)


def unit(key: bytes) -> np.ndarray:
    vector = np.random.default_rng(zlib.crc32(key)).normal(size=6)
    return vector / np.linalg.norm(vector)


class Stub(torch.nn.Module):
    """A model whose embeddings depend on the image or text alone; remembers what it was asked for.

    `processor` is the one that belongs to it: of an image it makes the embedding itself.
    """

    device = torch.device("cpu")
    temperature = 0.1
    note = "a stub"
    autocast = staticmethod(nullcontext)

    def __init__(self):
        super().__init__()
        self.asked: list[list] = []
        self.known: list[str] = []
        weight, mean = torch.eye(6), lambda features: features.mean((2, 3))
        self.vision_model = SimpleNamespace(
            forward_features=self.forward_features,
            channels_last=False,
            projection_head=SimpleNamespace(weight=weight),
            backbone=SimpleNamespace(forward_head=mean),
        )
        self.eval()

    def processor(self, text=None, images=None, truncation=True):
        if images is not None:
            images = images if isinstance(images, list) else [images]
            vectors = np.stack([unit(np.asarray(image).tobytes()) for image in images])
            pixel_values = torch.from_numpy(vectors).float()
            return {"pixel_values": pixel_values, "blank": [False] * len(images)}
        self.asked.append(text)
        for line in text:
            if len(line) > 200:
                raise ValueError(f"text of {len(line)} characters, expected at most 200")
            if line in DEFECTS:
                raise RuntimeError(DEFECTS[line])
        ids = torch.arange(len(text))[:, None] + len(self.known)
        self.known += text
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def encode_image(self, pixel_values):
        assert not self.training
        self.asked.append(["image"] * len(pixel_values))
        return pixel_values

    def encode_text(self, input_ids, attention_mask):
        assert not self.training
        vectors = np.stack([unit(self.known[i].encode()) for i in input_ids[:, 0]])
        return torch.from_numpy(vectors)

    def compute_logits(self, image_embeds, text_embeds):
        return image_embeds @ text_embeds.T / self.temperature

    def forward_features(self, pixel_values):
        assert not self.training
        self.asked.append(["map"])
        return pixel_values[:, :, None, None].expand(-1, -1, 7, 7)


@pytest.fixture
def stub() -> Stub:
    return Stub()


def explore(stub, **arguments) -> SimilarityExplorer:
    return SimilarityExplorer(stub, stub.processor, **arguments)


@pytest.fixture
def explorer(stub) -> SimilarityExplorer:
    return explore(stub, images={"dark": DARK, "light": LIGHT}, presets=PRESETS)


def message(explorer) -> str:
    return unescape(re.sub("<[^>]+>", " ", explorer.status.value)).strip()


def cosine(image: np.ndarray, text: str) -> float:
    return float(unit(image.tobytes()) @ unit(text.encode()))


def approx(values):
    return pytest.approx(values, abs=1e-6)  # embeddings are float32


def test_first_state(explorer, stub):
    assert explorer.texts.value.splitlines() == PRESETS["first"]
    assert explorer.table.columns.tolist() == ["image", "text", "cosine", "score"]
    assert explorer.table["score"].tolist() == approx([cosine(DARK, t) for t in PRESETS["first"]])
    assert "alt='Radiograph dark' src='data:image/png" in explorer.pictures.value
    assert "2 texts, scored in" in message(explorer)
    assert explorer.temperature.value == approx(stub.temperature)
    assert explorer.temperature.layout.display == explorer.map_text.layout.display == "none"
    assert explorer.figure._supxlabel.get_text() == "a stub"


def test_only_what_is_new_is_encoded(explorer, stub):
    assert stub.asked[:2] == [["image"], PRESETS["first"]]
    stub.asked.clear()
    explorer.texts.value += "\nNew text."
    assert stub.asked == [["New text."]]
    explorer.image.value = "light"
    assert stub.asked == [["New text."], ["image"]]
    stub.asked.clear()
    explorer.image.value = "dark"
    explorer.texts.value = "New text.\nThere is edema."
    explorer.score.value = SOFTMAX
    explorer.view.value = MATRIX
    assert stub.asked == []


def shown(explorer) -> tuple:
    """What of the page a person sees change."""
    rows = [row.children for row in explorer.bars.children[1:]]
    scores = [(button.description, button.button_style, bar.value) for button, bar in rows]
    visible = explorer.bars.layout.display is None
    return explorer.words.value, explorer.pictures.value, *(scores if visible else [])


def test_every_change_changes_the_page_and_draws_nothing(explorer):
    pages = [shown(explorer)]
    for control, value in [
        ("image", "light"), ("texts", "a\nb\nc"), ("score", SOFTMAX), ("temperature", 0.5),
        ("view", MATRIX), ("score", PAIR), ("view", MAP), ("map_text", "c"), ("preset", "pairs"),
    ]:  # fmt: skip
        getattr(explorer, control).value = value
        assert "scored in" in message(explorer)
        pages.append(shown(explorer))
        assert explorer._drawn is None
    assert len(set(pages)) == len(pages)


def test_pictures_are_drawn_where_they_have_changed(explorer, monkeypatch):
    drawn, pictures = [], pieces.pictures
    monkeypatch.setattr(pieces, "pictures", lambda shown: drawn.append(1) or pictures(shown))
    explorer.texts.value = "a\nb"
    explorer.score.value = SOFTMAX
    assert not drawn
    for count, (control, value) in enumerate(
        [("image", "light"), ("view", MAP), ("map_text", "a"), ("map_text", "b"), ("view", BARS)], 1
    ):
        before = explorer.pictures.value
        if getattr(explorer, control).value == value:  # the map opened on it
            drawn.append(1)
            continue
        getattr(explorer, control).value = value
        assert len(drawn) == count and explorer.pictures.value != before
    single = explorer.pictures.value
    explorer.view.value = MATRIX
    explorer.view.value = BARS
    assert explorer.pictures.value == single, "drawn again after the matrix"


def test_softmax_is_over_the_texts_of_an_image(explorer):
    explorer.score.value = SOFTMAX
    explorer.view.value = MATRIX
    explorer.temperature.value = 0.2
    assert explorer.temperature.layout.display is None
    for name, image in (("dark", DARK), ("light", LIGHT)):
        rows = explorer.table[explorer.table["image"] == name]
        weights = np.exp(np.array([cosine(image, t) for t in PRESETS["first"]]) / 0.2)
        assert rows["score"].tolist() == approx(weights / weights.sum())
        assert rows["cosine"].tolist() == approx([cosine(image, t) for t in PRESETS["first"]])


def test_pair_score_is_the_preference_for_the_positive(explorer):
    explorer.preset.value = "pairs"
    explorer.score.value = PAIR
    table = explorer.table
    assert table["text"].tolist() == ["edema", "cardiomegaly"]
    assert table["negative"].tolist() == ["no edema", "normal heart"]
    difference = (table["cosine"] - table["negative_cosine"]) / explorer.temperature.value
    assert table["score"].tolist() == approx(list(1 / (1 + np.exp(-difference))))
    assert table["negative_cosine"][1] == approx(cosine(DARK, "normal heart"))
    assert explorer.map_text.options == ("edema", "cardiomegaly", "no edema", "normal heart")


def test_halves_of_pairs_are_texts_of_their_own_for_other_scores(explorer):
    explorer.preset.value = "pairs"
    assert explorer.score.value == COSINE
    assert explorer.table["text"].tolist() == ["edema", "no edema", "cardiomegaly", "normal heart"]


@pytest.mark.parametrize(
    ("line", "pair"),
    [
        ("edema | clear lungs", ("edema", "clear lungs")),
        (
            "There is a pleural effusion.",
            ("There is a pleural effusion.", "There is no pleural effusion."),
        ),
        ("there are nodules", ("there are nodules", "there are no nodules")),
        ("The heart is enlarged.", ("The heart is enlarged.", "The heart is not enlarged.")),
        ("Edema", ("Edema", "no evidence of edema")),
        ("ARDS", ("ARDS", "no evidence of ARDS")),
        ("There is no edema.", ("There is no edema.", "There is edema.")),
        ("The lungs are not clear.", ("The lungs are not clear.", "The lungs are clear.")),
        ("lungs without edema", ("lungs without edema", "lungs with edema")),
        ("nodules are noted", ("nodules are noted", "nodules are not noted")),
    ],
)
def test_an_opposite_is_made_where_none_is_given(line, pair):
    assert split_pair(line) == pair


@pytest.mark.parametrize("line", ["edema |", "| edema", "|"])
def test_half_a_pair_is_refused(line):
    with pytest.raises(ValueError, match="half of the pair is empty"):
        split_pair(line)


def test_two_bars_are_refused():
    with pytest.raises(ValueError, match=r"“a \| b \| c” has 2 bars: expected"):
        split_pair("a | b | c")


def test_editing_leaves_the_preset(explorer):
    explorer.texts.value = "mine"
    assert explorer.preset.value == module.OWN_TEXTS
    explorer.preset.value = "first"
    assert explorer.texts.value.splitlines() == PRESETS["first"]
    assert explorer.table["text"].tolist() == PRESETS["first"]
    assert explorer.preset.value == "first"


def test_blank_lines_and_repeated_texts_count_once(explorer):
    explorer.texts.value = "  a \n\n\nb\na\n"
    assert explorer.table["text"].tolist() == ["a", "b"]


def test_map_of_a_text_keeps_the_choice_while_it_exists(explorer, stub):
    explorer.view.value = MAP
    assert explorer.map_text.layout.display is None
    explorer.map_text.value = "The heart is enlarged."
    assert stub.asked.count(["map"]) == 2
    explorer.texts.value = "new\nThe heart is enlarged."
    assert explorer.map_text.value == "The heart is enlarged."
    assert number(cosine(DARK, "The heart is enlarged.")) in explorer.figure.get_suptitle()
    assert stub.asked.count(["map"]) == 2, "maps are kept too"
    explorer.texts.value = "new"
    assert explorer.map_text.value == "new"
    assert stub.asked.count(["map"]) == 3


@pytest.mark.parametrize("encoder", [None, SimpleNamespace()], ids=["none", "of another kind"])
def test_without_a_feature_map_no_map_is_offered(stub, encoder):
    stub.vision_model = encoder
    explorer = explore(stub, images=[DARK], presets=PRESETS)
    assert explorer.view.options == (BARS, MATRIX)


def test_a_model_is_asked_as_it_is_and_left_as_it_was(small_model, standin_processor):
    small_model.train()
    texts = ["There is edema.", "The heart is enlarged by a lot."]
    explorer = SimilarityExplorer(
        small_model, standin_processor, images=[DARK], presets={"two": texts}
    )
    assert explorer.temperature.value == approx(0.07)
    assert explorer.note == small_model.note
    explorer.view.value = MAP
    assert "scored in" in message(explorer) and small_model.training
    small_model.eval()
    with torch.no_grad():
        image = small_model.encode_image(standin_processor(images=DARK)["pixel_values"])
        alone = [standin_processor(text=text) for text in texts]
        cosines = [float(image @ small_model.encode_text(**text).T) for text in alone]
    assert explorer.table["cosine"].tolist() == approx(cosines)
    assert number(cosines[0]) in explorer.figure.get_suptitle()


# --- in words ---------------------------------------------------------------------------------


def words(explorer) -> str:
    return " ".join(unescape(re.sub("<[^>]+>", " ", explorer.words.value)).split())


class Directed(Stub):
    """Places of the texts in `angles`: radians from every image; other texts at a right angle."""

    angles = {"near": 0.1, "far": 1.2, "also near": 0.2}
    spread = 0.0

    def processor(self, text=None, images=None, truncation=True):
        inputs = super().processor(text, images, truncation)
        if images is not None:
            inputs["pixel_values"] = torch.eye(6)[:1].repeat(len(inputs["pixel_values"]), 1)
        return inputs

    def encode_text(self, input_ids, attention_mask):
        texts = [self.known[i] for i in input_ids[:, 0]]
        wording = np.pi / 2 + self.spread * np.arange(len(texts))
        angles = [self.angles.get(t, w) for t, w in zip(texts, wording, strict=True)]
        vectors = np.array([[np.cos(a), np.sin(a), 0, 0, 0, 0] for a in angles])
        return torch.from_numpy(vectors).float()


@pytest.mark.parametrize(
    ("spread", "texts", "said"),
    [
        (0.0, "near\nalso near", "Nearest: “near” (1.00)"),
        (0.3, "near\nalso near", "No text stands out: “near” (1.00) is 0.01 ahead"),
        (0.3, "far\nnear", "Nearest: “near” (1.00)"),
        (0.3, "far", "Nearest: “far” (0.36)"),
    ],
)
def test_the_best_text_is_named_where_it_leads_by_more_than_a_rewording(spread, texts, said):
    stub = Directed()
    stub.spread = spread
    explorer = explore(stub, images=[DARK], presets={"some": texts.split("\n")})
    assert said in words(explorer), words(explorer)


def test_a_preference_is_called_one(explorer):
    explorer.preset.value = "pairs"
    explorer.score.value = PAIR
    assert "preference" in explorer.axis.value and "not a probability" in words(explorer)
    assert "notebook 06" in words(explorer)


def test_the_demo_model_warns_of_what_is_no_drawing(stub):
    stub.note = "Demo model, trained on drawings"
    images = {"drawn": draw_phantom(3), "film": TWO_TONES}
    explorer = explore(stub, images=images, presets=PRESETS)
    assert "only ever seen drawings" not in words(explorer)
    assert pieces.INK[0] in shown(explorer)[2][2] + shown(explorer)[3][2]
    explorer.image.value = "film"
    assert "only ever seen drawings. Not known to be one: film." in words(explorer)
    for _, _, bar in shown(explorer)[2:]:
        assert pieces.UNSURE in bar and pieces.INK[0] not in bar and pieces.PALE[0] not in bar
    upload(explorer, "7", **{"another.png": png(TWO_TONES)})
    explorer.view.value = MATRIX
    assert "Not known to be one: 2 of these 3 pictures." in words(explorer)
    stub.note = "Published"
    explorer.refresh()
    assert "only ever seen drawings" not in words(explorer)


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (np.full((30, 30), 7, np.uint8), "The image is blank"),
        (np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8), "is a colour picture"),
    ],
    ids=["blank", "colour"],
)
def test_what_is_no_radiograph_is_said_before_its_scores(stub, picture, said):
    explorer = explore(stub, images={"x": picture, "dim": TWO_TONES}, presets=PRESETS)
    assert said in words(explorer) and words(explorer).index(said) < words(explorer).index("“")
    assert pieces.UNSURE in shown(explorer)[2][2]
    explorer.image.value = "dim"
    assert said not in words(explorer) and pieces.UNSURE not in shown(explorer)[2][2]


def test_words_that_the_vocabulary_lacks_are_marked(stub):
    def tokenize(word):
        return {"xyzzy": ["[UNK]"], "Gross": list("Gross")}.get(word, [word])

    processor = stub.processor
    stub.processor = lambda **given: processor(**given)
    stub.processor.tokenizer = SimpleNamespace(tokenize=tokenize, unk_token="[UNK]")
    texts = ["known words.", "xyzzy, Gross mass"]
    explorer = explore(stub, images=[TWO_TONES], presets={"both": texts})
    (_, _, known), (_, _, unknown) = shown(explorer)[2:]
    assert "not in the vocabulary: xyzzy, Gross<" in unknown and pieces.UNSURE in unknown
    assert "not in the vocabulary" not in known and pieces.UNSURE not in known


def test_words_of_either_half_of_a_pair_are_marked(stub):
    processor = stub.processor
    stub.processor = lambda **given: processor(**given)
    stub.processor.tokenizer = SimpleNamespace(
        tokenize=lambda word: ["[UNK]" if word == "xyzzy" else word], unk_token="[UNK]"
    )
    explorer = explore(stub, images=[TWO_TONES], presets={"pair": ["edema | xyzzy"]})
    explorer.score.value = PAIR
    assert "not in the vocabulary: xyzzy<" in shown(explorer)[2][2]


def test_no_text_is_preferred_where_each_loses_to_its_opposite():
    explorer = explore(Directed(), images=[DARK], presets={"pairs": ["far | near"]})
    explorer.score.value = PAIR
    assert "Prefers none; closest: “far” (0.00) to “near”" in words(explorer)
    explorer.texts.value = "near | far"
    assert "Prefers most: “near” (1.00) to “far”" in words(explorer)


def test_what_a_library_says_of_a_file_is_no_reason_for_doubt(stub, monkeypatch):
    read = inputs.open_radiograph

    def warns(*arguments):
        warnings.warn("the pixel data are padded", UserWarning, stacklevel=1)
        return read(*arguments)

    monkeypatch.setattr(inputs, "open_radiograph", warns)
    explorer = explore(stub, images=[TWO_TONES], presets=PRESETS)
    assert "padded" not in words(explorer) and pieces.UNSURE not in shown(explorer)[2][2]


def test_a_colour_picture_is_named_once(stub, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)).save(
        tmp_path / "holiday.png"
    )
    explorer = explore(stub, images=tmp_path, presets=PRESETS)
    assert words(explorer).count("holiday.png") == 1
    explorer = explore(stub, images={"x": np.full((8, 8), 9, np.uint8)}, presets=PRESETS)
    assert words(explorer).startswith("x: The image is blank")


# --- rows and two images ----------------------------------------------------------------------


def test_a_row_opens_its_map_and_closes_it(explorer):
    explorer.view.value = MAP
    best = explorer.table["text"][explorer.table["cosine"].idxmax()]
    assert explorer.map_text.value == best, "a map opens on the best text"
    place = 1 - PRESETS["first"].index(best)
    button = explorer.bars.children[1 + place].children[0]
    button.click()
    assert explorer.map_text.value == button.description == PRESETS["first"][place]
    assert explorer.view.value == MAP and button.button_style == "info"
    assert f"with the map of {button.description}" in explorer.pictures.value
    button.click()
    assert explorer.view.value == BARS and button.button_style == ""
    assert "map" not in explorer.pictures.value


def test_a_row_says_what_pressing_it_does(explorer, stub):
    tooltips = [row.children[0].tooltip for row in explorer.bars.children[1:]]
    assert tooltips == ["Show its map"] * 2
    explorer.view.value = MAP
    tooltips = [row.children[0].tooltip for row in explorer.bars.children[1:]]
    assert sorted(tooltips) == ["Close its map", "Show its map"]
    stub.vision_model = None
    button = explore(stub, images=[DARK], presets=PRESETS).bars.children[1].children[0]
    assert button.disabled and not button.tooltip


def test_rows_are_made_once(explorer):
    """A front end and ipywidgets keep every widget that there ever was."""
    explorer.texts.value = "a\nb\nc\nd"
    before = explorer.bars.children
    explorer.texts.value = "a"
    explorer.texts.value = "a\nb\nc\nd"
    assert all(now is then for now, then in zip(explorer.bars.children, before, strict=True))


def test_the_figure_is_of_what_is_shown(explorer):
    """Not of controls that have changed since, or whose change was refused."""
    explorer.texts.value = ""
    explorer.view.value = MAP
    assert "There is no text" in message(explorer)
    assert len(explorer.figure.axes) == 2 and explorer.figure.caption.startswith("“")
    explorer.view.value = MATRIX
    assert "similarity with" not in explorer.figure.caption
    explorer.download.click()
    assert "similarity.png" in explorer.downloads.value


def test_a_figure_asked_for_while_a_change_waits_has_the_change(explorer):
    async def edit():
        explorer.view.value = MAP
        return explorer.figure

    assert "cosine similarity" in asyncio.run(edit()).get_suptitle()


def test_two_images_share_the_scale_of_scores_and_maps(stub, monkeypatch):
    largest, overlay = [], pieces.overlay
    monkeypatch.setattr(
        pieces, "overlay", lambda *given: (largest.append(given[2]), overlay(*given))[1]
    )
    explorer = explore(stub, images={"dark": DARK, "light": LIGHT}, presets=PRESETS)
    explorer.beside.value = "light"
    explorer.view.value = MAP
    assert explorer.table["image"].tolist() == ["dark"] * 2 + ["light"] * 2
    assert explorer.pictures.value.count("<img") == 2
    assert "A: dark" in explorer.pictures.value and "B: light" in explorer.pictures.value
    text = explorer.map_text.value
    both = [np.abs(explorer._map(name, text)).max() for name in ("dark", "light")]
    assert largest == [approx(max(both))] * 2
    expected = [cosine(image, PRESETS["first"][0]) for image in (DARK, LIGHT)]
    numbers = re.findall(r"([AB]) (−?[\d.]+)<", explorer.bars.children[1].children[1].value)
    assert [(n, float(v.replace("−", "-"))) for n, v in numbers] == [
        (n, pytest.approx(v, abs=0.0051)) for n, v in zip("AB", expected, strict=True)
    ]
    assert "dark: " in words(explorer) and "light: " in words(explorer)


@pytest.mark.parametrize(
    ("value", "low", "left", "width"),
    [(0.5, -1, 50, 25), (-0.5, -1, 25, 25), (0.5, 0, 0, 50), (1.2, -1, 50, 50), (-0.1, 0, 0, 0)],
)
def test_bars_start_at_zero_of_an_axis_that_stays(value, low, left, width):
    bar = pieces.score([value], low, ["#000"], [""], "")
    assert f"left:{left:.1f}%;width:{width:.1f}%" in bar


def test_the_matrix_names_its_images(explorer):
    explorer.view.value = MATRIX
    for name in ("dark", "light"):
        assert f">{name}</th>" in explorer.pictures.value
    assert explorer.pictures.value.count("<b>") == 2, "the best text of each image"
    assert explorer.image.layout.display == explorer.beside.layout.display == "none"
    ticks = [tick.get_text() for tick in explorer.figure.axes[0].get_xticklabels()]
    assert ticks == ["dark", "light"]
    for paint, value in re.findall(
        r"rgba\(([\d,]+),[\d.]+\)'>(?:<b>)?(−?)", explorer.pictures.value
    ):
        assert paint == ",".join(map(str, pieces.COOL if value else pieces.WARM))


# --- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "There is no text"),
        (" \n ", "There is no text"),
        ("|", "There is no text"),
        ("x" * 201, "text of 201 characters, expected at most 200"),
        ("explode", "Unexpected RuntimeError: no such thing"),
    ],
)
def test_unusable_texts_are_named_and_the_result_stands(explorer, text, said, caplog):
    table, page = explorer.table, shown(explorer)
    with caplog.at_level(logging.ERROR):
        explorer.texts.value = text
    assert said in message(explorer) and "shows the last valid result" in message(explorer)
    assert "role='alert'" in explorer.status.value
    assert explorer.table is table and shown(explorer) == page
    assert ("RuntimeError" in caplog.text) == (text == "explode"), (
        "a defect is logged with its traceback"
    )
    explorer.texts.value = "fine"
    assert message(explorer).startswith("1 text, scored in")


def test_messages_are_text_not_markup(explorer):
    explorer.texts.value = "inject"
    assert "&lt;script&gt;" in explorer.status.value
    assert "<script>" not in explorer.status.value


def busy_messages(explorer) -> list[str]:
    said = []
    explorer.status.observe(lambda change: said.append(message(explorer)), names="value")
    return said


def test_busy_is_shown_while_encoding_only(explorer):
    said = busy_messages(explorer)
    explorer.texts.value = "a\nb"
    assert said[0] == "⏳ encoding 2 texts …" and "scored in" in said[-1]
    said.clear()
    explorer.score.value = SOFTMAX
    assert not any("⏳" in line for line in said)


# --- uploads ----------------------------------------------------------------------------------


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    return file.getvalue()


def upload(explorer, kind: str, **files: bytes) -> None:
    """As FileUpload reports it: a dict in ipywidgets 7, a tuple with memoryviews in 8."""
    if kind == "7":
        value = {
            name: {"metadata": {"name": name}, "content": data} for name, data in files.items()
        }
    else:
        value = tuple({"name": name, "content": memoryview(data)} for name, data in files.items())
    explorer._uploaded({"new": value})


@pytest.mark.parametrize("kind", ["7", "8"])
def test_an_upload_joins_the_images_and_is_chosen(explorer, kind):
    image = np.arange(600, dtype=np.uint8).reshape(20, 30)
    upload(explorer, kind, **{"film.png": png(image)})
    assert explorer.image.options == ("dark", "light", "film.png")
    assert explorer.image.value == "film.png"
    assert explorer.table["score"].tolist() == approx([cosine(image, t) for t in PRESETS["first"]])
    upload(explorer, kind, **{"film.png": png(255 - image)})
    assert explorer.image.value == "film.png (2)", "another file of that name does not replace it"


@pytest.mark.parametrize("kind", ["7", "8"])
def test_a_broken_file_is_named_and_the_result_stands(explorer, kind):
    table = explorer.table
    upload(explorer, kind, **{"broken.png": b"not an image"})
    assert "broken.png" in message(explorer) and "shows the last valid result" in message(explorer)
    assert explorer.table is table and explorer.image.options == ("dark", "light")


def test_good_files_beside_a_broken_one_are_kept(explorer):
    upload(explorer, "7", **{"good.png": png(DARK + 1), "broken.dcm": b"\0" * 128 + b"DICM"})
    assert explorer.image.value == "good.png"
    assert set(explorer.table["image"]) == {"good.png"}
    assert "broken.dcm" in message(explorer)


def test_the_upload_button_is_connected(explorer):
    """The value that this ipywidgets' own FileUpload reports."""
    content = png(DARK + 3)
    if isinstance(explorer.upload.value, dict):
        explorer.upload.metadata = [
            {"name": "a.png", "type": "image/png", "size": 1, "lastModified": 0}
        ]
        explorer.upload.data = [content]
        explorer.upload._counter = 1
    else:
        explorer.upload.set_state(
            {
                "value": [
                    {
                        "name": "a.png",
                        "type": "image/png",
                        "size": 1,
                        "last_modified": 0,
                        "content": content,
                    }
                ]
            }
        )
    assert explorer.image.value == "a.png"


# --- display and downloads --------------------------------------------------------------------


def test_live_page_and_plain_picture_are_shown_together(explorer):
    bundle, metadata = explorer._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]) == figure_png(explorer.figure)
    assert metadata["image/png"]["width"] == 700 and metadata["image/png"]["alt"]
    view = bundle["application/vnd.jupyter.widget-view+json"]
    assert view["model_id"] == explorer.page.model_id


def test_downloads_are_the_shown_figure_and_numbers(explorer):
    explorer.view.value = MATRIX
    assert explorer.downloads.value == ""
    explorer.download.click()
    links = re.findall(
        r'download="([^"]+)" href="data:([^;]+);base64,([^"]+)"', explorer.downloads.value
    )
    (figure, kind, picture), (numbers, text, table) = links
    assert (figure, kind, numbers, text) == (
        "similarity.png",
        "image/png",
        "similarity.csv",
        "text/csv",
    )
    assert base64.b64decode(picture) == figure_png(explorer.figure)
    read = pd.read_csv(io.BytesIO(base64.b64decode(table)))
    pd.testing.assert_frame_equal(read, explorer.table, check_exact=False, check_dtype=False)
    assert len(read) == 4


# --- in a kernel ------------------------------------------------------------------------------


def test_in_an_event_loop_fast_changes_are_computed_once(stub, monkeypatch):
    monkeypatch.setattr(module, "TYPING_PAUSE", 1.0)  # longer than a keystroke on a busy machine
    refresh, computed = SimilarityExplorer.refresh, []

    def counted(explorer):
        computed.append(explorer.texts.value)
        refresh(explorer)

    monkeypatch.setattr(SimilarityExplorer, "refresh", counted)

    async def person():
        explorer = explore(stub, images=[DARK], presets=PRESETS)
        stub.asked.clear()
        computed.clear()
        for end in range(1, 6):
            explorer.texts.value = "edema"[:end]
            await asyncio.sleep(0.01)
        assert stub.asked == []
        await asyncio.sleep(2 * module.TYPING_PAUSE)
        assert stub.asked == [["edema"]] and computed == ["edema"]
        assert explorer.table["text"].tolist() == ["edema"]
        explorer.texts.value = "shown at once"
        explorer._repr_mimebundle_()
        assert explorer.table["text"].tolist() == ["shown at once"]

    asyncio.run(person())


# --- arguments --------------------------------------------------------------------------------


def test_images_come_as_list_folder_or_mapping(stub, tmp_path):
    for name in ("b.png", "a.png"):
        Image.fromarray(DARK).save(tmp_path / name)
    listed = explore(stub, images=[DARK, tmp_path / "a.png"], presets=PRESETS)
    assert listed.image.options == ("image 1", "a.png")
    folder = explore(stub, images=tmp_path, presets=PRESETS)
    assert folder.image.options == ("a.png", "b.png")
    with pytest.raises(ValueError, match="images is empty"):
        explore(stub, images=[], presets=PRESETS)
    with pytest.raises(TypeError, match="'model' and 'processor'"):
        SimilarityExplorer(images=[DARK])


def test_default_presets_and_images_can_be_shown(stub):
    explorer = explore(stub)
    assert len(explorer.image.options) >= 6
    for name in explorer.presets:
        explorer.preset.value = name
        for score in (COSINE, PAIR):
            explorer.score.value = score
            assert "scored in" in message(explorer), message(explorer)
    assert list(explorer.presets) == [
        "Five findings",
        "CheXpert classes",
        "COVID",
        "RSNA pneumonia",
        "Positive against negative",
    ]
    assert any("pneumonia" in text for text in explorer.presets["RSNA pneumonia"])
    assert all("|" in line for line in explorer.presets["Positive against negative"])


def test_the_face_loads_neither_torch_nor_widgets():
    code = """
import sys
import medclip_helpers.explorer
assert not {"torch", "matplotlib", "ipywidgets"} & set(sys.modules)
medclip_helpers.explorer.SimilarityExplorer
assert {"torch", "ipywidgets"} <= set(sys.modules) and "matplotlib" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_view_hides_what_it_does_not_use_and_nothing_else(explorer):
    explorer.view.value = MATRIX
    shown = {
        name: getattr(explorer, name).layout.display != "none"
        for name in (
            "image",
            "beside",
            "temperature",
            "map_text",
            "view",
            "score",
            "texts",
            "preset",
        )
    }
    assert {name for name, here in shown.items() if here} == {"view", "score", "texts", "preset"}
