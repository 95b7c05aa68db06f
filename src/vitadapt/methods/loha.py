"""LoHa: the element-wise product of two matrices of low rank (Hyeon-Woo et al. 2022, FedPara)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..nn.block import Slot
from ..nn.deltas import Delta
from ..nn.surgery import add_delta, check_slots, slot_shape
from ..nn.vit import ViT
from .depth import BlockMethod
from .lora import check_rank
from .registry import METHODS


class Hadamard(Delta):
    """scale * (A_1 B_1) o (A_2 B_2), with A_i (D_out, R) and B_i (R, D_in); B_2 is zero at the start."""

    def __init__(self, shape: tuple[int, int], rank: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.a1, self.b1, self.a2 = (
            nn.Parameter(nn.init.kaiming_uniform_(torch.empty(size), a=math.sqrt(5)))
            for size in ((shape[0], rank), (rank, shape[1]), (shape[0], rank))
        )
        self.b2 = nn.Parameter(torch.zeros(rank, shape[1]))

    def branch(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.matrix())

    def matrix(self) -> Tensor:
        return self.scale * (self.a1 @ self.b1) * (self.a2 @ self.b2)


@METHODS.register("loha")
@dataclass(frozen=True)
class LoHa(BlockMethod):
    """W + alpha / rank (A_1 B_1) o (A_2 B_2), of rank up to rank^2, on the chosen slots (Hyeon-Woo et al. 2022)."""

    rank: int = 4
    alpha: float = 4.0
    targets: tuple[Slot, ...] = ("q", "v")

    def adapt(self, vit: ViT) -> None:
        check_slots(self.targets)
        for block in self.chosen_blocks(vit):
            for slot in self.targets:
                shape = slot_shape(block, slot)
                check_rank("loha", self.rank, shape)
                add_delta(block, slot, Hadamard(shape, self.rank, self.alpha / self.rank))
