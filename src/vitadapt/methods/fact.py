"""FacT: the updates of all blocks as one tensor of low rank (Jie and Deng 2023)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..nn.deltas import ThinDelta
from ..nn.surgery import add_delta, slot_shape, slots_of
from ..nn.vit import ViT
from ..utils.errors import ConfigError
from .depth import BlockMethod
from .registry import METHODS


class Factors(nn.Module):
    """U and V (D, R), shared by all; and R x R cores of `count` matrices: free (FacT-TT), or mixed of R (FacT-TK)."""

    def __init__(self, width: int, rank: int, count: int, tucker: bool) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.empty(width, rank).uniform_(-(width**-0.5), width**-0.5))
        self.v = nn.Parameter(torch.zeros(width, rank))
        self.mix = nn.Parameter(nn.init.xavier_uniform_(torch.empty(count, rank))) if tucker else None
        self.core = nn.Parameter(nn.init.xavier_uniform_(torch.empty(rank if tucker else count, rank, rank)))

    def cores(self, places: slice) -> Tensor:
        """(K, R, R) of some of the matrices."""
        return self.core[places] if self.mix is None else torch.einsum("kc,cab->kab", self.mix[places], self.core)


class FactDelta(ThinDelta):
    """scale * V G U^T; a layer that is K times as wide has K such matrices, one above or beside another."""

    shared: Factors

    def __init__(self, shared: nn.ModuleDict, shape: tuple[int, int], first: int, scale: float) -> None:
        super().__init__()
        self.refer("shared", shared, "fact")
        self.shape, self.scale, width = shape, scale, len(self.shared.u)
        self.places = slice(first, first + math.ceil(max(shape) / width))

    def factors(self) -> tuple[Tensor, Tensor]:
        u, v, cores = self.shared.u, self.scale * self.shared.v, self.shared.cores(self.places)
        if self.shape[0] >= self.shape[1]:
            return torch.einsum("da,kab->kdb", v, cores).flatten(0, 1)[: self.shape[0]], u
        return v, torch.einsum("db,kab->kda", u, cores).flatten(0, 1)[: self.shape[1]]


@dataclass(frozen=True)
class Fact(BlockMethod):
    """What both forms have."""

    rank: int = 16
    scale: float = 1.0

    def _adapt(self, vit: ViT, tucker: bool) -> None:
        chosen, width = self.chosen_blocks(vit), vit.config.width
        if not 1 <= self.rank <= width:
            raise ConfigError(f"fact: rank must be in 1..{width}, got {self.rank}")
        places = [(block, slot) for block in chosen for slot in slots_of(block)]
        pieces = sum(math.ceil(max(slot_shape(*place)) / width) for place in places)  # of D x D
        vit.shared["fact"] = Factors(width, self.rank, pieces, tucker)
        first = 0
        for block, slot in places:
            delta = FactDelta(vit.shared, slot_shape(block, slot), first, self.scale)
            add_delta(block, slot, delta)
            first = delta.places.stop


@METHODS.register("fact-tk")
@dataclass(frozen=True)
class FactTK(Fact):
    """scale * V (sum_c P_c C_c) U^T for every D x D matrix; U, V, C shared by all (Jie and Deng 2023, FacT-TK)."""

    def adapt(self, vit: ViT) -> None:
        self._adapt(vit, tucker=True)


@METHODS.register("fact-tt")
@dataclass(frozen=True)
class FactTT(Fact):
    """scale * V G U^T for every D x D matrix; U and V shared by all (Jie and Deng 2023, FacT-TT)."""

    def adapt(self, vit: ViT) -> None:
        self._adapt(vit, tucker=False)
