"""A hostile weight host, and disks that fail: a clear error or a right result, no half files."""

import errno
import functools
import http.server
import itertools
import json
import multiprocessing
import os
import socket
import stat
import subprocess
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file
from standin import standin_state_dict

from medclip_helpers.hub import (
    DownloadError,
    download,
    fetch_weights,
    load_tokenizer,
    published,
    read_checkpoint,
    read_state_dict,
    records,
)
from medclip_helpers.hub import weights as hub_weights
from medclip_helpers.loading import load_medclip

ARCHIVE = "medclip-vit-pretrained.zip"
TINY = {  # enough to be recognised as a published checkpoint
    "vit": {"vision_model.model.encoder.layers.0.blocks.0.layernorm_before.weight": torch.ones(3)},
    "resnet": {"vision_model.model.layer1.0.conv1.weight": torch.ones(3)},
}


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves `folder`, but plays the next trick of `tricks[name]`, while there are any.

    A download makes two requests: one to see whether there is an answer, one for the file.
    """

    def do_GET(self):
        self.server.requests.append(self.path)
        tricks = self.server.tricks.get(Path(self.path).name, [])
        trick = tricks.pop(0) if tricks else "fine"
        if trick == "fine":
            super().do_GET()
        elif trick in ("404", "500"):
            self.send_error(int(trick))
        else:
            getattr(self, trick)(Path(self.translate_path(self.path)).read_bytes())

    def answer(self, data: bytes, length: int | None = None) -> None:
        self.send_response(200)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(data)

    def redirect(self, data):
        self.send_response(302)
        self.send_header("Location", f"/again{self.path}")
        self.end_headers()

    def slow(self, data):
        self.answer(b"", len(data))
        for start in range(0, len(data), 64):
            self.wfile.write(data[start : start + 64])
            time.sleep(0.02)

    def html(self, data):
        self.answer(b"<html>this page has moved</html>")

    def cut(self, data):
        self.answer(data[: len(data) // 2], len(data))

    def cut_without_length(self, data):
        self.answer(data[: len(data) // 2])

    def without_length(self, data):
        self.answer(data)

    def length_too_small(self, data):
        self.answer(data, len(data) // 2)

    def length_too_large(self, data):
        self.answer(data, len(data) * 2)

    def no_number_for_length(self, data):
        self.answer(data, "some")

    def stall(self, data):
        self.answer(data[: len(data) // 2], len(data))
        self.server.closing.wait()

    def silence(self, data):
        self.server.closing.wait()

    def no_http(self, data):
        self.wfile.write(b"220 mail.example.org ESMTP\r\n")

    def translate_path(self, path):
        return super().translate_path(path.removeprefix("/again"))

    def log_message(self, *args):
        pass


@pytest.fixture
def host(tmp_path):
    """The weight host: `.folder` is served, `.tricks` are played; `.url`, `.requests`."""
    folder = tmp_path / "www"
    folder.mkdir()
    handler = functools.partial(Handler, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.folder, server.tricks, server.requests = folder, {}, []
    server.closing = threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """An empty cache folder, no mirror from the environment, and no pause before a second try."""
    monkeypatch.setenv("MEDCLIP_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MEDCLIP_MIRROR", raising=False)
    monkeypatch.setattr(download, "RETRY_PAUSE", 0)
    return tmp_path / "home"


def write_zip(path: Path, state_dict: dict, member: str = "pytorch_model.bin", **options) -> None:
    info = zipfile.ZipInfo(member)  # `ZipFile.write` would take away the root of its path
    with zipfile.ZipFile(path, "w", **options) as zipped:
        info.compress_type = zipped.compression
        with zipped.open(info, "w") as out:
            torch.save(state_dict, out)


def kept(home: Path) -> list[str]:
    return sorted(p.name for p in home.iterdir() if p.suffix != ".lock")


def assert_next_call_works(host, home):
    write_zip(host.folder / ARCHIVE, TINY["vit"])
    folder = fetch_weights("vit", mirror=host.url)
    (name, tensor), *rest = read_state_dict(folder).items()
    assert not rest and tensor.equal(TINY["vit"][name])
    assert kept(home) == ["medclip-vit"]
    assert kept(folder) == ["model.safetensors", "model.safetensors.source.json"]


# --- what goes well -----------------------------------------------------------------------------


def test_fetch_keeps_a_safetensors_copy_and_asks_once(host, home):
    assert_next_call_works(host, home)
    folder = home / "medclip-vit"
    record = json.loads((folder / "model.safetensors.source.json").read_text())
    status = (folder / "model.safetensors").stat()
    assert record == {
        "url": f"{host.url}/{ARCHIVE}",
        "sha256": records.sha256(folder / "model.safetensors"),
        "zip_sha256": records.sha256(host.folder / ARCHIVE),
        "official": False,  # a mirror could hold anything
        "stamp": [status.st_size, status.st_mtime_ns, status.st_ino],
    }
    asked = len(host.requests)
    assert fetch_weights("vit", mirror=host.url) == folder
    assert len(host.requests) == asked


def test_mirror_and_home_come_from_the_environment(host, monkeypatch, tmp_path):
    write_zip(host.folder / "medclip-pretrained.zip", TINY["resnet"])
    monkeypatch.setenv("MEDCLIP_MIRROR", host.url + "/")
    assert fetch_weights("resnet", cache_dir=tmp_path / "drive").parent == tmp_path / "drive"


@pytest.mark.parametrize("first", ["404", "html", "cut_without_length"])
def test_the_repository_is_asked_for_the_current_address(first, host, monkeypatch):
    write_zip(host.folder / ARCHIVE, TINY["vit"])
    write_zip(host.folder / "moved.zip", TINY["vit"])
    (host.folder / "medclip_vit_weight.txt").write_text(f"{host.url}/moved.zip\n")
    host.tricks[ARCHIVE] = [first] * 2
    monkeypatch.setattr(published, "WEIGHTS_URL", host.url)
    monkeypatch.setattr(published, "POINTER_URL", host.url)
    record = json.loads(records.record_of(fetch_weights("vit") / "model.safetensors").read_text())
    assert record["url"] == f"{host.url}/moved.zip"


@pytest.mark.parametrize(
    "tricks",
    [
        ["slow", "slow"],
        ["redirect", "fine", "redirect", "fine"],
        ["without_length", "without_length"],
        ["500"],
        ["fine", "500"],
        ["fine", "cut"],
    ],
)
def test_a_host_that_is_slow_or_fails_once(tricks, host, home):
    host.tricks[ARCHIVE] = tricks
    assert_next_call_works(host, home)
    assert not tricks  # all were played


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_load_from_zip_through_the_cache(name, host, standin_model):
    write_zip(host.folder / published.PUBLISHED[name].file, standin_state_dict(name))
    model, _ = load_medclip(name, device="cpu", mirror=host.url)
    assert not any(module.training for module in model.modules())
    expected = standin_model(name).state_dict()
    assert all(tensor.equal(expected[key]) for key, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert "research use only" in model.note
    pixel_values = torch.zeros(1, 1, 224, 224)  # through the buffers that no checkpoint holds, too
    with torch.no_grad():
        torch.testing.assert_close(
            model.encode_image(pixel_values),
            standin_model(name).encode_image(pixel_values),
            rtol=0,
            atol=1e-6,
        )


def _fetch(url: str) -> None:
    fetch_weights("vit", mirror=url)


@pytest.mark.slow
def test_two_processes_download_once(host, home):
    write_zip(host.folder / ARCHIVE, TINY["vit"])
    host.tricks[ARCHIVE] = ["slow", "slow"]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_fetch, args=(host.url,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(host.requests) in (2, 3)  # the one that waits may ask whether anything answers
    assert kept(home) == ["medclip-vit"]


def test_what_a_killed_process_left_is_swept(host, home):
    (home / ".medclip-vit.part").mkdir(parents=True)
    (home / ".medclip-vit.part" / ARCHIVE).write_bytes(b"half")
    (home / "medclip-vit").mkdir()  # and here somebody deleted the weights
    (home / "medclip-vit" / "model.safetensors.source.json").write_text("{}")
    assert_next_call_works(host, home)


# --- a host that does not answer as it should ---------------------------------------------------


@pytest.mark.parametrize(
    ("tricks", "expected"),
    [
        (["404"], "HTTP Error 404"),
        (["500", "500"], "HTTP Error 500"),
        (["fine", "cut", "fine", "cut"], "retrieval incomplete: got only"),
        (["fine", "length_too_large"] * 2, "retrieval incomplete: got only"),
        (["fine", "length_too_small"], "is not an intact zip file"),
        (["no_number_for_length"], "invalid literal for int"),
        (["fine", "cut_without_length"], "is not an intact zip file"),
        (["html", "html"], "is not an intact zip file"),
        (["fine", "stall"], "timed out"),
        (["silence"], "timed out|no answer within 1 seconds"),
        (["no_http"], "220 mail.example.org"),
    ],
)
def test_a_bad_answer_is_said_and_nothing_is_kept(tricks, expected, host, home, monkeypatch):
    if tricks[-1] in ("stall", "silence"):
        monkeypatch.setattr(download, "ANSWER_TIMEOUT", 1.0)
        monkeypatch.setattr(download, "STALL_TIMEOUT", 0.5)
    write_zip(host.folder / ARCHIVE, TINY["vit"])
    host.tricks[ARCHIVE] = tricks
    with pytest.raises(DownloadError, match=f"{host.url}/{ARCHIVE}: .*({expected})"):
        fetch_weights("vit", mirror=host.url)
    assert not tricks and not kept(home)
    assert_next_call_works(host, home)


def test_no_answer_names_every_address(host, home, monkeypatch):
    monkeypatch.setattr(published, "WEIGHTS_URL", f"{host.url}/gone")
    monkeypatch.setattr(published, "POINTER_URL", "http://127.0.0.1:9")
    with pytest.raises(DownloadError) as caught:
        fetch_weights("vit")
    assert f"{host.url}/gone/{ARCHIVE}: HTTP Error 404" in str(caught.value)
    assert "the address list: " in str(caught.value) and "refused" in str(caught.value)
    assert not kept(home)


def test_an_address_list_without_an_address(host, monkeypatch):
    (host.folder / "medclip_vit_weight.txt").write_text("<html>\n<body>sign in first")
    monkeypatch.setattr(published, "WEIGHTS_URL", f"{host.url}/gone")
    monkeypatch.setattr(published, "POINTER_URL", host.url)
    with pytest.raises(
        DownloadError, match="medclip_vit_weight.txt: expected a URL, found '<html>"
    ):
        fetch_weights("vit")


def connections(hole: socket.socket) -> int:
    """How many there were."""
    hole.settimeout(0.1)
    for count in itertools.count():
        try:
            hole.accept()[0].close()
        except TimeoutError:
            return count


def test_a_network_that_swallows_everything_is_given_up(monkeypatch):
    addresses = 2
    assert addresses * download.ANSWER_TIMEOUT < 10  # seconds, as load_medclip promises
    monkeypatch.setattr(download, "ANSWER_TIMEOUT", 0.3)
    monkeypatch.setattr(download, "RETRY_PAUSE", 5)  # one more try at each would be noticed
    with socket.create_server(("127.0.0.1", 0)) as hole:  # connects, and never answers
        url = f"http://127.0.0.1:{hole.getsockname()[1]}"
        monkeypatch.setattr(published, "WEIGHTS_URL", url)
        monkeypatch.setattr(published, "POINTER_URL", url)
        start = time.monotonic()
        with pytest.raises(DownloadError) as caught:
            load_medclip("vit", device="cpu")
        elapsed = time.monotonic() - start
        assert connections(hole) == addresses
    assert elapsed < addresses * download.ANSWER_TIMEOUT + 4
    message = str(caught.value)
    first, *tried, ways_on = message.splitlines()
    assert first == f"could not download {ARCHIVE}. Tried:"
    assert len(tried) == addresses and f"{url}/{ARCHIVE}: " in message
    assert all("timed out" in line or "no answer within" in line for line in tried)
    for way in ("the network", "MEDCLIP_MIRROR", 'load_medclip("/path/to', 'load_medclip("demo")'):
        assert way in ways_on


def test_a_name_server_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(download, "ANSWER_TIMEOUT", 0.3)
    done = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: done.wait() and [])
    with pytest.raises(DownloadError, match="no answer within 0.3 seconds"):
        fetch_weights("vit", mirror="http://weights.example.org")
    done.set()


@contextmanager
def held_by_another(home):
    """As if another process were downloading, until the block ends or `release` is called."""
    home.mkdir()
    with ThreadPoolExecutor() as pool, FileLock(home / ".medclip-vit.lock") as lock:
        yield SimpleNamespace(release=lock.release, submit=pool.submit)


def test_without_network_nobody_waits_for_another_process(home, monkeypatch):
    monkeypatch.setattr(download, "ANSWER_TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as hole, held_by_another(home) as other:
        url = f"http://127.0.0.1:{hole.getsockname()[1]}"
        monkeypatch.setattr(published, "WEIGHTS_URL", url)
        monkeypatch.setattr(published, "POINTER_URL", url)
        call = other.submit(fetch_weights, "vit")
        with pytest.raises(DownloadError) as caught:
            call.result(timeout=60)
        assert connections(hole) == 2
    first, *tried, ways_on = str(caught.value).splitlines()
    assert first == "could not download medclip-vit. Tried:" and ways_on.startswith(
        "What you can do: "
    )
    asked = [line.split(": ")[0].strip() for line in tried]
    assert asked == [f"{url}/{ARCHIVE}", "the address list"]


@pytest.mark.parametrize("answer", ["fine", "404", "no_http"])
def test_an_answer_is_enough_to_wait_for_another_process(answer, host, home):
    host.tricks[ARCHIVE] = [answer]
    write_zip(host.folder / ARCHIVE, TINY["vit"])
    with held_by_another(home) as other:
        call = other.submit(fetch_weights, "vit", mirror=host.url)
        deadline = time.monotonic() + 60
        while not host.requests and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(TimeoutError):
            call.result(timeout=0.5)
        assert len(host.requests) == 1
        other.release()
        assert call.result(timeout=60) == home / "medclip-vit"
    assert len(host.requests) == 3


# --- archives -----------------------------------------------------------------------------------


def add_symlink(archive: Path) -> None:
    """To a checkpoint that would be taken if the link were followed."""
    outside = archive.parent.with_name("outside.bin")
    torch.save(TINY["vit"], outside)
    link = zipfile.ZipInfo("pytorch_model.bin")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr(link, str(outside))


def damage(archive: Path, kind: str) -> None:
    """Put a bad archive where a good one is."""
    data = bytearray(archive.read_bytes())
    if kind == "truncated":
        archive.write_bytes(data[: len(data) // 2])
    elif kind == "flipped":
        data[len(data) // 2] ^= 0xFF
        archive.write_bytes(data)
    elif kind == "encrypted":
        for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            data[data.rfind(signature) + place] |= 1
        archive.write_bytes(data)
    elif kind == "no member":
        write_zip(archive, TINY["vit"], "readme.txt")
    elif kind == "bomb":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
            zipped.writestr("pytorch_model.bin", bytes(10**7))
    elif kind == "bzip2":
        write_zip(archive, TINY["vit"], compression=zipfile.ZIP_BZIP2)
    elif kind == "link":
        add_symlink(archive)
    elif kind == "other encoder":
        write_zip(archive, TINY["resnet"])
    elif kind == "other model":
        write_zip(archive, {"weight": torch.ones(3)})


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("truncated", "is not an intact zip file"),
        ("flipped", "is not an intact zip file: Bad CRC-32"),
        ("encrypted", "cannot be unpacked: .* password"),
        ("no member", "it holds no pytorch_model.bin, only readme.txt"),
        ("bomb", r"would grow from \d+ to 10000000 bytes"),
        ("bzip2", "neither stored nor deflated"),
        ("link", "pytorch_model.bin is not a PyTorch checkpoint"),
        ("other encoder", "it holds resnet weights, expected 'vit'"),
        ("other model", "it holds no MedCLIP weights, expected 'vit'"),
    ],
)
def test_a_bad_archive_is_never_kept(kind, expected, host, home):
    write_zip(host.folder / ARCHIVE, TINY["vit"])
    damage(host.folder / ARCHIVE, kind)
    with pytest.raises(DownloadError, match=f"{ARCHIVE}: .*{expected}"):
        fetch_weights("vit", mirror=host.url)
    assert not kept(home)
    assert_next_call_works(host, home)


def test_an_archive_that_says_it_is_huge(tmp_path, monkeypatch):
    write_zip(tmp_path / "a.zip", TINY["vit"])
    monkeypatch.setattr(hub_weights, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match="expected at most 1e[+]02 and 20 times its packed size"):
        read_state_dict(tmp_path / "a.zip")


@pytest.mark.parametrize("member", ["../../outside/pytorch_model.bin", "{out}/pytorch_model.bin"])
def test_a_member_cannot_write_outside(member, host, home, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    member = member.format(out=outside)
    write_zip(host.folder / ARCHIVE, TINY["vit"], member)
    assert zipfile.ZipFile(host.folder / ARCHIVE).namelist() == [member]
    assert (home / ".medclip-vit.part" / member).resolve().parent == outside
    folder = fetch_weights("vit", mirror=host.url)
    assert len(host.requests) == 2 and kept(folder.parent) == ["medclip-vit"]
    assert not kept(outside)
    assert_next_call_works(host, home)


# --- disks --------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(home):
    """size in KiB -> the cache folder becomes a file system of its own; needs root."""
    home.mkdir()

    def mount(*options: str) -> None:
        command = ["mount", "-t", "tmpfs", *options, "tmpfs", home]
        if os.name != "posix" or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no file system can be mounted here")

    yield mount
    subprocess.run(["umount", home], capture_output=True)


BIG = TINY["vit"] | {"weight": torch.rand(75_000)}  # 300 KB


@pytest.mark.parametrize("size", [200, 500, 800])  # for the zip; for what is in it; for the copy
def test_a_full_disk(size, host, home, small_disk):
    small_disk("-o", f"size={size}k")
    write_zip(host.folder / ARCHIVE, BIG)
    with pytest.raises(DownloadError, match=f"cannot keep medclip-vit in {home}: .*(No space|fit)"):
        fetch_weights("vit", mirror=host.url)
    assert not kept(home)
    assert_next_call_works(host, home)


def test_a_read_only_cache(host, home, small_disk):
    small_disk("-o", "size=1m")
    assert_next_call_works(host, home)
    write_zip(host.folder / published.PUBLISHED["resnet"].file, TINY["resnet"])
    subprocess.run(["mount", "-o", "remount,ro", home], check=True)
    assert read_state_dict(fetch_weights("vit"))  # what is there can be read
    with pytest.raises(DownloadError, match=f"cannot keep medclip-resnet in {home}: .*Read-only"):
        fetch_weights("resnet", mirror=host.url)
    subprocess.run(["mount", "-o", "remount,rw", home], check=True)
    assert read_state_dict(fetch_weights("resnet", mirror=host.url))
    assert kept(home) == ["medclip-resnet", "medclip-vit"]


def no_space(*args, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


def read_only(*args, **options):
    raise OSError(errno.EROFS, "Read-only file system")


def no_space_for_safetensors(*args, **options):
    raise SafetensorError("I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("place", "stand_in"),
    [
        ("medclip_helpers.hub.published.Path.mkdir", read_only),
        ("filelock.FileLock", read_only),
        ("medclip_helpers.hub.published.Path.mkdir", no_space),
        ("medclip_helpers.hub.download.shutil.disk_usage", lambda path: SimpleNamespace(free=10)),
        ("wget.download", no_space),
        ("medclip_helpers.hub.weights.shutil", SimpleNamespace(copyfileobj=no_space)),
        ("safetensors.torch.save_file", no_space_for_safetensors),
    ],
)
def test_a_disk_that_fails_at_each_step(place, stand_in, host, home, monkeypatch):
    write_zip(host.folder / ARCHIVE, TINY["vit"])
    with monkeypatch.context() as patch:
        patch.setattr(place, stand_in)
        said = "Read-only" if stand_in is read_only else "No space|not fit"
        with pytest.raises(DownloadError, match=f"cannot keep medclip-vit in .*({said})"):
            fetch_weights("vit", mirror=host.url)
    assert not home.exists() or not kept(home)
    assert_next_call_works(host, home)


def test_an_unusable_cache_makes_auto_choose_the_demo(host, home):
    home.write_text("a file where the folder should be")
    write_zip(host.folder / ARCHIVE, TINY["vit"])
    with pytest.warns(UserWarning, match="cannot keep medclip-vit .*: using the demo model"):
        load_medclip("auto", device="cpu", mirror=host.url)


# --- later loads --------------------------------------------------------------------------------


def test_weights_that_changed_since_the_download_are_refused(host, home):
    assert_next_call_works(host, home)
    weights = home / "medclip-vit" / "model.safetensors"
    assert load_file(weights)
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    load_file(weights)  # which would not have noticed
    with pytest.raises(ValueError, match=f"{weights} is not what was downloaded: .*Delete"):
        load_medclip("vit", device="cpu")
    weights.unlink()
    assert_next_call_works(host, home)


@pytest.mark.parametrize("content", ["", "[1]", "{}"])
def test_a_damaged_record_is_said(content, host, home):
    assert_next_call_works(host, home)
    record = home / "medclip-vit" / "model.safetensors.source.json"
    record.write_text(content)
    with pytest.raises(ValueError, match=f"{record} is damaged: delete it and "):
        read_state_dict(home / "medclip-vit")


def test_tokenizer_is_fetched_once_and_checked(host, home):
    vocabulary = host.folder / published.TOKENIZER_FILE
    vocabulary.write_text("[PAD]\n[UNK]\n")
    with pytest.raises(DownloadError, match="2 word pieces, expected 28996\nWhat you can do: "):
        load_tokenizer(mirror=host.url)
    vocabulary.write_bytes(b"\xff\xfe")
    with pytest.raises(DownloadError, match="is not a text file"):
        load_tokenizer(mirror=host.url)
    assert not kept(home)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "edema"]
    vocabulary.write_text("\n".join(special + [f"w{i}" for i in range(28996 - len(special))]))
    tokenizer = load_tokenizer(mirror=host.url)
    assert tokenizer("EDEMA").input_ids == [2, 5, 3]  # lower-cased, between [CLS] and [SEP]
    asked = len(host.requests)
    load_tokenizer(mirror=host.url)
    assert len(host.requests) == asked
    (home / published.TOKENIZER_FILE).write_text(vocabulary.read_text().replace("edema", "oedema"))
    with pytest.raises(ValueError, match="vocab.txt is not what was downloaded"):
        load_tokenizer(mirror=host.url)


def test_weights_are_hashed_once_and_again_when_they_were_touched(host, home, monkeypatch):
    assert_next_call_works(host, home)
    weights = home / "medclip-vit" / "model.safetensors"
    hashed = []
    sha256 = records.sha256
    monkeypatch.setattr(records, "sha256", lambda path: hashed.append(path) or sha256(path))
    read_state_dict(weights)
    assert not hashed
    records.check_record(weights, thorough=True)
    assert hashed == [weights]
    os.utime(weights, (1, 1))
    read_state_dict(weights)
    read_state_dict(weights)
    assert hashed == [weights] * 2  # the new time was written down


def test_what_a_user_keeps_in_the_cache_is_used_and_never_deleted(host, home):
    write_zip(host.folder / ARCHIVE, TINY["vit"])
    folder = home / "medclip-vit"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    torch.save(TINY["vit"], folder / "pytorch_model.bin")
    assert fetch_weights("vit", mirror=host.url) == folder
    assert not host.requests
    (folder / "pytorch_model.bin").unlink()
    assert fetch_weights("vit", mirror=host.url) == folder
    assert (folder / "model.safetensors").is_file()
    assert (folder / "notes.txt").read_text() == "mine"


def test_only_what_came_from_the_authors_is_called_published(host, home, monkeypatch):
    write_zip(host.folder / ARCHIVE, TINY["vit"])
    assert not read_checkpoint(fetch_weights("vit", mirror=host.url)).official
    monkeypatch.setattr(published, "WEIGHTS_URL", host.url)
    assert read_checkpoint(fetch_weights("vit", cache_dir=home / "other")).official
    assert not read_checkpoint(host.folder / ARCHIVE).official


@pytest.mark.parametrize("mask", [0o022, 0o007])
def test_who_may_read_a_shared_cache_is_up_to_the_umask(mask, host, home, monkeypatch):
    before = os.umask(mask)
    try:
        with monkeypatch.context() as patched:
            patched.delattr(os, "umask")  # which other threads write by as well
            assert_next_call_works(host, home)
    finally:
        os.umask(before)
    for file in (home / "medclip-vit").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask, file
