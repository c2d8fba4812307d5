"""What machine and versions a run has."""

from __future__ import annotations

import importlib.metadata
import platform
from importlib.metadata import version


def environment_report() -> str:
    """One line: device and versions."""
    import torch

    from ..loading import choose_device

    device = str(choose_device())
    if device == "cuda":
        device = torch.cuda.get_device_name()
    packages = [f"{name} {_version(name)}" for name in ("torch", "timm", "transformers")]
    own = f"medclip_helpers {importlib.import_module('medclip_helpers').__version__}"
    return " · ".join([device, own, f"Python {platform.python_version()}", *packages])


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def versions() -> dict[str, str]:
    """Of Python and of the packages that a trained number depends on."""
    packages = ("torch", "transformers", "timm", "numpy", "scipy", "pillow")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
