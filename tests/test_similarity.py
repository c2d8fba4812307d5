"""Maps add up to the score; texts are embedded unpadded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertTokenizer

from medclip_helpers.demo import CHECKPOINT_FOLDER, draw_phantom
from medclip_helpers.loading import load_medclip
from medclip_helpers.model import MedCLIPModel, MedCLIPTextModel, MedCLIPVisionEncoder
from medclip_helpers.processor import MedCLIPImageProcessor, MedCLIPProcessor
from medclip_helpers.similarity import encode_images, encode_texts, eval_mode, similarity_map

WORDS = ["the", "heart", "is", "enlarged", "no", "edema", "effusion", "on", "left", "."]
BACKBONES = {
    "swin": dict(backbone="swin_tiny_patch4_window7_224"),
    "resnet": dict(backbone="resnet50"),
    "small convolutional": dict(backbone="resnet10t"),
}


@pytest.fixture(scope="module")
def processor(tmp_path_factory) -> MedCLIPProcessor:
    vocabulary = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    return MedCLIPProcessor(MedCLIPImageProcessor(), BertTokenizer(str(vocabulary)))


def small_model(backbone: dict) -> MedCLIPModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=15,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
    )
    text_model = MedCLIPTextModel(config, projection_dim=24)
    return MedCLIPModel(MedCLIPVisionEncoder(projection_dim=24, **backbone), text_model).eval()


@pytest.fixture(scope="module")
def model() -> MedCLIPModel:
    return small_model(BACKBONES["small convolutional"])


@pytest.mark.parametrize("name", BACKBONES)
def test_contributions_add_up_to_the_cosine(name):
    model = small_model(BACKBONES[name])
    random = torch.Generator().manual_seed(1)
    pixel_values = torch.randn(2, 1, 224, 224, generator=random)
    text_embeds = torch.nn.functional.normalize(torch.randn(3, 24, generator=random), dim=-1)
    maps = similarity_map(model, pixel_values, text_embeds)
    assert maps.shape == (2, 3, 7, 7)
    with torch.no_grad():
        cosine = model.encode_image(pixel_values) @ text_embeds.T
    torch.testing.assert_close(maps.sum((2, 3)), cosine, atol=1e-5, rtol=0)
    assert maps.std() > 1e-4, "positions differ"


def test_contributions_add_up_for_the_demo_model():
    if not (CHECKPOINT_FOLDER / "config.json").is_file():
        pytest.skip("the demo checkpoint is not there")
    model, processor = load_medclip("demo", device="cpu")
    image = draw_phantom(3, {"Cardiomegaly": 0.9}).image
    text_embeds = encode_texts(model, processor, "The heart is enlarged.")
    contributions = similarity_map(model, processor(images=image)["pixel_values"], text_embeds)
    cosine = (encode_images(model, processor, [image]) @ text_embeds.T).item()
    assert contributions.sum().item() == pytest.approx(cosine, abs=1e-5)


def test_a_mark_changes_the_map_where_it_is(model):
    text_embeds = torch.eye(24)[:1]

    def terms(pixel_values):
        with torch.no_grad():
            length = model.vision_model(pixel_values).norm()  # which depends on every position
        return similarity_map(model, pixel_values, text_embeds)[0, 0] * length

    blank = torch.ones(1, 1, 224, 224)
    for row, column in [(1, 1), (1, 5), (5, 3)]:
        marked = blank.clone()
        marked[..., 32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = 4
        change = (terms(marked) - terms(blank)).abs()
        found = divmod(int(change.argmax()), 7)
        assert abs(found[0] - row) <= 1 and abs(found[1] - column) <= 1


def test_texts_of_another_dimension_are_refused(model):
    with pytest.raises(ValueError, match=r"\(2, 7\), expected \(texts, 24\)"):
        similarity_map(model, torch.zeros(1, 1, 224, 224), torch.ones(2, 7))


def test_a_backbone_without_a_mean_is_refused():
    other = small_model({"backbone": "resnet10t", "global_pool": "max"})
    with pytest.raises(ValueError, match="not embed an image as the projected mean"):
        similarity_map(other, torch.randn(1, 1, 224, 224), torch.ones(1, 24))


# --- embeddings -------------------------------------------------------------------------------


def test_a_text_has_one_embedding_whatever_stands_beside_it(model, processor):
    texts = ["no edema", "the heart is enlarged .", "effusion on left", "edema", "no effusion"] * 9
    together = encode_texts(model, processor, texts)
    assert together.shape == (45, 24) and together.dtype == torch.float32
    np.testing.assert_allclose(together.norm(dim=1), 1, atol=1e-5)
    alone = torch.cat([encode_texts(model, processor, text) for text in texts[:5]])
    np.testing.assert_allclose(together, alone.repeat(9, 1), atol=1e-6)
    padded = processor(text=texts, padding=True)
    with torch.no_grad():
        published = model.encode_text(padded["input_ids"], padded["attention_mask"])
    np.testing.assert_allclose(published[1], alone[1], atol=1e-6, err_msg="the longest is unpadded")
    assert (published[3] - alone[3]).abs().max() > 1e-4, (
        "padding is part of the published embedding"
    )


def test_images_are_embedded_as_the_model_does(model, processor):
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 256, (90, 60), np.uint8)) for _ in range(3)]
    pixel_values = processor(images=images)["pixel_values"]
    with torch.no_grad():
        expected = model.encode_image(pixel_values)
    image_embeds = encode_images(model, processor, images, batch_size=2, progress=False)
    np.testing.assert_allclose(image_embeds, expected, atol=1e-6)
    text_embeds = encode_texts(model, processor, ["no edema"])
    contributions = similarity_map(model, pixel_values[:1], text_embeds)
    cosine = (expected[0] @ text_embeds[0]).item()
    assert contributions.sum().item() == pytest.approx(cosine, abs=1e-5)
    with pytest.raises(ValueError, match="images is empty: expected at least one radiograph"):
        encode_images(model, processor, [])


def test_progress_is_shown_unless_it_is_not_wanted(model, processor, capsys):
    images = [np.arange(64, dtype=np.uint8).reshape(8, 8)] * 3
    encode_images(model, processor, images)
    assert "encoding images" in (shown := capsys.readouterr().err) and "3/3" in shown
    encode_images(model, processor, (image for image in images))  # whose number is not known
    assert "3image" in capsys.readouterr().err.replace(" ", "")
    encode_images(model, processor, images, progress=False)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(("size", "sizes"), [(2, [2, 2, 1]), (None, [5])])
def test_as_many_images_at_once_as_asked_for(size, sizes, processor, monkeypatch):
    model = small_model(BACKBONES["small convolutional"])
    seen = []
    encode = model.encode_image
    monkeypatch.setattr(model, "encode_image", lambda x: seen.append(len(x)) or encode(x))
    images = [np.arange(64, dtype=np.uint8).reshape(8, 8)] * 5
    encode_images(model, processor, images, batch_size=size, progress=False)
    assert seen == sizes


def test_an_image_that_cannot_be_read_is_named(model, processor, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    with pytest.raises(ValueError, match=r"broken\.png"):
        encode_images(model, processor, [image, broken], progress=False)


def test_embedding_leaves_the_model_in_its_mode(processor):
    model = small_model(BACKBONES["small convolutional"])
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    expected = encode_images(model, processor, [image]), encode_texts(model, processor, ["edema"])
    model.train()
    found = encode_images(model, processor, [image]), encode_texts(model, processor, ["edema"])
    assert model.training
    for again, before in zip(found, expected, strict=True):
        torch.testing.assert_close(again, before)


def test_a_text_past_the_limit_is_refused_or_cut(model, processor):
    longest = encode_texts(model, processor, ["edema " * 75])
    assert longest.shape == (1, 24)
    texts = ["edema", "edema " * 76]
    with pytest.raises(ValueError, match="78 word pieces, expected at most 77: “edema edema"):
        encode_texts(model, processor, texts)
    cut = encode_texts(model, processor, texts, truncation=True)
    np.testing.assert_allclose(cut[1:], longest, atol=1e-6)
    with pytest.raises(ValueError, match="non-empty list"):
        encode_texts(model, processor, [])


def test_each_part_of_a_model_gets_its_own_mode_back(model):
    model.train()
    model.text_model.eval()  # frozen
    with eval_mode(model):
        assert not any(part.training for part in model.modules())
    assert model.vision_model.training and not model.text_model.training
    model.eval()
