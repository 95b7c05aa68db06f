"""Singular values: every weight keeps its directions and learns their strengths (Koleilat et al. 2025, CLIP-SVD)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..nn.block import Slot
from ..nn.deltas import ThinDelta
from ..nn.surgery import add_delta, check_slots, slot_layer
from ..nn.vit import ViT
from .depth import BlockMethod
from .registry import METHODS


class Strengths(ThinDelta):
    """U diag(c) V^T of a weight W = U diag(s) V^T: c (K,), zero at the start, is added to its singular values.

    U and V are not saved: they follow from the weight.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        u, _, vt = torch.linalg.svd(weight.detach().float(), full_matrices=False)
        self.register_buffer("u", u.contiguous(), persistent=False)
        self.register_buffer("v", vt.mT.contiguous(), persistent=False)
        self.change = nn.Parameter(torch.zeros(u.shape[1]))

    def factors(self) -> tuple[Tensor, Tensor]:
        return cast(Tensor, self.u) * self.change, cast(Tensor, self.v)


@METHODS.register("svd")
@dataclass(frozen=True)
class SVD(BlockMethod):
    """U diag(s + c) V^T for each weight U diag(s) V^T of the slots, c trains (Koleilat et al. 2025, CLIP-SVD)."""

    targets: tuple[Slot, ...] = ("q", "k", "v", "o", "fc1", "fc2")

    def adapt(self, vit: ViT) -> None:
        check_slots(self.targets)
        for block in self.chosen_blocks(vit):
            for slot in self.targets:
                add_delta(block, slot, Strengths(slot_layer(block, slot).original(slot)[0]))
