"""Trying out a method: a toy problem for it, and comparisons that say what differs. The laws are in `laws`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..nn.backbone import Backbone
from ..nn.surgery import Method, adapt, trainable
from .audit import random_inputs, random_task, small_step

IMAGES = 3
STEPS = 3
WAKE = 0.05  # size of the random displacement that makes every update differ from zero


@dataclass(frozen=True)
class Case:
    """A method, a backbone to try it on and, where known, how many parameters should train.

    No sound method changes the backbone; `law_frozen_tensors_stay` finds those that do, on a copy.
    """

    method: Method
    backbone: Backbone
    count: int | None = None

    def adapted(self, seed: int = 0) -> Backbone:
        model = adapt(self.backbone, self.method, seed)
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()  # whatever happens to it now, the backbone does not see it
        return model

    def perturbed(self, seed: int = 0) -> Backbone:
        """Adapted, and every trainable tensor moved away from its start."""
        model = self.adapted(seed)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in trainable(model).values():
                parameter.add_(WAKE * torch.randn(parameter.shape, generator=generator).to(parameter))
        return model

    def train(self, model: nn.Module) -> None:
        """A few steps on random images, in training mode."""
        loss = random_task(self.backbone)
        model.train()
        for step in range(STEPS):
            small_step(trainable(model), loss(model, step))
        model.eval()

    def images(self) -> Tensor:
        """uint8 (IMAGES, 3, S, S), or token numbers for a text tower, on the backbone's device."""
        images = random_inputs(self.backbone, IMAGES, torch.Generator().manual_seed(0))
        return images.to(next(self.backbone.parameters()).device)


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


def differing_names(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    """Names whose bytes differ, or that only one of the two has."""
    both = before.keys() & after.keys()
    return sorted(
        (before.keys() ^ after.keys()) | {n for n in both if not torch.equal(_raw(before[n]), _raw(after[n]))}
    )


def _raw(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1).view(torch.uint8)
