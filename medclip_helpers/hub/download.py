"""Download a file completely or not at all, with a progress bar, and recognise it later."""

from __future__ import annotations

import errno
import logging
import os
import queue
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, IncompleteRead
from pathlib import Path
from urllib.error import ContentTooShortError, HTTPError
from urllib.request import urlopen

from tqdm.auto import tqdm

logger = logging.getLogger(__name__)

# Seconds. Two addresses that never answer take under 10 together.
ANSWER_TIMEOUT = 4.5  # until an address begins to answer, including its DNS lookup
STALL_TIMEOUT = 30.0  # without a byte, once it has
RETRY_PAUSE = 1.0  # before an address that failed half-way is tried a second and last time
# The disk's errors: no other address would help.
LOCAL_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}


class DownloadError(OSError):
    """No address gave the file; the message says what each of them answered."""


def is_local(error: BaseException) -> bool:
    """Whether the disk, not the other side, is at fault."""
    return isinstance(error, OSError) and error.errno in LOCAL_ERRORS


def read_text(url: str) -> str:
    """The text at `url`, of which at most 64 KiB are read."""
    with _open(url) as answer:
        return answer.read(1 << 16).decode("utf-8")


def ask(addresses: Iterable[str | Callable[[], str]], name: str) -> None:
    """Return as soon as an address answers, whatever it says; DownloadError if none does.

    addresses: as in `fetch`. name: of the file that they have.
    """
    failures = []
    for address in addresses:
        url = address if isinstance(address, str) else "the address list"
        try:
            _open(address).close() if isinstance(address, str) else address()
            return
        except (HTTPError, HTTPException, ValueError):
            return  # an answer, though not the wanted one
        except OSError as error:
            failures.append(f"{url}: {error or type(error).__name__}")
    raise _none_gave(name, failures)


def fetch(
    addresses: Iterable[str | Callable[[], str]],
    target: Path,
    check: Callable[[Path], object] | None = None,
) -> str:
    """Download the first address that answers to `target` and return that address.

    addresses: URLs in order of preference; a callable gives its URL when its turn comes.
    target: appears only when the whole file has arrived.
    check: called with `target`; a ValueError from it counts as no answer, and the file is deleted.

    Raises DownloadError naming every address that failed and why, OSError from the disk.
    """
    target = Path(target).absolute()
    failures = []
    for address in addresses:
        url = address if isinstance(address, str) else "the address list"
        try:
            url = address if isinstance(address, str) else address()
            _fetch_one(url, target)
            if check is not None:
                check(target)
            return url
        # URLError, HTTPError and time-outs are OSErrors
        except (OSError, ValueError, HTTPException) as error:
            target.unlink(missing_ok=True)
            if is_local(error):
                raise
            failures.append(f"{url}: {error or type(error).__name__}")
            logger.info("download failed: %s", failures[-1])
    raise _none_gave(target.name, failures)


def _none_gave(name: str, failures: list[str]) -> DownloadError:
    return DownloadError(f"could not download {name}. Tried:\n  " + "\n  ".join(failures))


def _fetch_one(url: str, target: Path) -> None:
    try:
        _attempt(url, target)
    except (HTTPError, ContentTooShortError, IncompleteRead, ConnectionResetError) as error:
        if isinstance(error, HTTPError) and error.code < 500:
            raise
        logger.info("trying %s once more after: %s", url, error)
        time.sleep(RETRY_PAUSE)
        _attempt(url, target)


def _attempt(url: str, target: Path) -> None:
    import wget

    with _open(url) as answer:
        size = int(answer.headers.get("Content-Length") or 0)
    free = shutil.disk_usage(target.parent).free
    if size > free:
        raise OSError(
            errno.ENOSPC,
            f"{size / 1e6:.0f} MB do not fit on the disk, which has {free / 1e6:.0f} MB free",
        )
    with (
        tempfile.TemporaryDirectory(prefix=".download-", dir=target.parent) as scratch,
        _socket_timeout(STALL_TIMEOUT),
        tqdm(total=size or None, unit="B", unit_scale=True, desc=target.name) as bar,
    ):

        def advance(current: int, total: int, width: int) -> None:
            bar.update(current - bar.n)

        part = Path(scratch) / target.name
        wget.download(url, out=str(part), bar=advance)
        os.replace(part, target)


def _open(url: str):
    """The response of `url`. Raises TimeoutError if it does not begin within ANSWER_TIMEOUT."""
    outcome: queue.SimpleQueue = queue.SimpleQueue()

    def ask() -> None:
        try:
            outcome.put(urlopen(url, timeout=ANSWER_TIMEOUT))
        except Exception as error:
            outcome.put(error)

    # In a thread, because a DNS lookup has no time-out, and each of the addresses that
    # it gives would have one of its own.
    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = outcome.get(timeout=ANSWER_TIMEOUT)
    except queue.Empty:
        raise TimeoutError(f"no answer within {ANSWER_TIMEOUT:g} seconds") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    # The wget package has no timeout of its own and would wait for a silent server forever.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
