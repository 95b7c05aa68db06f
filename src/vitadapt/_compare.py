"""Comparing outputs and states, for the laws: what differs, and by how much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn


def require(holds: bool, otherwise: str) -> None:
    """Raises AssertionError saying `otherwise` unless the condition holds."""
    if not holds:
        raise AssertionError(otherwise)


def require_close(a: Tensor, b: Tensor, tolerance: float, otherwise: str) -> None:
    """|a - b| <= tolerance, relative to the largest entry when that exceeds 1; NaN is never close."""
    require(a.shape == b.shape, f"{otherwise} (shapes {tuple(a.shape)} and {tuple(b.shape)})")
    worst, size = float((a - b).abs().max()), max(1.0, float(b.abs().max()))
    require(worst <= tolerance * size, f"{otherwise} (by {worst:.2g})")


def run(model: nn.Module, images: Tensor) -> Tensor:
    """The output without gradients."""
    with torch.no_grad():
        return cast(Tensor, model(images))


def snapshot(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy that later changes of the tensors do not reach."""
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    """Names whose bytes differ, or that only one of the two has."""
    both = before.keys() & after.keys()
    return sorted(
        (before.keys() ^ after.keys()) | {n for n in both if not torch.equal(_raw(before[n]), _raw(after[n]))}
    )


def _raw(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1).view(torch.uint8)
