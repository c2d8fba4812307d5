"""Weights: read from files that may be hostile, translated, loaded strictly."""

import json
import random
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from standin import PARITY, standin_state_dict

from medclip_helpers.constants import PUBLISHED_FORMAT_NOTE
from medclip_helpers.demo import CHECKPOINT_FOLDER
from medclip_helpers.hub import FORMAT, Checkpoint, download, fill_weights, read_state_dict
from medclip_helpers.hub.names import DROPPED, translate
from medclip_helpers.loading import load_medclip
from medclip_helpers.model import MedCLIPModel, MedCLIPVisionModel


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """An empty cache folder, and no mirror from the environment."""
    monkeypatch.setenv("MEDCLIP_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MEDCLIP_MIRROR", raising=False)
    return tmp_path / "home"


@pytest.mark.parametrize("position_ids", [True, False])
def test_load_folder_with_or_without_index_buffers(position_ids, tmp_path, standin_model):
    state_dict = standin_state_dict("vit")
    if position_ids:
        block = (
            "vision_model.model.encoder.layers.0.blocks.0.attention.self.relative_position_index"
        )
        state_dict[block] = torch.zeros(49, 49, dtype=torch.int64)
    else:
        del state_dict["text_model.model.embeddings.position_ids"]
    torch.save(state_dict, tmp_path / "pytorch_model.bin")
    model = MedCLIPModel().from_pretrained(tmp_path)
    expected = standin_model("vit").state_dict()
    assert all(tensor.equal(expected[key]) for key, tensor in model.state_dict().items())


def test_reads_files_saved_on_cuda_and_in_the_old_format(tmp_path, monkeypatch):
    tensors = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
    torch.save(tensors, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    torch.save(tensors, tmp_path / "cuda.bin")
    for file in ("old.bin", "cuda.bin"):
        read = read_state_dict(tmp_path / file)
        assert all(read[name].equal(tensors[name]) for name in tensors)
        assert all(tensor.device.type == "cpu" for tensor in read.values())


class WritesAFile:
    """Its pickle, unpickled without care, writes a file."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.write_text, (self.target, "this code has run")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_pickle_that_would_run_code_is_refused(zipped, wrapped, tmp_path):
    target = tmp_path / "written"
    hostile = {"a": torch.ones(1), "b": WritesAFile(target)}
    file = tmp_path / "pytorch_model.bin"
    torch.save(hostile, file, _use_new_zipfile_serialization=zipped)
    torch.load(file, weights_only=False)
    assert target.read_text() == "this code has run"  # so it would
    target.unlink()
    if wrapped:
        with zipfile.ZipFile(tmp_path / "published.zip", "w") as archive:
            archive.write(file, "pytorch_model.bin")
        file = tmp_path / "published.zip"
    with pytest.raises(ValueError, match="pytorch_model.bin is not a PyTorch checkpoint") as error:
        load_medclip(file, device="cpu")
    assert not target.exists()
    assert "weights_only" not in str(error.value)  # torch tells how to run it all the same


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (torch.zeros(1).expand(10**10), "expands to 4e[+]10 bytes, expected at most 2e[+]09"),
        (torch.eye(3).to_sparse(), "a is .*, expected an ordinary tensor"),
        (torch.empty(3, device="meta"), "a is .*, expected an ordinary tensor"),
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_tensors_that_take_no_memory_until_they_are_used_are_refused(tensor, expected, tmp_path):
    torch.save({"a": tensor}, tmp_path / "a.bin")
    with pytest.raises(ValueError, match=f"a.bin.*{expected}"):
        read_state_dict(tmp_path / "a.bin")


def test_a_checkpoint_that_was_compressed_is_refused(tmp_path):
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "a.bin")
    with (
        zipfile.ZipFile(tmp_path / "a.bin") as plain,
        zipfile.ZipFile(tmp_path / "b.bin", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for member in plain.infolist():
            packed.writestr(member.filename, plain.read(member))
    assert torch.load(tmp_path / "b.bin", weights_only=True)  # PyTorch would inflate a bomb
    with pytest.raises(ValueError, match="b.bin is not a PyTorch checkpoint: .* compressed"):
        read_state_dict(tmp_path / "b.bin")


@pytest.mark.parametrize("suffix", [".bin", ".safetensors", ".zip"])
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_truncated_files_are_named(suffix, share, tmp_path, small_model):
    file = tmp_path / f"cut{suffix}"
    tensors = small_model.state_dict()
    save_file(tensors, file) if suffix == ".safetensors" else torch.save(tensors, file)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match=f"{file} is not "):
        load_medclip(file, device="cpu")


def test_the_other_encoder_is_named(standin_checkpoint):
    with pytest.raises(ValueError) as caught:
        MedCLIPModel(vision_cls=MedCLIPVisionModel).from_pretrained(standin_checkpoint("vit"))
    message = str(caught.value)
    assert "does not fit this MedCLIPModel" in message
    assert "published 'vit' one" in message
    assert "missing: vision_model.backbone.conv1.weight" in message
    assert "left over: vision_model.backbone.patch_embed.proj.weight" in message


def test_every_name_that_does_not_fit_is_listed(small_model, tmp_path):
    small_model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["surplus"] = torch.ones(1)
    del tensors["logit_scale"]
    tensors["text_model.projection_head.weight"] = torch.ones(1, 2)
    bias = "text_model.model.pooler.dense.bias"
    tensors[bias] = tensors[bias].long()
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError) as caught:
        load_medclip(tmp_path, device="cpu")
    assert "missing: logit_scale" in str(caught.value)
    assert "left over: surplus" in str(caught.value)
    assert "shape of text_model.projection_head.weight: (1, 2)" in str(caught.value)
    assert f"type of {bias}: torch.int64, expected torch.float32" in str(caught.value)


def test_a_missing_third_of_an_attention_is_missing(standin_model):
    state_dict = standin_state_dict("vit")
    name = "vision_model.model.encoder.layers.1.blocks.0.attention.self.key.weight"
    del state_dict[name]
    with pytest.raises(ValueError, match=r"missing: .*layers\.1\.blocks\.0\.attn\.qkv\.weight"):
        fill_weights(
            standin_model("vit"), Checkpoint(PARITY / "x.bin", translate(state_dict), "vit", None)
        )


def test_translation_leaves_own_names_alone(small_model):
    own = small_model.state_dict()
    assert translate(own).keys() == {n for n in own if not DROPPED.search(n)}


def test_save_and_load_give_the_same_model(small_model, standin_processor, tmp_path):
    small_model.note = "a note that travels"
    small_model.save_pretrained(tmp_path)
    standin_processor.save_pretrained(tmp_path)
    model, processor = load_medclip(tmp_path, device="cpu")
    expected = small_model.state_dict()
    assert all(tensor.equal(expected[key]) for key, tensor in model.state_dict().items())
    assert model.note == small_model.note and not model.training
    text = "small left pleural effusion"
    assert processor(text=text).input_ids.equal(standin_processor(text=text).input_ids)


def test_half_precision_copy_is_loaded_as_float32(small_model, standin_processor, tmp_path):
    small_model.save_pretrained(tmp_path, dtype=torch.float16)
    standin_processor.save_pretrained(tmp_path)
    model, _ = load_medclip(tmp_path, device="cpu")
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("source", "error", "expected"),
    [
        ("vitt", ValueError, "unknown model 'vitt': expected 'vit', 'resnet', 'demo', 'auto'"),
        ("", ValueError, "unknown model '': expected 'vit'"),
        (None, ValueError, "unknown model None: expected 'vit'"),
        ("weights/vit", FileNotFoundError, "no folder or file with weights at weights/vit"),
        (Path("gone"), FileNotFoundError, "no folder or file with weights at gone"),
        ("gone.zip", FileNotFoundError, "no folder or file with weights at gone.zip"),
        ("empty", FileNotFoundError, "expected model.safetensors or pytorch_model.bin"),
        ("broken.bin", ValueError, "is not a PyTorch checkpoint"),
        ("list.bin", ValueError, "holds no state dict"),
        ("other.bin", ValueError, "is not a MedCLIP checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_said(source, error, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("broken.bin").write_bytes(b"not a pickle")
    torch.save([torch.ones(1)], "list.bin")
    torch.save({"a": torch.ones(1)}, "other.bin")
    with pytest.raises(error, match=expected):
        load_medclip(source, device="cpu")


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("config.json", "{", "config.json is not JSON"),
        ("config.json", "[]", "is not a MedCLIP checkpoint"),
        ("config.json", '{"vision": {"backbone": "no such"}, "text": {}}', "not describe a model"),
        ("config.json", '{"vision": 1}', "not describe a model"),
        ("preprocessor_config.json", '{"size": 1000000000}', "size is 1000000000, expected 1 to"),
        ("preprocessor_config.json", '{"std": 0}', "std 0, expected numbers, and std above 0"),
        ("preprocessor_config.json", '{"speed": 1}', "holds a damaged processor: .*speed"),
        ("tokenizer.json", '{"version": "1.0"', "holds a damaged processor"),
    ],
)
def test_damaged_settings_are_named(file, content, expected, tmp_path):
    folder = shutil.copytree(CHECKPOINT_FOLDER, tmp_path / "mine")
    (folder / file).write_text(content)
    with pytest.raises(ValueError, match=expected) as caught:
        load_medclip(folder, device="cpu")
    assert str(folder) in str(caught.value)


def test_a_model_may_be_saved_over_the_files_that_it_came_from(
    small_model, standin_processor, tmp_path
):
    small_model.save_pretrained(tmp_path)
    standin_processor.save_pretrained(tmp_path)
    model, _ = load_medclip(tmp_path, device="cpu")
    with torch.no_grad():
        model.logit_scale += 1
    model.save_pretrained(tmp_path)
    again, _ = load_medclip(tmp_path, device="cpu")
    expected = model.state_dict()
    assert all(tensor.equal(expected[key]) for key, tensor in again.state_dict().items())


def test_own_encoder_has_no_published_weights(small_model):
    with pytest.raises(ValueError, match="no published weights for backbone 'test_resnet'"):
        small_model.from_pretrained()


def test_auto_falls_back_to_the_demo_and_says_so(monkeypatch):
    monkeypatch.setenv("MEDCLIP_MIRROR", "http://127.0.0.1:9")
    with pytest.warns(UserWarning, match="using the demo model, which was trained on drawings"):
        model, _ = load_medclip("auto", device="cpu")
    assert "drawings" in model.note


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("tensor", ["logit_scale", "running_var", "projection_head.weight"])
def test_weights_that_are_not_finite_are_refused(
    value, tensor, small_model, standin_processor, tmp_path
):
    state = small_model.state_dict()
    name = next(key for key in state if key.endswith(tensor))
    before = state[name].clone()
    state[name].view(-1)[0] = value
    small_model.save_pretrained(tmp_path)
    standin_processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"values of {name}: not all are finite"):
        load_medclip(tmp_path, device="cpu")
    state[name].copy_(before)
    with pytest.raises(ValueError, match="not all are finite"):
        small_model.from_pretrained(tmp_path)
    assert small_model.state_dict()[name].equal(before)


def test_finite_weights_whose_sum_is_not_are_loaded(small_model, standin_processor, tmp_path):
    with torch.no_grad():
        small_model.text_model.projection_head.weight.fill_(3e38)
    small_model.save_pretrained(tmp_path)
    standin_processor.save_pretrained(tmp_path)
    assert load_medclip(tmp_path, device="cpu")


def test_a_model_without_its_processor_is_refused(small_model, standin_processor, tmp_path):
    """Its images would be of the published size and its words of the published vocabulary."""
    small_model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no preprocessor_config.json: save its processor there"):
        load_medclip(tmp_path, device="cpu")
    standin_processor.save_pretrained(tmp_path)
    for file in ("tokenizer.json", "vocab.txt"):
        (tmp_path / file).unlink(missing_ok=True)
    with pytest.raises(ValueError, match="no tokenizer: save its processor there"):
        load_medclip(tmp_path, device="cpu")


@pytest.mark.parametrize("name", ["mean", "std"])
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_a_processor_that_is_not_finite_is_refused(name, value, tmp_path):
    folder = shutil.copytree(CHECKPOINT_FOLDER, tmp_path / "mine")
    (folder / "preprocessor_config.json").write_text(f'{{"size": 112, "{name}": {value}}}')
    with pytest.raises(ValueError, match="mean is .* and std .*, expected numbers"):
        load_medclip(folder, device="cpu")


def test_a_config_sends_nobody_to_the_network(tmp_path, monkeypatch):
    def no_network(*args, **options):
        raise AssertionError("asked the network")

    monkeypatch.setattr("timm.models._builder.load_pretrained", no_network)
    folder = shutil.copytree(CHECKPOINT_FOLDER, tmp_path / "mine")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(
        config.replace('"vision": {', '"vision": {"pretrained": true, ', 1)
    )
    load_medclip(folder, device="cpu")
    config = config.replace('"resnet10t"', '"hf-hub:timm/resnet10t"')
    (folder / "config.json").write_text(config)
    with pytest.raises(ValueError, match="backbone is 'hf-hub:timm/resnet10t', expected a timm"):
        load_medclip(folder, device="cpu")


def test_loading_moves_no_random_generator():
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    load_medclip("demo", device="cpu")
    assert torch.get_rng_state().equal(before[0])
    assert (np.random.get_state()[1] == before[1]).all() and random.getstate() == before[2]


def test_a_file_of_a_newer_format_is_refused(tmp_path):
    folder = shutil.copytree(CHECKPOINT_FOLDER, tmp_path / "mine")
    config = json.loads((folder / "config.json").read_text())
    for number in (FORMAT + 1, "1", True, 0):
        (folder / "config.json").write_text(json.dumps(config | {"format": number}))
        with pytest.raises(ValueError, match=f"config.json is of format {number!r}, and this"):
            load_medclip(folder, device="cpu")
    (folder / "config.json").write_text(json.dumps(config | {"format": FORMAT}))
    assert load_medclip(folder, device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("cuda", "device 'cuda' is not on this machine: expected one of"),
        ("tpu", "device is 'tpu', expected 'auto' or one of"),
        ("meta", "device 'meta' is not on this machine"),
    ],
)
def test_a_device_that_is_not_here_is_named(device, expected):
    with pytest.raises(ValueError, match=expected):
        load_medclip("demo", device=device)


def test_random_weights_under_published_names_are_not_called_published(standin_model):
    assert standin_model("vit").note == PUBLISHED_FORMAT_NOTE


@pytest.mark.download
def test_published_weights_give_the_reported_logits(tmp_path, monkeypatch):
    """Two independent users of the published package report these two numbers."""
    monkeypatch.delenv("MEDCLIP_HOME")  # the reader's own cache: 550 MB are not fetched twice
    image = tmp_path / "view1_frontal.jpg"
    repository = "https://raw.githubusercontent.com/RyanWangZf/MedCLIP/main"
    download.fetch([f"{repository}/example_data/{image.name}"], image)
    model, processor = load_medclip("vit", device="cpu")
    texts = [
        "lungs remain severely hyperinflated with upper lobe emphysema",
        "opacity left costophrenic angle is new since prior exam ___ represent some loculated "
        "fluid cavitation unlikely",
    ]
    with torch.no_grad():
        logits = model(**processor(text=texts, images=image)).logits
    torch.testing.assert_close(logits, torch.tensor([[0.1729, 0.3899]]), rtol=0, atol=1e-3)
