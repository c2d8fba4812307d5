"""Prompt classification: what is encoded how often, what is kept, the table over many images."""

import os
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from standin import PARITY

from medclip_helpers import load_medclip
from medclip_helpers.classifier import PromptClassifier, classify_images
from medclip_helpers.model import MedCLIPModel
from medclip_helpers.processor import MedCLIPImageProcessor, MedCLIPProcessor, read_batches
from medclip_helpers.prompts import process_class_prompts

PROMPTS = {
    "Edema": ["mild pulmonary edema", "moderate interstitial pulmonary edema"],
    "Cardiomegaly": ["cardiac silhouette enlarged"],
}


@pytest.fixture
def prompt_inputs(standin_processor):
    return process_class_prompts(PROMPTS, standin_processor)


@pytest.fixture
def encoded(small_model, monkeypatch):
    """Counts of what the model encodes: {"image": rows, "text": rows}."""
    counts = {"image": 0, "text": 0}
    for kind in counts:
        method = getattr(small_model, f"encode_{kind}")

        def counting(values, *args, kind=kind, method=method):
            counts[kind] += len(values)
            return method(values, *args)

        monkeypatch.setattr(small_model, f"encode_{kind}", counting)
    return counts


@pytest.fixture
def pixel_values():
    return torch.randn(5, 1, 64, 64, generator=torch.Generator().manual_seed(0))


def test_logits_are_mean_or_maximum_over_prompts(small_model, prompt_inputs, pixel_values):
    mean = PromptClassifier(small_model, ensemble=True)(pixel_values, prompt_inputs)
    best = PromptClassifier(small_model)(pixel_values, prompt_inputs)
    assert mean["class_names"] == ["Edema", "Cardiomegaly"]
    for i, name in enumerate(mean["class_names"]):
        images = small_model.encode_image(pixel_values)
        texts = small_model.encode_text(**prompt_inputs[name])
        expected = small_model.logit_scale.exp() * images @ texts.T
        torch.testing.assert_close(mean["prompt_logits"][name], expected)
        torch.testing.assert_close(mean["logits"][:, i], expected.mean(1))
        torch.testing.assert_close(best["logits"][:, i], expected.max(1).values)


def test_each_image_and_each_prompt_is_encoded_once(
    small_model, encoded, prompt_inputs, pixel_values
):
    classifier = PromptClassifier(small_model, batch_size=2)
    first = classifier(pixel_values, prompt_inputs)
    assert encoded == {"image": 5, "text": 3}
    embeds = classifier.encode_prompts(prompt_inputs)
    encoded.update(image=0, text=0)
    again = classifier(pixel_values, prompt_embeds=embeds)
    assert encoded == {"image": 5, "text": 0}
    assert again["class_names"] == first["class_names"]
    assert again["logits"].equal(first["logits"])


def test_batches_do_not_change_the_result(small_model, prompt_inputs, pixel_values):
    whole = PromptClassifier(small_model)(pixel_values, prompt_inputs)["logits"]
    parts = PromptClassifier(small_model, batch_size=2)(pixel_values, prompt_inputs)["logits"]
    torch.testing.assert_close(parts, whole)


def test_prompts_in_batches_are_padded_as_a_whole(small_model, prompt_inputs, pixel_values):
    whole = PromptClassifier(small_model)(pixel_values, prompt_inputs)["logits"]
    parts = PromptClassifier(small_model, batch_size=1)(pixel_values, prompt_inputs)["logits"]
    torch.testing.assert_close(parts, whole)


@pytest.mark.parametrize("change", ["optimizer", "load", "prompts", "new data", "data in place"])
def test_a_change_is_seen(change, small_model, prompt_inputs, pixel_values):
    """Nothing is kept between calls: whatever changed, the next scores are of what is there now."""
    classifier = PromptClassifier(small_model).eval()
    before = classifier(pixel_values, prompt_inputs)["logits"]
    weight = small_model.text_model.projection_head.weight
    other = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    if change == "optimizer":
        optimizer = torch.optim.SGD(small_model.text_model.parameters(), lr=0.1)
        small_model.encode_text(*prompt_inputs["Edema"].values()).sum().backward()
        optimizer.step()
    elif change == "load":
        state = {k: v + 0.01 for k, v in small_model.state_dict().items() if v.is_floating_point()}
        small_model.load_state_dict(state, strict=False)
    elif change == "new data":
        weight.data = other
    elif change == "data in place":  # as weights are swapped for their moving average
        weight.data.copy_(other)
    else:
        prompt_inputs = {"Edema": prompt_inputs["Edema"], "Other": prompt_inputs["Edema"]}
    after = classifier(pixel_values, prompt_inputs)["logits"]
    fresh = PromptClassifier(small_model)(pixel_values, prompt_inputs)["logits"]
    assert not after.equal(before)
    assert after.equal(fresh)


def test_gradients_reach_the_text_encoder(small_model, prompt_inputs, pixel_values):
    classifier = PromptClassifier(small_model).train()
    classifier(pixel_values, prompt_inputs)["logits"].sum().backward()
    assert small_model.text_model.projection_head.weight.grad.abs().sum() > 0


def test_inference_mode_leaves_nothing_behind(small_model, prompt_inputs, pixel_values):
    classifier = PromptClassifier(small_model)
    with torch.inference_mode():
        classifier(pixel_values, prompt_inputs)
    classifier(pixel_values, prompt_inputs)["logits"].sum().backward()


def test_a_model_loaded_in_inference_mode_classifies(prompt_inputs, pixel_values, small_model):
    with torch.inference_mode():
        model = MedCLIPModel.from_config(
            {
                "vision": small_model.vision_model.config,
                "text": small_model.text_model.config.to_diff_dict(),
            }
        ).eval()
    with torch.no_grad():
        assert PromptClassifier(model)(pixel_values, prompt_inputs)["logits"].shape == (5, 2)


def test_no_prompts_is_an_error(small_model, pixel_values):
    with pytest.raises(ValueError, match="prompt_inputs is empty"):
        PromptClassifier(small_model)(pixel_values, {})


def test_table_over_many_images(small_model, standin_processor, prompt_inputs, tmp_path):
    good = PARITY / "image.png"
    bad = tmp_path / "bad.png"
    bad.write_text("not an image")
    array = np.asarray(Image.open(good))
    table = classify_images(
        small_model,
        standin_processor,
        [good, bad, tmp_path / "missing.png", array],
        PROMPTS,
        spread=True,
        batch_size=2,
        progress=False,
    )
    assert list(table.columns) == [
        "image", "Edema", "Cardiomegaly", "Edema sd", "Cardiomegaly sd", "predicted", "status",
        "note",
    ]  # fmt: skip
    assert list(table["image"]) == [str(good), str(bad), str(tmp_path / "missing.png"), 3]
    assert list(table["status"] == "ok") == [True, False, False, True]
    assert "not a PNG" in table["status"][1] and "no image file" in table["status"][2]
    assert table.loc[[1, 2], ["Edema", "predicted"]].isna().all(axis=None)
    expected = PromptClassifier(small_model, ensemble=True)(
        standin_processor(images=good)["pixel_values"], prompt_inputs
    )
    for row in (0, 3):
        scores = table.loc[row, ["Edema", "Cardiomegaly"]].to_numpy(float)
        np.testing.assert_allclose(scores, expected["logits"][0].detach(), rtol=1e-5)
        assert table["predicted"][row] == ["Edema", "Cardiomegaly"][scores.argmax()]
        assert table["Cardiomegaly sd"][row] == 0  # one prompt has no spread
    sd = expected["prompt_logits"]["Edema"][0].std(correction=0).item()
    assert table["Edema sd"][0] == pytest.approx(sd, rel=1e-4)


def test_what_is_no_single_image_costs_its_own_row(small_model, standin_processor):
    good = PARITY / "image.png"
    other = np.asarray(Image.open(good))[::-1].copy()
    several = torch.zeros(2, 1, 20, 20)
    images = [good, float("nan"), 5, None, several, [good, good], other]
    table = classify_images(small_model, standin_processor, images, PROMPTS, progress=False)
    assert list(table["status"] == "ok") == [True, *[False] * 5, True]
    assert all("expected" in reason for reason in table["status"][1:6])
    alone = classify_images(small_model, standin_processor, [other], PROMPTS, progress=False)
    np.testing.assert_allclose(
        table.loc[6, list(PROMPTS)].tolist(), alone[list(PROMPTS)].loc[0], rtol=1e-5
    )


def test_all_images_unreadable_is_still_a_table(small_model, standin_processor, tmp_path):
    table = classify_images(
        small_model, standin_processor, [tmp_path / "a.png"], PROMPTS, progress=False
    )
    assert len(table) == 1 and table["status"][0] != "ok"


@pytest.mark.parametrize(
    ("images", "prompts", "expected"),
    [
        ([], PROMPTS, "images is empty"),
        ("scans", PROMPTS, "images is one path, scans: expected a list"),
        (Path("a.png"), PROMPTS, "images is one path, a.png: expected a list"),
        *(
            (["a.png"], {name: ["edema"]}, f"class name '{name}' is taken")
            for name in ("image", "predicted", "status", "note")
        ),
        (["a.png"], {"Edema": []}, "Edema"),
    ],
)
def test_bad_arguments(small_model, standin_processor, images, prompts, expected):
    with pytest.raises(ValueError, match=expected):
        classify_images(small_model, standin_processor, images, prompts, progress=False)


def test_strict_raises_what_the_first_unreadable_image_raises(
    small_model, standin_processor, tmp_path
):
    bad = tmp_path / "bad.png"
    bad.write_text("not an image")
    images = [PARITY / "image.png", bad, tmp_path / "missing.png"]
    settings = {"prompts": PROMPTS, "progress": False, "strict": True}
    with pytest.raises(ValueError, match="bad.png"):
        classify_images(small_model, standin_processor, images, **settings)
    with pytest.raises(FileNotFoundError, match="missing.png"):
        classify_images(small_model, standin_processor, images[::2], **settings)
    assert len(classify_images(small_model, standin_processor, images[:1], **settings)) == 1


def _arrays(count: int, size: int = 20):
    rng = np.random.default_rng(0)
    return (rng.integers(0, 256, (size, size), np.uint8) for _ in range(count))


def test_rows_keep_the_order_of_the_images(small_model, standin_processor, monkeypatch):
    images = list(_arrays(7))
    classify = [small_model, standin_processor]
    expected = [classify_images(*classify, [i], PROMPTS, progress=False) for i in images]
    sizes, encode = [], small_model.encode_image
    monkeypatch.setattr(small_model, "encode_image", lambda x: sizes.append(len(x)) or encode(x))
    table = classify_images(*classify, images, PROMPTS, batch_size=3, progress=False)
    assert sizes == [3, 3, 1]
    assert table["image"].tolist() == list(range(7))
    for name in PROMPTS:
        scores = [float(one[name][0]) for one in expected]
        assert len(set(scores)) == 7
        np.testing.assert_allclose(table[name], scores, rtol=1e-5)


def test_next_batch_is_read_while_a_gpu_works():
    second_is_read = threading.Event()

    def processor(images):
        if images[0].getpixel((0, 0)) == 2:
            second_is_read.set()
        return {}

    numbered = [np.full((8, 8), number, np.uint8) for number in (1, 2)]
    with closing(read_batches(processor, numbered, torch.device("cuda"), 1)) as batches:
        next(batches)
        assert second_is_read.wait(20)  # while we, the model, have not asked for it


def test_images_of_a_batch_are_read_at_the_same_time_on_a_cpu():
    together = threading.Barrier(8)

    def processor(images):
        together.wait(20)  # an error unless eight are being read
        return {}

    [batch] = read_batches(processor, _arrays(8), torch.device("cpu"), 8)
    for _, inputs in batch:
        inputs.result()


@pytest.mark.parametrize(("device", "ahead"), [("cpu", 0), ("cuda", 1)])
def test_images_are_asked_for_when_their_turn_comes(device, ahead):
    given, asked = 0, []

    def images():
        for number in range(10):
            asked.append((number, given))
            yield number

    for batch in read_batches(lambda images: None, images(), torch.device(device), 2):
        given += len(batch)
    assert given == 10
    # When image i is asked for, all batches before its own have been given, but for those ahead.
    assert asked == [(i, max(0, i // 2 - ahead) * 2) for i in range(10)]


def test_what_waits_to_be_read_is_dropped_with_the_batches():
    read, go_on = [], threading.Event()

    def processor(images):
        read.append(images)
        go_on.wait(20)
        return {}

    batches = read_batches(processor, _arrays(100), torch.device("cpu"), 100)
    next(batches)
    threading.Timer(2, go_on.set).start()
    batches.close()
    assert 0 < len(read) < 100


@pytest.mark.parametrize(("device", "size"), [("cpu", 8), ("cuda", 64)])
def test_a_batch_is_as_large_as_suits_the_device(device, size):
    with closing(read_batches(lambda images: {}, _arrays(65), torch.device(device))) as batches:
        assert len(next(batches)) == size


def test_no_batch_of_nothing():
    with pytest.raises(ValueError, match="batch_size is 0, expected at least 1"):
        next(read_batches(None, ["a.png"], torch.device("cpu"), 0))


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="no /proc")
def test_memory_is_flat_in_the_number_of_images(tmp_path):
    model, processor = load_medclip("demo", device="cpu")
    processor = MedCLIPProcessor(MedCLIPImageProcessor(32), processor.tokenizer)
    rng, kinds = np.random.default_rng(0), ["png", "jpg", "tif", None]
    for kind in kinds[:3]:
        picture = Image.fromarray(rng.integers(0, 256, (256, 256), np.uint8))
        picture.save(tmp_path / f"image.{kind}", compression="raw")
    memory, opened = [], []  # MB and open files, each time an image is asked for

    def images():
        for i in range(5000):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            memory.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
            opened.append(len(os.listdir("/proc/self/fd")))
            kind = kinds[i % 4]
            yield tmp_path / f"image.{kind}" if kind else np.full((256, 256), i % 256, np.uint8)

    table = classify_images(model, processor, images(), PROMPTS, progress=False)
    assert len(table) == 5000 and (table["status"] == "ok").all()
    # The decoded images of the last 4,000 would take 262 MB, the arrays among them alone 66 MB.
    assert max(memory[1000:]) - max(memory[:1000]) < 40
    # As many threads read as images are in a batch.
    assert max(opened) - opened[0] <= 64


def test_progress_is_shown_unless_it_is_not_wanted(small_model, standin_processor, capsys):
    images = [PARITY / "image.png"] * 3
    classify_images(small_model, standin_processor, images, PROMPTS)
    assert "3/3" in capsys.readouterr().err
    classify_images(small_model, standin_processor, images, PROMPTS, progress=False)
    assert not capsys.readouterr().err


def test_a_model_in_training_is_left_in_training(small_model, standin_processor):
    small_model.train()
    classify_images(small_model, standin_processor, [PARITY / "image.png"], PROMPTS)
    assert small_model.training and small_model.text_model.training


def test_a_blank_picture_is_said_to_be_blank(small_model, standin_processor):
    pictures = [np.full((40, 90), 77, np.uint8), PARITY / "image.png", Image.new("L", (64, 64))]
    table = classify_images(small_model, standin_processor, pictures, PROMPTS)
    assert table["note"].tolist() == ["blank", "", "blank"]
    assert table["status"].tolist() == ["ok"] * 3 and table["predicted"].notna().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_no_prediction(value, small_model, standin_processor):
    with torch.no_grad():
        small_model.vision_model.projection_head.weight[0, 0] = value
    row = classify_images(small_model, standin_processor, [PARITY / "image.png"], PROMPTS).iloc[0]
    assert row["status"] == "the model gives no finite score"
    assert row[["predicted", *PROMPTS]].isna().all()


def test_the_spread_of_a_class_may_not_take_the_place_of_another_class(
    small_model, standin_processor
):
    prompts = {"A": ["edema"], "A sd": ["heart"]}
    image = [PARITY / "image.png"]
    with pytest.raises(ValueError, match="class name 'A sd' is taken"):
        classify_images(small_model, standin_processor, image, prompts, spread=True)
    table = classify_images(small_model, standin_processor, image, prompts)
    assert table[["A", "A sd"]].notna().all(axis=None)


def test_one_image_or_a_table_is_no_list_of_images(small_model, standin_processor):
    picture = Image.open(PARITY / "image.png")
    table = pd.DataFrame({"imgpath": [PARITY / "image.png"]})
    for images, name in ((picture, "PngImageFile"), (table, "DataFrame"), ({1: picture}, "dict")):
        with pytest.raises(ValueError, match=f"images is a {name}: expected a list"):
            classify_images(small_model, standin_processor, images, PROMPTS)
