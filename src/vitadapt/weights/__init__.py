"""Pretrained weights: from any supported source into our ViT, and back.

Names are imported on first use, so that `vitadapt.weights.names` (listing) does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .digest import backbone_digest as backbone_digest
    from .load import load_backbone as load_backbone
    from .names import list_backbones as list_backbones

_HOMES = {"backbone_digest": "digest", "load_backbone": "load", "list_backbones": "names"}

__all__ = ["backbone_digest", "list_backbones", "load_backbone"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
