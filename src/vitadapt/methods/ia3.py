"""IA3: learnt factors of the keys, the values and the MLP's hidden units (Liu et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..nn.deltas import ScaleShift, WeightTransform
from ..nn.surgery import add_delta, slot_shape
from ..nn.vit import ViT
from .depth import BlockMethod
from .registry import METHODS


class InputScale(WeightTransform):
    """W diag(scale): a factor of every input of a layer; starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def transform(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return weight * self.scale, bias


@METHODS.register("ia3")
@dataclass(frozen=True)
class IA3(BlockMethod):
    """A factor of every channel of k and v, and of every hidden unit of the MLP; merges (Liu et al. 2022, T-Few)."""

    def adapt(self, vit: ViT) -> None:
        for block in self.chosen_blocks(vit):
            add_delta(block, "k", ScaleShift(slot_shape(block, "k")[0], shifts=False))
            add_delta(block, "v", ScaleShift(slot_shape(block, "v")[0], shifts=False))
            add_delta(block, "fc2", InputScale(slot_shape(block, "fc2")[1]))
