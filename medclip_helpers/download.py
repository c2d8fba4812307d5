"""Download a file completely or not at all, with a progress bar."""

from __future__ import annotations

import hashlib
import logging
import shutil
import socket
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from tqdm.auto import tqdm

logger = logging.getLogger(__name__)

TIMEOUT = 30.0  # seconds without an answer


class DownloadError(OSError):
    """No address gave the file; the message says what each of them answered."""


@contextmanager
def _socket_timeout(seconds: float):
    # The wget package has no timeout of its own and would wait for a silent server for ever.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def read_text(url: str) -> str:
    """The text at `url`."""
    with urlopen(url, timeout=TIMEOUT) as answer:
        return answer.read(1 << 16).decode("utf-8")


def sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def fetch(addresses: Iterable[str | Callable[[], str]], target: Path) -> str:
    """Download the first address that answers to `target` and return that address.

    addresses: URLs in order of preference; a callable is asked for its URL when its turn comes.
    target: appears only when the whole file has arrived.

    Raises DownloadError naming every address that failed and why.
    """
    # absolute: wget keeps its temporary file beside an absolute target, else in the working folder
    target = Path(target).absolute()
    failures = []
    for address in addresses:
        url = address if isinstance(address, str) else "the address list"
        try:
            url = address if isinstance(address, str) else address()
            _fetch_one(url, target)
            return url
        except (OSError, ValueError) as error:  # URLError, HTTPError and time-outs are OSErrors
            failures.append(f"{url}: {error}")
            logger.info("download failed: %s", failures[-1])
    raise DownloadError(
        f"could not download {target.name}. Tried:\n  " + "\n  ".join(failures) + "\n"
        "Check the network, set MEDCLIP_MIRROR to the base address of a copy, or name a local "
        "folder with the weights."
    )


def _fetch_one(url: str, target: Path) -> None:
    import wget

    with urlopen(url, timeout=TIMEOUT) as answer:
        size = int(answer.headers.get("Content-Length") or 0)
    free = shutil.disk_usage(target.parent).free
    if size > free:
        raise OSError(
            f"{size / 1e6:.0f} MB do not fit on the disk of {target.parent}: "
            f"{free / 1e6:.0f} MB free"
        )
    with (
        _socket_timeout(TIMEOUT),
        tqdm(total=size or None, unit="B", unit_scale=True, desc=target.name) as bar,
    ):

        def advance(current: int, total: int, width: int) -> None:
            bar.update(current - bar.n)

        wget.download(url, out=str(target), bar=advance)
