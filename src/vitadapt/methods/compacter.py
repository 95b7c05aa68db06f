"""Compacter: bottlenecks whose weights are sums of Kronecker products (Karimi Mahabadi et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..nn.block import Block
from ..nn.deltas import Referring
from ..nn.surgery import insert, require_transformer
from ..nn.vit import Activation, ViT
from ..utils.errors import ConfigError
from .adapter import Bottleneck
from .depth import BlockMethod
from .registry import METHODS


class Rules(nn.Module):
    """The slow weights R_i (n, n, n), shared by all layers and by both projections, and trained."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n, n, n).uniform_(-1, 1))


class PHMLinear(Referring):
    """x H + b with H = sum_{i<n} R_i (x) W_i, (B, N, D_in) -> (B, N, D_out)  (Zhang et al. 2021, equation 4).

    W_i (D_in / n, D_out / n) is full (rank 0) or the product of left_i and right_i of the given rank. With `zero` the
    fast weights start so that H = 0 while its gradient is not. The rules are those of `vit.shared`.
    """

    rules: Rules

    def __init__(self, shared: nn.ModuleDict, d_in: int, d_out: int, rank: int, zero: bool) -> None:
        super().__init__()
        self.refer("rules", shared, "rules")
        n = self.rules.weight.shape[0]
        self.bias = nn.Parameter(torch.zeros(d_out))
        shape = (n, d_in // n, d_out // n)
        # Var of an entry of H is n * 1/3 * Var(W): chosen so that norm(y) H has unit variance.
        std = 0.0 if zero else (3 / (n * d_in)) ** 0.5
        self.full = None if rank else nn.Parameter(torch.empty(shape).normal_(std=std))
        self.left = nn.Parameter(torch.empty(n, shape[1], rank).normal_(std=rank**-0.5)) if rank else None
        self.right = nn.Parameter(torch.empty(n, rank, shape[2]).normal_(std=std)) if rank else None

    def forward(self, x: Tensor) -> Tensor:
        fast = self.full if self.left is None or self.right is None else self.left @ self.right
        whole = torch.einsum("iac,ikm->akcm", self.rules.weight, fast)  # (n, D_in / n, n, D_out / n)
        return nn.functional.linear(x, whole.flatten(2).flatten(0, 1).T, self.bias)


def insert_phm_bottlenecks(
    vit: ViT, blocks: list[Block], bottleneck: int, n: int, rank: int, activation: Activation
) -> None:
    """Put a PHM bottleneck behind the MLP of each of `blocks`, all with one set of rules.

    Raises ConfigError if n does not divide.
    """
    width = require_transformer(vit).config.width
    if min(n, bottleneck) < 1 or width % n or bottleneck % n or not 0 <= rank <= bottleneck // n:
        raise ConfigError(
            f"n={n} must divide the width {width} and the bottleneck {bottleneck}, and rank={rank} must not exceed "
            f"{bottleneck // max(n, 1)}"
        )
    vit.shared["rules"] = Rules(n)
    for block in blocks:
        down = PHMLinear(vit.shared, width, bottleneck, rank, zero=False)
        up = PHMLinear(vit.shared, bottleneck, width, rank, zero=True)
        insert(block, "mlp", Bottleneck(width, down, up, activation))


@METHODS.register("compacter")
@dataclass(frozen=True)
class Compacter(BlockMethod):
    """Adapters with rank-`rank` PHM weights and shared slow weights (Karimi Mahabadi et al. 2021, section 3.2).

    Departures from the published code: Q8 (the shared rules train), Q9 (the network starts unchanged).
    """

    bottleneck: int = 64
    n: int = 4
    rank: int = 1
    activation: Activation = "gelu_tanh"

    def adapt(self, vit: ViT) -> None:
        if self.rank < 1:
            raise ConfigError("compacter: rank must be at least 1; full-rank weights are the method phm-adapter")
        insert_phm_bottlenecks(vit, self.chosen_blocks(vit), self.bottleneck, self.n, self.rank, self.activation)


@METHODS.register("phm-adapter")
@dataclass(frozen=True)
class PHMAdapter(BlockMethod):
    """Adapters whose projections are sum_{i<n} R_i (x) W_i with full W_i and shared R_i."""

    bottleneck: int = 64
    n: int = 4
    activation: Activation = "gelu_tanh"

    def adapt(self, vit: ViT) -> None:
        insert_phm_bottlenecks(vit, self.chosen_blocks(vit), self.bottleneck, self.n, 0, self.activation)
