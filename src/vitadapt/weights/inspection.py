"""Modules of other libraries, looked at before they are converted: what their parts are, and what must not be there."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..nn.vit import ACTIVATIONS, Activation
from ..utils.errors import WeightsError
from .hints import Hints


@dataclass(frozen=True)
class Live:
    """A module of another library, understood.

    `tower` is the part whose state dict is converted, `features` is its own way from normalised images (B, 3, S, S) to
    image features (B, E), and `image_size` is the input size that it declares.
    """

    tower: nn.Module
    hints: Hints
    features: Callable[[Tensor], Tensor]
    image_size: int


def expect(holds: bool, otherwise: str) -> None:
    """Raises WeightsError naming the feature that a plain ViT does not have unless the expectation holds."""
    if not holds:
        raise WeightsError(f"this model has {otherwise}; it cannot be converted exactly to a plain vision transformer")


def activation_of(module: nn.Module) -> Activation:
    """Which of our activations `module` computes, told by its values. Raises WeightsError when it is none of them."""
    x = torch.linspace(-4, 4, 81)
    with torch.no_grad():
        y = copy.deepcopy(module).cpu()(x.clone())
        for name, function in ACTIVATIONS.items():
            if torch.allclose(function(x), y, rtol=0, atol=1e-6):
                return name
    raise WeightsError(f"this model has the activation {type(module).__name__}; known are {', '.join(ACTIVATIONS)}")


def norm_eps_of(module: nn.Module) -> float:
    """The one eps of all layer norms. Raises WeightsError when they differ or another norm is used."""
    eps = {m.eps for m in module.modules() if isinstance(m, nn.LayerNorm)}
    expect(bool(eps), "norms that are not layer norms")
    expect(len(eps) == 1, "layer norms with several eps")
    return eps.pop()


def square(size: int | tuple[int, ...] | list[int]) -> int:
    """The side of a square given as S or (S, S). Raises WeightsError for other shapes."""
    sides = {size} if isinstance(size, int) else set(size)
    expect(len(sides) == 1, f"inputs of shape {size}")
    return sides.pop()
