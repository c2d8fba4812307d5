"""Maps add up to the score; texts are embedded unpadded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertTokenizer

from medclip_helpers.model import MedCLIPModel, MedCLIPTextModel, MedCLIPVisionEncoder
from medclip_helpers.processor import MedCLIPImageProcessor, MedCLIPProcessor
from medclip_helpers.similarity import make_embedder, similarity_map

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
    from medclip_helpers.loading import load_medclip

    if not (CHECKPOINT_FOLDER / "config.json").is_file():
        pytest.skip("the demo checkpoint is not there")
    from medclip_helpers.demo import draw_phantom

    model, processor = load_medclip("demo", device="cpu")
    embedder = make_embedder(model, processor)
    image = Image.fromarray(draw_phantom(3, {"Cardiomegaly": 0.9}).image)
    text = "The heart is enlarged."
    contributions = embedder.contributions(image, text)
    cosine = float((embedder.images([image]) @ embedder.texts([text]).T)[0, 0])
    assert contributions.sum() == pytest.approx(cosine, abs=1e-5)


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


# --- embedder ---------------------------------------------------------------------------------


def test_a_text_has_one_embedding_whatever_stands_beside_it(model, processor):
    embedder = make_embedder(model, processor, batch_size=2)
    texts = ["no edema", "the heart is enlarged .", "effusion on left", "edema", "no effusion"]
    together = embedder.texts(texts)
    assert together.shape == (5, 24)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    alone = np.concatenate([embedder.texts([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    padded = processor(text=texts, padding=True)
    with torch.no_grad():
        published = model.encode_text(padded["input_ids"], padded["attention_mask"]).numpy()
    np.testing.assert_allclose(published[1], alone[1], atol=1e-6, err_msg="the longest is unpadded")
    assert np.abs(published[3] - alone[3]).max() > 1e-4, (
        "padding is part of the published embedding"
    )


def test_images_are_embedded_as_the_model_does(model, processor):
    embedder = make_embedder(model, processor, batch_size=2)
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 256, (90, 60), np.uint8)) for _ in range(3)]
    with torch.no_grad():
        expected = model.encode_image(processor(images=images)["pixel_values"]).numpy()
    np.testing.assert_allclose(embedder.images(images), expected, atol=1e-6)
    assert embedder.temperature == pytest.approx(0.07)
    assert embedder.note == model.note
    contributions = embedder.contributions(images[0], "no edema")
    cosine = expected[0] @ embedder.texts(["no edema"])[0]
    assert contributions.sum() == pytest.approx(cosine, abs=1e-5)


def test_a_text_past_the_limit_is_refused_not_cut(model, processor):
    embedder = make_embedder(model, processor)
    assert embedder.texts(["edema " * 75]).shape == (1, 24)
    with pytest.raises(ValueError, match="78 word pieces, expected at most 77: “edema edema"):
        embedder.texts(["edema", "edema " * 76])
