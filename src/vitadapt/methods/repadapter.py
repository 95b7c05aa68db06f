"""RepAdapter: linear bottlenecks before attention and MLP, which merge (Luo et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..nn.deltas import Affine
from ..nn.surgery import insert
from ..nn.vit import ViT
from ..utils.errors import ConfigError
from .depth import BlockMethod
from .registry import METHODS


class Linear(Affine):
    """x + scale * (B (A x + a) + b): A (R, D), and B of `groups` blocks (D / groups, R / groups) on the diagonal."""

    def __init__(self, width: int, rank: int, groups: int, scale: float) -> None:
        super().__init__()
        self.a = nn.Parameter(nn.init.xavier_uniform_(torch.empty(rank, width)))
        self.b = nn.Parameter(torch.zeros(groups, width // groups, rank // groups))
        self.a_bias, self.b_bias = nn.Parameter(torch.zeros(rank)), nn.Parameter(torch.zeros(width))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        thin = nn.functional.linear(x, self.a, self.a_bias)  # (B, N, D) -> (B, N, R), in G groups
        wide = torch.einsum("...gr,gdr->...gd", thin.unflatten(-1, (len(self.b), -1)), self.b).flatten(-2)
        return x + self.scale * (wide + self.b_bias)

    def matrix(self) -> Tensor:
        return torch.eye(self.a.shape[1]).to(self.a) + self._scaled_up() @ self.a

    def shift(self) -> Tensor:
        return self._scaled_up() @ self.a_bias + self.scale * self.b_bias

    def _scaled_up(self) -> Tensor:
        """scale * B (D, R)."""
        return self.scale * cast(Tensor, torch.block_diag(*self.b))


@METHODS.register("repadapter")
@dataclass(frozen=True)
class RepAdapter(BlockMethod):
    """n + scale * (B (A n + a) + b) before attention and MLP, behind their norms; merges (Luo et al. 2023)."""

    rank: int = 8
    groups: int = 2
    scale: float = 1.0

    def adapt(self, vit: ViT) -> None:
        for block in self.chosen_blocks(vit):
            width = vit.config.width
            if min(self.rank, self.groups) < 1 or self.rank % self.groups or width % self.groups:
                raise ConfigError(
                    f"repadapter: groups={self.groups} must divide rank={self.rank} and the width {width}"
                )
            for place in ("attention-input", "mlp-input"):
                insert(block, place, Linear(width, self.rank, self.groups, self.scale))
