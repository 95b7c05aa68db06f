"""LoKr: one Kronecker product of a small full matrix and a matrix of low rank (Yeh et al. 2024, LyCORIS)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..nn.block import Slot
from ..nn.deltas import Delta
from ..nn.surgery import add_delta, check_slots, slot_shape
from ..nn.vit import ViT
from ..utils.errors import ConfigError
from .depth import BlockMethod
from .registry import METHODS


class Product(Delta):
    """scale * C (x) (A B): C (F, F) zero at the start, A (D_out / F, R), B (R, D_in / F); never built in training."""

    def __init__(self, shape: tuple[int, int], factor: int, rank: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.c = nn.Parameter(torch.zeros(factor, factor))
        self.a, self.b = (
            nn.Parameter(nn.init.kaiming_uniform_(torch.empty(size), a=math.sqrt(5)))
            for size in ((shape[0] // factor, rank), (rank, shape[1] // factor))
        )

    def branch(self, x: Tensor) -> Tensor:
        thin = x.unflatten(-1, (len(self.c), -1)) @ self.b.T  # (B, N, D_in) -> (B, N, F, R)
        y: Tensor = self.scale * (self.c @ thin @ self.a.T).flatten(-2)
        return y

    def matrix(self) -> Tensor:
        return self.scale * torch.kron(self.c, self.a @ self.b)


@METHODS.register("lokr")
@dataclass(frozen=True)
class LoKr(BlockMethod):
    """W + alpha / rank C (x) (A B) with C of side `factor`, on the chosen slots (Yeh et al. 2024)."""

    rank: int = 8
    alpha: float = 8.0
    factor: int = 8
    targets: tuple[Slot, ...] = ("q", "v")

    def adapt(self, vit: ViT) -> None:
        check_slots(self.targets)
        for block in self.chosen_blocks(vit):
            for slot in self.targets:
                shape = slot_shape(block, slot)
                if min(self.factor, self.rank) < 1 or any(side % self.factor for side in shape):
                    raise ConfigError(f"lokr: factor={self.factor} must divide {shape}, and rank must be at least 1")
                add_delta(block, slot, Product(shape, self.factor, self.rank, self.alpha / self.rank))
