"""What a processor takes for one image and for several, and where its tokenizer comes from."""

import numpy as np
import torch
from PIL import Image
from standin import PARITY

from medclip_helpers.processor import MedCLIPImageProcessor, MedCLIPProcessor


def test_one_image_may_be_a_path_an_open_file_a_picture_an_array_or_a_tensor(standin_processor):
    path = PARITY / "image.png"
    picture = Image.open(path).convert("L")
    expected = standin_processor(images=[picture])["pixel_values"]
    tensor = torch.from_numpy(np.array(picture))[None]
    with path.open("rb") as file:
        for one in (path, str(path), file, picture, np.asarray(picture), tensor[0], tensor):
            assert standin_processor(images=one)["pixel_values"].equal(expected), type(one)
    two = standin_processor(images=tensor.repeat(2, 1, 1, 1))["pixel_values"]
    assert two.equal(expected.repeat(2, 1, 1, 1))


def test_a_small_image_is_centred_on_black_and_not_enlarged():
    square = MedCLIPImageProcessor(8).square(Image.new("L", (4, 2), 200))
    expected = np.zeros((8, 8))
    expected[3:5, 2:6] = 200
    assert np.asarray(square).tolist() == expected.tolist()


def test_the_published_tokenizer_is_asked_for_once_where_it_was_said(
    monkeypatch, standin_processor
):
    asked = []

    def load_tokenizer(**source):
        asked.append(source)
        return standin_processor.tokenizer

    monkeypatch.setattr("medclip_helpers.processor.load_tokenizer", load_tokenizer)
    processor = MedCLIPProcessor(cache_dir="weights", mirror="https://mirror.example")
    assert asked == []
    first, second = (processor(text="edema")["input_ids"] for _ in range(2))
    assert first.equal(second)
    assert asked == [{"cache_dir": "weights", "mirror": "https://mirror.example"}]
