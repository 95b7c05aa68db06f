"""KAdaptation: the update of a weight as a sum of Kronecker products (He et al., AAAI 2023).

    delta W = scale * sum_{i<n} A_i (x) B_i,  A_i = s_i t_i^T (n x n, shared by all layers), B_i = u_i v_i^T (per layer)

Since (s t^T) (x) (u v^T) = (s (x) u) (t (x) v)^T, the sum equals P Q^T with columns s_i (x) u_i and t_i (x) v_i: a thin
factorisation of rank <= n * rule_rank * rank. Nothing D x D is built while training.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..nn.block import Block, Slot
from ..nn.deltas import Delta, ThinDelta
from ..nn.surgery import add_delta, check_slots, require_transformer, slot_shape
from ..nn.vit import ViT
from ..utils.errors import ConfigError
from .depth import BlockMethod
from .registry import METHODS


class Rule(nn.Module):
    """The shared slow factors A_i, i < n: full matrices, or products of s_i and t_i of the given rank."""

    def __init__(self, n: int, rank: int) -> None:
        super().__init__()
        std = n**-0.5 * max(rank, 1) ** -0.25
        self.s = nn.Parameter(torch.empty(n, n, rank).normal_(std=std)) if rank else None
        self.t = nn.Parameter(torch.empty(n, n, rank).normal_(std=std)) if rank else None
        self.full = None if rank else nn.Parameter(torch.empty(n, n, n).normal_(std=1 / n))


def thin_factors(rule: Rule, u: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """P (D_out, n * rule_rank * rank) and Q (D_in, same) with P Q^T = scale * sum_i (s_i t_i^T) (x) (u_i v_i^T)."""
    p = torch.einsum("iap,ikr->akipr", rule.s, u).flatten(2).flatten(0, 1)
    q = torch.einsum("icp,imr->cmipr", rule.t, v).flatten(2).flatten(0, 1)
    return scale * p, q


class Kronecker(Delta):
    """What both forms have: u starts at zero and v does not, so that the update starts at zero and its gradient does
    not. `rule` is a module of `vit.shared`; `shift`, where there is one, may be another delta's."""

    rule: Rule
    shift: nn.Parameter | None

    def __init__(
        self, shared: nn.ModuleDict, rule: str, shape: tuple[int, int], n: int, rank: int, scale: float
    ) -> None:
        super().__init__()
        self.refer("rule", shared, rule)
        self.n, self.scale = n, scale
        self.u = nn.Parameter(torch.zeros(n, shape[0] // n, rank))
        self.v = nn.Parameter(torch.empty(n, shape[1] // n, rank).normal_(std=(shape[1] // n) ** -0.5))

    def bias(self) -> Tensor | None:
        return self.shift


class ThinKronecker(Kronecker, ThinDelta):
    """scale * sum_i (s_i t_i^T) (x) (u_i v_i^T) (+ bias)."""

    def factors(self) -> tuple[Tensor, Tensor]:
        return thin_factors(self.rule, self.u, self.v, self.scale)


class FullRuleKronecker(Kronecker):
    """The same sum with full n x n matrices A_i, applied without ever forming the product.

    With x laid out as (n, D_in / n):  y[a, k] = sum_i u_i[k] sum_c A_i[a, c] sum_p v_i[p] x[c, p].
    """

    def branch(self, x: Tensor) -> Tensor:
        folded = x.unflatten(-1, (self.n, -1))  # (B, N, D_in) -> (B, N, n, D_in / n)
        inner = torch.einsum("...cm,imr->...cir", folded, self.v)
        mixed = torch.einsum("...cir,iac->...air", inner, self.rule.full)
        y = self.scale * torch.einsum("...air,ikr->...ak", mixed, self.u).flatten(-2)
        return y if self.shift is None else y + self.shift

    def matrix(self) -> Tensor:
        fast = torch.einsum("ikr,imr->ikm", self.u, self.v)
        return self.scale * torch.einsum("iac,ikm->akcm", self.rule.full, fast).flatten(2).flatten(0, 1)


@METHODS.register("kadaptation")
@dataclass(frozen=True)
class KAdaptation(BlockMethod):
    """Kronecker updates of q and v before the head split and before 1/sqrt(d) (He et al., AAAI 2023).

    n: number of Kronecker terms and side of the A_i; must divide the widths of the adapted matrices.
    rank: rank of the per-layer B_i. rule_rank: rank of the shared A_i, 0 for full n x n matrices.
    scale: factor of the update (why 4: docs/experiments.md). bias: one more vector per layer, added to every target (as
    in the published count).
    Parameters: see docs/methods.md. Departures from the published code: Q1-Q7 (docs/methods.md).
    """

    n: int = 32
    rank: int = 1
    rule_rank: int = 1
    scale: float = 4.0
    bias: bool = True
    targets: tuple[Slot, ...] = ("q", "v")

    def adapt(self, vit: ViT) -> None:
        layers = self.chosen_blocks(vit)
        check_slots(self.targets)
        for block in layers:
            for slot in self.targets:
                self._check(slot, slot_shape(block, slot))
        shared = require_transformer(vit).shared
        shared.update({f"rule_{slot}": Rule(self.n, self.rule_rank) for slot in self.targets})
        for block in layers:
            shifts: dict[int, Kronecker] = {}  # width -> the first delta of that width, which holds the vector
            for slot in self.targets:
                delta = self._delta(block, slot, shared)
                width = delta.u.shape[0] * delta.u.shape[1]
                if width in shifts:
                    delta.refer("shift", shifts[width], "shift")
                else:
                    shifts[width] = delta
                    delta.shift = nn.Parameter(torch.zeros(width)) if self.bias else None
                add_delta(block, slot, delta)

    def _check(self, slot: Slot, shape: tuple[int, int]) -> None:
        if self.n < 1 or any(side % self.n for side in shape):
            raise ConfigError(f"kadaptation: n={self.n} must divide the sides of {slot}, {shape}; choose another n")
        if not 1 <= self.rank <= min(shape) // self.n or not 0 <= self.rule_rank <= self.n:
            limit = min(shape) // self.n
            raise ConfigError(f"kadaptation: rank must be 1..{limit} and rule_rank 0..{self.n} (0: full matrices)")

    def _delta(self, block: Block, slot: Slot, shared: nn.ModuleDict) -> Kronecker:
        kind = ThinKronecker if self.rule_rank else FullRuleKronecker
        return kind(shared, f"rule_{slot}", slot_shape(block, slot), self.n, self.rank, self.scale)
