"""What all tests share."""

import os
import socket
import sys
from pathlib import Path

import pytest
import torch

from medclip_helpers.hub import DownloadError, published_constants

pytest_plugins = ["standin"]
sys.path.append(str(Path(__file__).parent / "parity"))  # inputs.py

# Tests run beside each other: more threads than cores make all of them slower.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real radiographs and reports, kept beside the project and never committed to it."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("MEDCLIP_SHARED", beside))
    if not (folder / "xrays").is_dir():
        pytest.skip(f"no shared data in {folder} (set MEDCLIP_SHARED)")
    return folder


@pytest.fixture(scope="module")
def published_wheel(tmp_path_factory):
    """The published wheel in a cache of its own, fetched from the package index."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDCLIP_HOME", str(tmp_path_factory.mktemp("home")))
        try:
            published_constants()
        except DownloadError as error:
            pytest.skip(f"no package index: {error}")
        yield


def _network() -> bool:
    try:
        socket.create_connection(("raw.githubusercontent.com", 443), timeout=3).close()
    except OSError:
        return False
    return True


def pytest_collection_modifyitems(items):
    downloads = [item for item in items if item.get_closest_marker("download")]
    if downloads and not _network():
        for item in downloads:
            item.add_marker(pytest.mark.skip(reason="raw.githubusercontent.com is out of reach"))
