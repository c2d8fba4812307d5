"""Weights: fetched from a local server, unpacked, translated, loaded strictly."""

import functools
import http.server
import json
import threading
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from standin import PARITY, standin_state_dict

from medclip_helpers import checkpoints, download
from medclip_helpers.checkpoints import (
    fetch_weights,
    load_medclip,
    load_tokenizer,
    read_state_dict,
    translate,
)
from medclip_helpers.model import MedCLIPModel, MedCLIPVisionModel


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """An empty cache folder, and no mirror from the environment."""
    monkeypatch.setenv("MEDCLIP_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MEDCLIP_MIRROR", raising=False)
    return tmp_path / "home"


@pytest.fixture
def server(tmp_path):
    """A local web server: `.folder` is what it serves, `.url` its address, `.requests` its log."""
    folder = tmp_path / "www"
    folder.mkdir()
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, code="-", size="-"):
            requests.append(self.path)

        def log_error(self, *args):
            pass

    handler = functools.partial(Handler, directory=folder)
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    httpd.folder, httpd.requests = folder, requests
    httpd.url = f"http://127.0.0.1:{httpd.server_port}"
    yield httpd
    httpd.shutdown()
    httpd.server_close()


def write_zip(path: Path, state_dict: dict, member: str = "pytorch_model.bin") -> None:
    inner = path.with_suffix(".bin")
    torch.save(state_dict, inner)
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.write(inner, member)
    inner.unlink()


TINY = {  # enough to be recognised as a published checkpoint
    "vit": {"vision_model.model.encoder.layers.0.blocks.0.layernorm_before.weight": torch.ones(3)},
    "resnet": {"vision_model.model.layer1.0.conv1.weight": torch.ones(3)},
}


# --- fetching -----------------------------------------------------------------------------------


def test_fetch_keeps_a_safetensors_copy_and_asks_once(server, home):
    write_zip(server.folder / "medclip-vit-pretrained.zip", TINY["vit"])
    folder = fetch_weights("vit", mirror=server.url)
    assert folder.parent == home
    (name, tensor), *rest = load_file(folder / "model.safetensors").items()
    assert not rest and tensor.equal(TINY["vit"][name])
    source = json.loads((folder / "source.json").read_text())
    archive = server.folder / "medclip-vit-pretrained.zip"
    assert source == {"url": f"{server.url}/{archive.name}", "sha256": download.sha256(archive)}
    asked = len(server.requests)
    assert fetch_weights("vit", mirror=server.url) == folder
    assert len(server.requests) == asked
    assert [p.name for p in home.iterdir()] == ["medclip-vit"]  # nothing temporary is left


def test_mirror_and_home_come_from_the_environment(server, monkeypatch, tmp_path):
    write_zip(server.folder / "medclip-pretrained.zip", TINY["resnet"])
    monkeypatch.setenv("MEDCLIP_MIRROR", server.url + "/")
    assert fetch_weights("resnet", cache_dir=tmp_path / "drive").parent == tmp_path / "drive"


def test_the_repository_is_asked_for_the_current_address(server, monkeypatch):
    write_zip(server.folder / "moved.zip", TINY["vit"])
    (server.folder / "medclip_vit_weight.txt").write_text(f"{server.url}/moved.zip\n")
    monkeypatch.setattr(checkpoints, "WEIGHTS_URL", f"{server.url}/gone")
    monkeypatch.setattr(checkpoints, "POINTER_URL", server.url)
    folder = fetch_weights("vit")
    assert json.loads((folder / "source.json").read_text())["url"] == f"{server.url}/moved.zip"


def test_no_answer_names_every_address(server, home, monkeypatch):
    monkeypatch.setattr(checkpoints, "WEIGHTS_URL", f"{server.url}/gone")
    monkeypatch.setattr(checkpoints, "POINTER_URL", "http://127.0.0.1:9")
    with pytest.raises(download.DownloadError) as caught:
        fetch_weights("vit")
    assert f"{server.url}/gone/medclip-vit-pretrained.zip" in str(caught.value)
    assert "404" in str(caught.value) and "MEDCLIP_MIRROR" in str(caught.value)
    assert not list(home.iterdir())


@pytest.mark.parametrize("damage", ["truncated", "flipped", "not a zip", "wrong member"])
def test_a_damaged_archive_is_never_kept(server, home, damage):
    archive = server.folder / "medclip-vit-pretrained.zip"
    write_zip(
        archive, TINY["vit"], "readme.txt" if damage == "wrong member" else "pytorch_model.bin"
    )
    data = bytearray(archive.read_bytes())
    if damage == "truncated":
        data = data[: len(data) // 2]
    elif damage == "flipped":
        data[len(data) // 2] ^= 0xFF
    elif damage == "not a zip":
        data = b"<html>moved</html>"
    archive.write_bytes(data)
    with pytest.raises(ValueError, match="medclip-vit-pretrained.zip"):
        fetch_weights("vit", mirror=server.url)
    assert not list(home.iterdir())


def test_weights_of_the_other_encoder_are_refused(server):
    write_zip(server.folder / "medclip-vit-pretrained.zip", TINY["resnet"])
    with pytest.raises(ValueError, match="holds resnet weights, expected 'vit'"):
        fetch_weights("vit", mirror=server.url)


def test_a_full_disk_is_said_before_the_download(server, monkeypatch):
    write_zip(server.folder / "medclip-vit-pretrained.zip", TINY["vit"])
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(download.DownloadError, match="do not fit on the disk"):
        fetch_weights("vit", mirror=server.url)


def test_a_member_cannot_write_outside(server, tmp_path):
    write_zip(server.folder / "a.zip", TINY["vit"], "../../escaped/pytorch_model.bin")
    target = tmp_path / "in"
    target.mkdir()
    checkpoints.unpack_weights(server.folder / "a.zip", target)
    assert [p.name for p in target.iterdir()] == ["pytorch_model.bin"]
    assert not list(tmp_path.rglob("escaped"))


def test_tokenizer_is_fetched_once_and_checked(server, home):
    vocabulary = server.folder / checkpoints.TOKENIZER_FILE
    vocabulary.write_text("[PAD]\n[UNK]\n")
    with pytest.raises(ValueError, match="2 word pieces, expected 28996"):
        load_tokenizer(mirror=server.url)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "edema"]
    vocabulary.write_text("\n".join(special + [f"w{i}" for i in range(28996 - len(special))]))
    tokenizer = load_tokenizer(mirror=server.url)
    assert tokenizer("EDEMA").input_ids == [2, 5, 3]  # lower-cased, between [CLS] and [SEP]
    asked = len(server.requests)
    load_tokenizer(mirror=server.url)
    assert len(server.requests) == asked


# --- loading ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_load_from_zip_through_the_cache(name, server, standin_model, golden, standin_processor):
    write_zip(server.folder / checkpoints.PUBLISHED[name].file, standin_state_dict(name))
    model, _ = load_medclip(name, device="cpu", mirror=server.url)
    assert not any(module.training for module in model.modules())
    expected = standin_model(name).state_dict()
    assert all(tensor.equal(expected[key]) for key, tensor in model.state_dict().items())
    assert "research use only" in model.note


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


def test_the_other_encoder_is_named(standin_checkpoint):
    with pytest.raises(ValueError) as caught:
        MedCLIPModel(vision_cls=MedCLIPVisionModel).from_pretrained(standin_checkpoint("vit"))
    message = str(caught.value)
    assert "does not fit a model with encoder 'resnet50'" in message
    assert "published 'vit' checkpoint" in message
    assert "missing: vision_model.backbone.conv1.weight" in message
    assert "left over: vision_model.backbone.patch_embed.proj.weight" in message


def test_every_name_that_does_not_fit_is_listed(small_model, tmp_path):
    small_model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["surplus"] = torch.ones(1)
    del tensors["logit_scale"]
    tensors["text_model.projection_head.weight"] = torch.ones(1, 2)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError) as caught:
        load_medclip(tmp_path, device="cpu")
    assert "missing: logit_scale" in str(caught.value)
    assert "left over: surplus" in str(caught.value)
    assert "shape of text_model.projection_head.weight: (1, 2)" in str(caught.value)


def test_a_missing_third_of_an_attention_is_missing(standin_model):
    state_dict = standin_state_dict("vit")
    name = "vision_model.model.encoder.layers.1.blocks.0.attention.self.key.weight"
    del state_dict[name]
    with pytest.raises(ValueError, match=r"missing: .*layers\.1\.blocks\.0\.attn\.qkv\.weight"):
        checkpoints._fill(standin_model("vit"), state_dict, PARITY)


def test_translation_leaves_own_names_alone(small_model):
    own = small_model.state_dict()
    assert translate(own).keys() == {n for n in own if not checkpoints.DROPPED.search(n)}


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


def test_half_precision_copy_is_loaded_as_float32(small_model, tmp_path):
    small_model.save_pretrained(tmp_path, dtype=torch.float16)
    model, _ = load_medclip(tmp_path, device="cpu")
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("source", "error", "expected"),
    [
        ("vitt", ValueError, "unknown model 'vitt': expected 'vit', 'resnet', 'demo', 'auto'"),
        ("empty", FileNotFoundError, "expected model.safetensors or pytorch_model.bin"),
        ("broken.bin", ValueError, "is not a PyTorch checkpoint"),
        ("list.bin", ValueError, "holds no state dict"),
        ("other.bin", ValueError, "is no MedCLIP checkpoint"),
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


def test_own_encoder_has_no_published_weights(small_model):
    with pytest.raises(ValueError, match="no published weights for MedCLIPVisionEncoder"):
        small_model.from_pretrained()


def test_auto_falls_back_to_the_demo_and_says_so(monkeypatch):
    monkeypatch.setenv("MEDCLIP_MIRROR", "http://127.0.0.1:9")
    with pytest.warns(UserWarning, match="using the demo model, which was trained on drawings"):
        model, _ = load_medclip("auto", device="cpu")
    assert "drawings" in model.note


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
