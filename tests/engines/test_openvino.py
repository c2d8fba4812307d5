"""OpenVINO in torch's seat: the same numbers, kept exports, what it refuses, when it is chosen."""

import copy
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from medclip_helpers import SuperviseClassifier, classify_images, load_medclip, similarity_map
from medclip_helpers.demo import CHECKPOINT_FOLDER, draw_phantom
from medclip_helpers.engines import (
    CompiledEncoder,
    Encoder,
    NeedsTorch,
    choose_engine,
    compile_encoder,
    compiled,
    engine,
    export_onnx,
    is_faster,
)
from medclip_helpers.loading import encoders_of
from medclip_helpers.model import MedCLIPVisionEncoder
from medclip_helpers.prompts import load_class_prompts
from medclip_helpers.runs import describe_model
from medclip_helpers.similarity import encode_images, encode_texts

LACKING = [name for name in compiled.LIBRARIES if find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(LACKING), reason=f"not installed: {LACKING}")

IMAGES = [draw_phantom(seed).image for seed in range(3)]
NEAR = {"atol": 1e-4, "rtol": 0}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where the demo model's exports are kept."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def demo(cache):
    """The demo model in torch, the same in OpenVINO, and their processor."""
    reference, processor = load_medclip("demo", "cpu")
    return reference, load_medclip("demo", "cpu", engine="openvino", cache_dir=cache)[0], processor


@pytest.fixture
def no_export(monkeypatch):
    def fail(_):
        raise AssertionError("exported again")

    monkeypatch.setattr(engine, "export_onnx", fail)


# --- the same numbers -----------------------------------------------------------------------------


def test_a_whole_model_gives_the_same_logits(demo):
    reference, model, processor = demo
    assert (reference.engine, model.engine, model.precision) == ("torch", "openvino", "float32")
    prompts = load_class_prompts("chexpert", 4)
    tables = [classify_images(m, processor, IMAGES, prompts, progress=False) for m in demo[:2]]
    scores = [torch.tensor(table[list(prompts)].to_numpy(float)) for table in tables]
    torch.testing.assert_close(*scores, **NEAR)
    assert not scores[0].equal(scores[1])  # another library did it
    texts = sum(prompts.values(), [])
    torch.testing.assert_close(*(encode_texts(m, processor, texts) for m in demo[:2]), **NEAR)
    assert not [*model.vision_model.parameters(), *model.text_model.parameters()]
    assert model.note == reference.note and str(model.device) == "cpu"


@pytest.mark.parametrize("images", [1, 3, 8])
def test_any_number_of_images(images, demo):
    pixel_values = torch.randn(images, 1, 112, 112, generator=torch.Generator().manual_seed(images))
    with torch.no_grad():
        torch.testing.assert_close(
            demo[1].encode_image(pixel_values), demo[0].encode_image(pixel_values), **NEAR
        )


@pytest.mark.parametrize("texts", [1, 3, 8])
@pytest.mark.parametrize("tokens", [5, 20, 77])
def test_any_number_of_texts_of_any_length(texts, tokens, demo):
    numbers = torch.Generator().manual_seed(tokens)
    input_ids = torch.randint(5, 100, (texts, tokens), generator=numbers)
    mask = torch.ones_like(input_ids)
    mask[-1, tokens // 2 :] = 0
    with torch.no_grad():
        embeds = [[m.encode_text(input_ids, how) for how in (mask, None)] for m in demo[:2]]
    torch.testing.assert_close(embeds[1], embeds[0], **NEAR)
    assert not torch.allclose(embeds[1][0], embeds[1][1], **NEAR)  # the mask counts


SMALL = {  # the published kinds, small: windows that shift, batch normalisation
    "swin": ("swin_tiny_patch4_window7_224", {
        "img_size": 112, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4),
    }),
    "resnet": ("test_resnet", {}),
}  # fmt: skip


@pytest.mark.parametrize("kind", SMALL)
def test_both_kinds_of_image_encoders(kind, tmp_path):
    name, how = SMALL[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = MedCLIPVisionEncoder(name, 32, **how).eval()
        images = torch.randn(8, 1, 112, 112)
    encoder = Encoder(module, {"pixel_values": images[:2]}, ["images"])
    fast = compile_encoder(encoder, "weights", "float32", tmp_path)
    for number in (1, 3, 8):
        with torch.no_grad():
            torch.testing.assert_close(fast(images[:number]), module(images[:number]), **NEAR)


@pytest.mark.slow
def test_the_published_shape_gives_the_published_numbers(
    standin_checkpoint, standin_processor, golden, tmp_path
):
    folder = standin_checkpoint("vit")
    model, _ = load_medclip(folder, "cpu", engine="openvino", cache_dir=tmp_path)
    outputs = model(**{k: golden[k] for k in ("pixel_values", "input_ids", "attention_mask")})
    torch.testing.assert_close(outputs.logits, golden["vit"]["logits"], atol=1e-3, rtol=0)


def test_half_precision_is_said_and_near(cache, demo, no_export):
    model, processor = load_medclip(
        "demo", "cpu", precision="bfloat16", engine="openvino", cache_dir=cache
    )
    assert (model.precision, model.engine) == ("bfloat16", "openvino")
    exact, embeds = (encode_images(m, processor, IMAGES, progress=False) for m in (demo[0], model))
    assert embeds.dtype == torch.float32
    torch.testing.assert_close(embeds, exact, atol=0.03, rtol=0)


def test_threads_take_turns(demo):
    _, model, processor = demo
    pixel_values = [processor(images=[image])["pixel_values"] for image in IMAGES] * 20
    expected = [model.encode_image(pixels) for pixels in pixel_values]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(model.encode_image, pixel_values))
    torch.testing.assert_close(found, expected)


def test_the_precision_is_the_compiled_one(demo):
    with pytest.raises(
        ValueError, match="openvino computes this model in float32: .* load it again"
    ):
        demo[1].precision = "bfloat16"
    assert demo[1].precision == "float32"


def test_results_say_what_computed_which_weights(demo):
    reference, model, _ = demo
    first, second = describe_model(reference), describe_model(model)
    assert (first.pop("engine"), second.pop("engine")) == ("torch", "openvino")
    assert first == second and first["parameters"] > 1e6


# --- exports are kept -----------------------------------------------------------------------------


def test_a_second_load_uses_what_is_kept(cache, demo, no_export):
    model, processor = load_medclip("demo", "cpu", engine="openvino", cache_dir=cache)
    assert len(list((cache / "engines").iterdir())) == 2
    torch.testing.assert_close(
        *(encode_images(m, processor, IMAGES, progress=False) for m in (model, demo[1]))
    )


class Scaled(nn.Module):
    """A small encoder, whose export takes a moment."""

    def __init__(self, factor: float = 1.0):
        super().__init__()
        self.config = {"factor": factor}
        self.weight = nn.Parameter(torch.linspace(-1, 1, 6).view(3, 2) * factor)

    def forward(self, values):
        return values @ self.weight


def scaled(factor: float = 1.0, width: int = 3) -> Encoder:
    return Encoder(Scaled(factor), {"values": torch.arange(2.0 * width).view(2, width)}, ["rows"])


def test_only_an_export_of_the_same_is_used(tmp_path, monkeypatch):
    exported = []

    def export(encoder):
        exported.append(encoder)
        return export_onnx(encoder)

    monkeypatch.setattr(engine, "export_onnx", export)
    for weights, factor, expected in [("a", 1, 1), ("a", 1, 1), ("b", 1, 2), ("a", 2, 3)]:
        fast = compile_encoder(scaled(factor), weights, "float32", tmp_path)
        torch.testing.assert_close(
            fast(torch.ones(1, 3)), Scaled(factor)(torch.ones(1, 3)).detach()
        )
        assert len(exported) == expected
    monkeypatch.setattr(engine, "export_versions", lambda: {"torch": "another"})
    compile_encoder(scaled(), "a", "float32", tmp_path)
    assert len(exported) == len(list(tmp_path.iterdir())) == 4


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path):
    taken = tmp_path / "engines"
    taken.write_text("a file")
    with pytest.warns(UserWarning, match=f"could not be kept: .*{taken}") as caught:
        fast = compile_encoder(scaled(), "a", "float32", taken)
    assert caught[0].filename == __file__
    assert fast(torch.ones(4, 3)).shape == (4, 2)


def test_an_export_that_gives_other_numbers_is_refused():
    class Counting(Scaled):
        calls = 0

        def forward(self, values):
            self.calls += 1  # what torch writes down is one of them
            return values @ self.weight * self.calls

    with pytest.raises(ValueError, match="export of a Counting gives other numbers"):
        export_onnx(scaled()._replace(module=Counting()))


# --- what it refuses ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ask",
    [
        lambda model, pixels: model.train(),
        lambda model, pixels: model.state_dict(),
        lambda model, pixels: model.save_pretrained("x"),
        lambda model, pixels: model.from_pretrained(CHECKPOINT_FOLDER),
        lambda model, pixels: copy.deepcopy(model),
        lambda model, pixels: similarity_map(model, pixels, torch.ones(1, 512)),
        lambda model, pixels: model.vision_model(pixels, project=False),
        lambda model, pixels: model.vision_model(pixels, False),
        lambda model, pixels: model.text_model(inputs_embeds=torch.ones(1, 4, 64)),
        lambda model, pixels: SuperviseClassifier(model.vision_model),
    ],
)
def test_what_needs_torch_says_so(ask, demo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = demo[2](images=IMAGES[:1])["pixel_values"]
    with pytest.raises(NeedsTorch, match='load the model with engine="torch"'):
        ask(demo[1], pixels)
    assert not list(tmp_path.iterdir())


def test_an_image_of_another_shape_is_refused(demo):
    for shape in [(1, 3, 112, 112), (1, 1, 56, 112), (1, 112, 112)]:
        with pytest.raises(
            ValueError, match=r"pixel_values has shape .* expected \[\?,1,112,112\]"
        ):
            demo[1].encode_image(torch.zeros(shape))


@pytest.mark.parametrize(
    ("device", "precision", "message"),
    [
        ("cuda", "float32", "not on 'cuda' in float32"),
        ("cpu", "float16", "not on 'cpu' in float16"),
    ],
)
def test_what_it_cannot_is_refused_and_not_chosen(device, precision, message):
    with pytest.raises(ValueError, match=message):
        choose_engine("openvino", device, precision)
    assert choose_engine("auto", device, precision) == "torch"


def test_another_engine_is_refused():
    with pytest.raises(ValueError, match="engine is 'onnx', expected 'auto' or one of"):
        load_medclip("demo", engine="onnx")


# --- when it is chosen ----------------------------------------------------------------------------


def test_where_it_is_not_installed_torch_computes(monkeypatch, recwarn):
    monkeypatch.setattr(compiled, "find_spec", lambda name: None if name == "openvino" else name)
    assert load_medclip("demo", "cpu", engine="auto")[0].engine == "torch"
    assert not [w for w in recwarn if "openvino" in str(w.message)]
    with pytest.warns(UserWarning, match=r"using torch instead.*openvino not installed: .* pip"):
        model, processor = load_medclip("demo", "cpu", engine="openvino")
    assert model.engine == "torch" and model.state_dict()
    assert len(encode_images(model, processor, IMAGES, progress=False)) == 3


@pytest.mark.parametrize("faster", [["images", "texts"], ["images"], ["texts"]])
def test_auto_takes_what_was_faster_for_both(faster, cache, demo, monkeypatch):
    def measured(fast, encoder, precision):
        assert isinstance(fast, CompiledEncoder) and precision == "float32"
        return encoder.axes[0] in faster

    monkeypatch.setattr("medclip_helpers.loading.is_faster", measured)
    model, _ = load_medclip("demo", "cpu", engine="auto", cache_dir=cache)
    assert model.engine == ("openvino" if len(faster) == 2 else "torch")
    assert isinstance(model.vision_model, CompiledEncoder) == (len(faster) == 2)
    assert (model.compiled_from is None) == (model.engine == "torch")


@pytest.mark.parametrize("asked", ["auto", "openvino"])
def test_what_cannot_be_exported_is_computed_by_torch_or_refused(asked, tmp_path, monkeypatch):
    def fail(_):
        raise TypeError("no such operator")

    monkeypatch.setattr(engine, "export_onnx", fail)
    how = {"engine": asked, "cache_dir": tmp_path}
    if asked == "openvino":
        with pytest.raises(TypeError, match="no such operator"):
            load_medclip("demo", "cpu", **how)
    else:
        with pytest.warns(UserWarning, match="using torch, .*: no such operator"):
            assert load_medclip("demo", "cpu", **how)[0].engine == "torch"


def test_faster_is_measured():
    class Sleeping(nn.Module):
        def __init__(self, seconds):
            super().__init__()
            self.seconds, self.sizes = seconds, []

        def forward(self, values):
            self.sizes.append(len(values))
            time.sleep(self.seconds)

    slow, quick = Sleeping(0.05), Sleeping(0)
    assert is_faster(quick, scaled()._replace(module=slow), "float32")
    assert not is_faster(slow, scaled()._replace(module=quick), "float32")
    assert set(slow.sizes) == {8} and len(slow.sizes) == len(quick.sizes) == 8


def test_openvino_reports_nothing_to_its_maker():
    program = "from medclip_helpers.engines.compiled import import_openvino; import sys\n"
    program += "import_openvino().Core(); print('reports:', sys.modules['openvino_telemetry'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "reports: None\n", done.stderr


def test_the_export_is_of_what_the_model_takes(demo):
    reference, _, processor = demo
    for name, (module, example, _axes) in encoders_of(reference, processor).items():
        assert module is getattr(reference, name)
        assert module(**example).shape == (2, 512)
