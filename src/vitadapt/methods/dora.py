"""DoRA: the direction of every row of a weight by LoRA, its length by itself (Liu et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from ..nn.block import Slot
from ..nn.deltas import WeightTransform
from ..nn.surgery import add_delta, check_slots, slot_layer
from ..nn.vit import ViT
from .depth import BlockMethod
from .lora import LowRank, check_rank
from .registry import METHODS


class Direction(WeightTransform):
    """m (W + s B A) / |W + s B A| with the norm of every row, which counts as a constant in gradients (section 4.3)."""

    def __init__(self, weight: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        self.low_rank = LowRank((weight.shape[0], weight.shape[1]), rank, scale)
        self.size = nn.Parameter(weight.detach().norm(dim=1))

    def transform(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        changed = weight + self.low_rank.matrix()
        return (self.size / changed.detach().norm(dim=1))[:, None] * changed, bias


@METHODS.register("dora")
@dataclass(frozen=True)
class DoRA(BlockMethod):
    """m (W + alpha / rank B A) / |W + alpha / rank B A| on the chosen slots, row by row (Liu et al. 2024)."""

    rank: int = 4
    alpha: float = 4.0
    targets: tuple[Slot, ...] = ("q", "v")
    exact_gradients: ClassVar[bool] = False

    def adapt(self, vit: ViT) -> None:
        check_slots(self.targets)
        for block in self.chosen_blocks(vit):
            for slot in self.targets:
                weight, _ = slot_layer(block, slot).original(slot)
                check_rank("dora", self.rank, weight.shape)
                add_delta(block, slot, Direction(weight, self.rank, self.alpha / self.rank))
