"""LoRA: low-rank updates of chosen weights (Hu et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..nn.block import Slot
from ..nn.deltas import ThinDelta
from ..nn.surgery import add_delta, check_slots, slot_shape
from ..nn.vit import ViT
from ..utils.errors import ConfigError
from .depth import BlockMethod
from .registry import METHODS


class LowRank(ThinDelta):
    """scale * B A with A (R, D_in) random and B (D_out, R) zero at the start (Hu et al. 2022, section 4.1)."""

    def __init__(self, shape: tuple[int, int], rank: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.a = nn.Parameter(torch.empty(rank, shape[1]))
        self.b = nn.Parameter(torch.zeros(shape[0], rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def factors(self) -> tuple[Tensor, Tensor]:
        return self.scale * self.b, self.a.T


def check_rank(method: str, rank: int, shape: Sequence[int]) -> None:
    """Raises ConfigError for a rank that a matrix of this shape cannot have."""
    if not 1 <= rank <= min(shape):
        raise ConfigError(f"{method}: rank must be in 1..{min(shape)}, got {rank}")


@METHODS.register("lora")
@dataclass(frozen=True)
class LoRA(BlockMethod):
    """W + (alpha / rank) B A on the chosen slots, q and v by default (Hu et al. 2022).

    Departures from the published code: Q3 (no mixing of images), Q4 (added before 1/sqrt(d)).
    """

    rank: int = 4
    alpha: float = 4.0
    targets: tuple[Slot, ...] = ("q", "v")

    @property
    def scale(self) -> float:
        """Factor of B A."""
        return self.alpha / self.rank

    def adapt(self, vit: ViT) -> None:
        layers = self.chosen_blocks(vit)
        check_slots(self.targets)
        for block in layers:
            for slot in self.targets:
                shape = slot_shape(block, slot)
                check_rank("lora", self.rank, shape)
                add_delta(block, slot, LowRank(shape, self.rank, self.scale))
