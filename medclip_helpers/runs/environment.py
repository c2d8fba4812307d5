"""The machine and the versions of a run."""

from __future__ import annotations

import importlib.metadata
import platform

from .. import __version__


def versions() -> dict[str, str]:
    """Versions of this package, Python and the packages that training results depend on."""
    packages = ("torch", "transformers", "timm", "numpy", "scipy", "pillow")
    own = {"medclip_helpers": __version__, "python": platform.python_version()}
    return own | {name: _version(name) for name in packages}


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def environment_report() -> str:
    """One line: device and versions."""
    import torch  # here, because `versions` is also for what needs no torch

    from ..loading import choose_device

    device = str(choose_device())
    if device == "cuda":
        device = torch.cuda.get_device_name()
    found = versions()
    shown = [f"{name} {found[name]}" for name in ("torch", "timm", "transformers")]
    own = f"medclip_helpers {found['medclip_helpers']}"
    return " · ".join([device, own, f"Python {found['python']}", *shown])
