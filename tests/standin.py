"""Stand-ins for the published weights: full-size models whose numbers the published package gave.

Loaded as a plugin by conftest.py. Two models of 550 MB are built in memory, once a run.
"""

import functools
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from transformers import BertConfig

from medclip_helpers.loading import PUBLISHED_ENCODERS
from medclip_helpers.model import MedCLIPModel, MedCLIPTextModel, MedCLIPVisionEncoder
from medclip_helpers.processor import MedCLIPProcessor

PARITY = Path(__file__).parent / "parity"

_spec = importlib.util.spec_from_file_location("parity_weights", PARITY / "weights.py")
_weights = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_weights)


def standin_state_dict(name: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """A checkpoint in the published format, for "vit" or "resnet"."""
    spec = json.loads((PARITY / f"spec-{name}.json").read_text())
    return _weights.state_dict_from_spec(spec, seed)


@pytest.fixture(scope="session")
def golden() -> dict:
    """What the published package computed; see tests/parity/README.md."""
    return torch.load(PARITY / "golden.pt", weights_only=True)


@pytest.fixture(scope="session")
def standin_processor() -> MedCLIPProcessor:
    return MedCLIPProcessor.from_pretrained(PARITY)


@pytest.fixture(scope="session")
def standin_checkpoint(tmp_path_factory):
    """name -> a folder with pytorch_model.bin and the stand-in vocabulary."""

    @functools.cache
    def write(name: str) -> Path:
        folder = tmp_path_factory.mktemp(f"standin-{name}")
        torch.save(standin_state_dict(name), folder / "pytorch_model.bin")
        (folder / "vocab.txt").write_text((PARITY / "vocab.txt").read_text())
        return folder

    return write


@pytest.fixture(scope="session")
def standin_model(standin_checkpoint):
    """name -> the model with stand-in weights, in eval mode."""

    @functools.cache
    def build(name: str) -> MedCLIPModel:
        model = MedCLIPModel(vision_cls=PUBLISHED_ENCODERS[name])
        return model.from_pretrained(standin_checkpoint(name))

    return build


@pytest.fixture
def small_model(standin_processor) -> MedCLIPModel:
    """A random model of a few hundred kilobytes, in eval mode, for the stand-in vocabulary."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vision = MedCLIPVisionEncoder("test_resnet", projection_dim=64)
        text = MedCLIPTextModel(
            BertConfig(
                vocab_size=len(standin_processor.tokenizer),
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=64,
            ),
            projection_dim=64,
        )
        return MedCLIPModel(vision, text).eval()
