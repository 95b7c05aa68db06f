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
from ..utils.files import bytes_digest
from .depth import BlockMethod
from .registry import METHODS

_MOST = 200_000_000
"""Numbers of decompositions that are kept: those of a ViT-B and its text tower."""
_KNOWN: dict[str, tuple[Tensor, Tensor]] = {}


def directions(weight: Tensor) -> tuple[Tensor, Tensor]:
    """U (D_out, K) and V (D_in, K) of a weight, on the CPU; computed once in a process for the same numbers."""
    matrix = weight.detach().float()
    if matrix.is_meta:  # holds no numbers, only its shape is asked for
        u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
        return u, vt.mT
    key = bytes_digest(matrix.cpu().numpy().tobytes() + repr(matrix.shape).encode())
    if key not in _KNOWN:
        u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
        if sum(tensor.numel() for pair in _KNOWN.values() for tensor in pair) > _MOST:
            _KNOWN.clear()
        _KNOWN[key] = u.cpu().contiguous(), vt.mT.cpu().contiguous()
    u, v = _KNOWN[key]
    return u.detach(), v.detach()  # tensors of their own on the same memory


class Strengths(ThinDelta):
    """U diag(c) V^T of a weight W = U diag(s) V^T: c (K,), zero at the start, is added to its singular values.

    U and V are not saved: they follow from the weight.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        u, v = directions(weight)
        self.register_buffer("u", u, persistent=False)
        self.register_buffer("v", v, persistent=False)
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
