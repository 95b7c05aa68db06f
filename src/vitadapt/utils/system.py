"""What this process uses and runs on: memory and versions."""

from __future__ import annotations

import platform
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import torch


def peak_memory_mb() -> float:
    """The most memory this process (on a GPU: its tensors there) has held so far, in MB."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 1e6
    try:
        import resource
    except ImportError:  # not on Windows
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def versions() -> dict[str, str]:
    """What the numbers of a record may depend on besides its configuration."""
    system = {"python": platform.python_version(), "platform": platform.platform(), "machine": platform.machine()}
    return {**system, **_packages(), "threads": str(torch.get_num_threads())}


@cache
def _packages() -> dict[str, str]:
    """The installed ones; their metadata are read once, not for every record."""
    found = {}
    for package in ("vitadapt", "torch", "torchvision", "numpy", "pillow", "timm", "open_clip_torch", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
