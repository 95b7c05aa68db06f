"""VeRA: random factors that all layers share, and two learnt vectors for each (Kopiczko et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..nn.block import Slot
from ..nn.deltas import ThinDelta
from ..nn.surgery import add_delta, check_slots, slot_shape
from ..nn.vit import ViT
from ..utils.errors import ConfigError
from .depth import BlockMethod
from .registry import METHODS


class Projections(nn.Module):
    """A (R, D_in) and B (D_out, R), never trained; a smaller layer uses the first columns and rows.

    They are not saved but drawn again from `seed`, by the generator of numpy whose numbers never change.
    """

    a: Tensor
    b: Tensor

    def __init__(self, shapes: list[tuple[int, int]], rank: int, seed: int) -> None:
        super().__init__()
        draw = np.random.RandomState(seed)
        sizes = {"a": (rank, max(d_in for _, d_in in shapes)), "b": (max(d_out for d_out, _ in shapes), rank)}
        for name, size in sizes.items():
            values = draw.uniform(-(size[1] ** -0.5), size[1] ** -0.5, size)  # Kaiming's
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)


class Vectors(ThinDelta):
    """diag(b) B diag(d) A with b (D_out,) zero and d (R,) at 0.1 at the start."""

    shared: Projections

    def __init__(self, shared: nn.ModuleDict, shape: tuple[int, int], rank: int) -> None:
        super().__init__()
        self.refer("shared", shared, "vera")
        self.shape = shape
        self.b, self.d = nn.Parameter(torch.zeros(shape[0])), nn.Parameter(torch.full((rank,), 0.1))

    def factors(self) -> tuple[Tensor, Tensor]:
        d_out, d_in = self.shape
        return self.b[:, None] * self.shared.b[:d_out], self.shared.a[:, :d_in].T * self.d


@METHODS.register("vera")
@dataclass(frozen=True)
class VeRA(BlockMethod):
    """W + diag(b) B diag(d) A with random A and B that all layers share, on q and v (Kopiczko et al. 2024)."""

    rank: int = 256
    seed: int = 0
    targets: tuple[Slot, ...] = ("q", "v")

    def adapt(self, vit: ViT) -> None:
        check_slots(self.targets)
        if self.rank < 1 or not 0 <= self.seed < 2**32:
            raise ConfigError(f"vera: rank={self.rank} must be at least 1 and seed={self.seed} in 0..2^32 - 1")
        places = [(block, slot) for block in self.chosen_blocks(vit) for slot in self.targets]
        vit.shared["vera"] = Projections([slot_shape(*place) for place in places], self.rank, self.seed)
        for block, slot in places:
            add_delta(block, slot, Vectors(vit.shared, slot_shape(block, slot), self.rank))
