"""BOFT: a weight turned by rotations of groups of inputs that cross as in a butterfly (Liu et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..nn.block import Slot
from ..nn.deltas import WeightTransform
from ..nn.surgery import add_delta, check_slots, slot_shape
from ..nn.vit import ViT
from ..utils.errors import ConfigError
from .depth import BlockMethod
from .oft import cayley, turned
from .registry import METHODS


class Butterfly(WeightTransform):
    """diag(s) W (R_F .. R_2 R_1)^T, R_i = P_i diag(rotations of `size` inputs) P_i^T; s is 1, R the identity at first.

    P_i puts every 2^(i-1)-th half of a group side by side, so that each input meets 2^(F-1) times as many others.
    """

    def __init__(self, d_out: int, d_in: int, size: int, factors: int) -> None:
        super().__init__()
        self.size = size
        self.upper = nn.Parameter(torch.zeros(factors, d_in // size, size * (size - 1) // 2))  # as `cayley` takes them
        self.scale = nn.Parameter(torch.ones(d_out))

    def transform(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        half = self.size // 2
        for i, rotations in enumerate(cayley(self.upper, self.size)):
            # (D_out, D_in) -> (D_out, G, a, b, half), the halves of a stretch exchanged, and back
            apart = weight.unflatten(1, (-1, 2, 2**i, half)).transpose(2, 3).flatten(1) if i else weight
            apart = turned(apart, rotations)
            weight = apart.unflatten(1, (-1, 2**i, 2, half)).transpose(2, 3).flatten(1) if i else apart
        return self.scale[:, None] * weight, bias


@METHODS.register("boft")
@dataclass(frozen=True)
class BOFT(BlockMethod):
    """W R^T, R a product of `factors` rotations of groups of inputs, outputs scaled; merges (Liu et al. 2024)."""

    group: int = 8
    factors: int = 2
    targets: tuple[Slot, ...] = ("q", "v")

    def adapt(self, vit: ViT) -> None:
        check_slots(self.targets)
        for block in self.chosen_blocks(vit):
            for slot in self.targets:
                d_out, d_in = slot_shape(block, slot)
                if (
                    self.factors < 1
                    or self.group < 2
                    or self.group % 2
                    or d_in % (self.group * 2 ** (self.factors - 1))
                ):
                    raise ConfigError(
                        f"boft: factors={self.factors} must be 1 or more, group={self.group} even, and "
                        f"group * 2^(factors - 1) must divide the {d_in} inputs of {slot}"
                    )
                add_delta(block, slot, Butterfly(d_out, d_in, self.group, self.factors))
