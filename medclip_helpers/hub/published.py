"""The published weights and vocabulary: where they are, and the cached copies."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..constants import VOCABULARY_SIZE
from . import download, records
from .names import published_encoder
from .weights import WEIGHTS_FILES, read_state_dict, unpack_weights, write_safetensors

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)


class Published(NamedTuple):
    """Where a published checkpoint lives. Source: README of github.com/RyanWangZf/MedCLIP."""

    file: str
    pointer: str  # a text file in that repository, which holds the current address
    backbone: str  # of its image encoder, timm's name


PUBLISHED = {
    "vit": Published(
        "medclip-vit-pretrained.zip", "medclip_vit_weight.txt", "swin_tiny_patch4_window7_224"
    ),
    "resnet": Published("medclip-pretrained.zip", "medclip_resnet_weight.txt", "resnet50"),
}
WEIGHTS_URL = "https://storage.googleapis.com/pytrial"
POINTER_URL = "https://raw.githubusercontent.com/RyanWangZf/MedCLIP/main/medclip"
TOKENIZER_FILE = "Bio_ClinicalBERT-vocab.txt"
TOKENIZER_URL = "https://huggingface.co/emilyalsentzer/Bio_ClinicalBERT/resolve/main/vocab.txt"
EXAMPLE_FILE = "view1_frontal.jpg"
EXAMPLE_URL = (
    "https://raw.githubusercontent.com/RyanWangZf/MedCLIP/9c3396f20d5d54e4fae241b8cb06ca45848e98c9"
    f"/example_data/{EXAMPLE_FILE}"
)
EXAMPLE_SHA256 = "177ac515742a20d790b6e0efc2ee1b6274b84e0a520182320a2e31cc3001a778"
NETWORK = "connect to the network, or set MEDCLIP_MIRROR to the base URL of a copy"


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """Where weights are kept: `cache_dir`, else $MEDCLIP_HOME, else ~/.cache/medclip_helpers."""
    chosen = cache_dir or os.environ.get("MEDCLIP_HOME") or "~/.cache/medclip_helpers"
    return Path(chosen).expanduser()


def _addresses(file: str, mirror: str | None, published: list) -> list[str | Callable[[], str]]:
    """Where to ask for a file, in order: a mirror alone, where there is one."""
    mirror = mirror or os.environ.get("MEDCLIP_MIRROR")
    return [f"{mirror.rstrip('/')}/{file}"] if mirror else published


def _current_address(pointer: str) -> str:
    url = f"{POINTER_URL}/{pointer}"
    address = download.read_text(url).strip()
    if not address.startswith("http") or len(address.split()) != 1:
        raise ValueError(f"{url}: expected a URL, found {address[:60]!r}")
    return address


@contextmanager
def _making(
    wanted: Path, name: str, addresses: list, home: Path, ways_on: str
) -> Iterator[Path | None]:
    """A scratch folder in `home` for making `wanted`, or None if another process just made it.

    Every OSError becomes a DownloadError that ends with what the user can do.
    """
    from filelock import FileLock

    scratch = home / f".{name}.part"
    try:
        home.mkdir(parents=True, exist_ok=True)
        with _acquire(FileLock(home / f".{name}.lock"), name, addresses):
            if wanted.is_file():
                yield None
                return
            shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
            scratch.mkdir()
            try:
                yield scratch
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    except download.DownloadError as error:
        raise download.DownloadError(f"{error}\n{ways_on}") from error
    except OSError as error:
        raise download.DownloadError(
            f"cannot keep {name} in {home}: {error}\n"
            f"Free some space, or set MEDCLIP_HOME to a writable folder. {ways_on}"
        ) from error


def _acquire(lock, name: str, addresses: list):
    """A context with the lock. DownloadError if another holds it and no address answers.

    Without a network, waiting processes would otherwise find out one after the other.
    """
    from filelock import Timeout

    try:
        return lock.acquire(timeout=0)
    except Timeout:
        download.ask(addresses, name)
    return lock.acquire()


def fetch_weights(
    name: str, cache_dir: str | Path | None = None, mirror: str | None = None
) -> Path:
    """The folder with published weights "vit" or "resnet", downloaded once.

    cache_dir: overrides $MEDCLIP_HOME. mirror: base URL of a copy, overrides $MEDCLIP_MIRROR.

    The folder holds `model.safetensors` (the published tensors under their published names) and
    the record of it (address, and SHA-256 of this file and of the zip), which `read_state_dict`
    checks. The weights appear last, when all is checked; processes that ask at once download once.
    A folder that already has weights, even custom ones, is left as it is.

    Raises `download.DownloadError`, naming every address tried and what you can do, if none gives
    the weights or they cannot be kept; without a network within 10 seconds, however many ask.
    """
    if name not in PUBLISHED:
        raise ValueError(f"unknown published model {name!r}: expected one of {sorted(PUBLISHED)}")
    home = cache_folder(cache_dir)
    folder = home / f"medclip-{name}"
    weights = folder / "model.safetensors"
    if any((folder / name).is_file() for name in WEIGHTS_FILES):
        return folder
    ways_on = (
        f"What you can do: {NETWORK}; name a local folder or file with the weights, "
        'load_medclip("/path/to/weights"); or use load_medclip("demo"), trained on drawings.'
    )
    file, pointer, _backbone = PUBLISHED[name]
    published = [f"{WEIGHTS_URL}/{file}", lambda: _current_address(pointer)]
    addresses = _addresses(file, mirror, published)
    with _making(weights, folder.name, addresses, home, ways_on) as scratch:
        if scratch:
            _fetch_weights(name, addresses, scratch, official=addresses == published)
            folder.mkdir(exist_ok=True)  # what a person has put there stays
            ready = scratch / "ready"
            os.replace(records.record_of(ready / weights.name), records.record_of(weights))
            os.replace(ready / weights.name, weights)
            logger.info("kept %s weights in %s", name, folder)
    return folder


def _fetch_weights(name: str, addresses: list, scratch: Path, official: bool) -> None:
    """Download and convert published weights into `scratch / "ready"`."""
    state_dict: dict[str, Tensor] = {}

    def unpack(archive: Path) -> None:
        state_dict.clear()
        state_dict.update(read_state_dict(unpack_weights(archive, scratch)))
        found = published_encoder(state_dict)
        if found != name:
            raise ValueError(f"it holds {found or 'no MedCLIP'} weights, expected {name!r}")

    archive = scratch / PUBLISHED[name].file
    url = download.fetch(addresses, archive, check=unpack)
    ready = scratch / "ready"
    ready.mkdir()
    write_safetensors(state_dict, ready / "model.safetensors")
    records.write_record(
        ready / "model.safetensors", url, official=official, zip_sha256=records.sha256(archive)
    )


def load_tokenizer(cache_dir: str | Path | None = None, mirror: str | None = None):
    """The published model's tokenizer (Bio_ClinicalBERT's vocabulary, lower-casing), fetched once.

    Raises `download.DownloadError` if the vocabulary is neither cached nor reachable, ValueError if
    the cached one is damaged.
    """
    from transformers import BertTokenizer

    home = cache_folder(cache_dir)
    vocabulary = home / TOKENIZER_FILE
    if not vocabulary.is_file():
        ways_on = f"What you can do: {NETWORK}; or put the vocabulary at {vocabulary}."
        addresses = _addresses(TOKENIZER_FILE, mirror, [TOKENIZER_URL])
        with _making(vocabulary, TOKENIZER_FILE, addresses, home, ways_on) as scratch:
            if scratch:
                part = scratch / TOKENIZER_FILE
                url = download.fetch(addresses, part, check=_word_pieces)
                os.replace(records.write_record(part, url), records.record_of(vocabulary))
                os.replace(part, vocabulary)
    records.check_record(vocabulary)
    return BertTokenizer(
        {piece: i for i, piece in enumerate(_word_pieces(vocabulary))}, do_lower_case=True
    )


def fetch_example(cache_dir: str | Path | None = None, mirror: str | None = None) -> Path:
    """The radiograph of the authors' README, at a pinned commit, fetched once and checked by hash.

    Raises `download.DownloadError` if it is neither cached nor reachable, or is another file.
    """
    picture = cache_folder(cache_dir) / EXAMPLE_FILE

    def check(file: Path) -> None:
        if (found := records.sha256(file)) != EXAMPLE_SHA256:
            raise ValueError(f"{EXAMPLE_FILE} has SHA-256 {found}, expected {EXAMPLE_SHA256}")

    if not picture.is_file() or records.sha256(picture) != EXAMPLE_SHA256:
        picture.parent.mkdir(parents=True, exist_ok=True)
        download.fetch(_addresses(EXAMPLE_FILE, mirror, [EXAMPLE_URL]), picture, check)
    return picture


def _word_pieces(vocabulary: Path) -> list[str]:
    try:
        pieces = vocabulary.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{vocabulary} is not a text file: {error}") from error
    if len(pieces) != VOCABULARY_SIZE:
        raise ValueError(f"{vocabulary} has {len(pieces)} word pieces, expected {VOCABULARY_SIZE}")
    return pieces
