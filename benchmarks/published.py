"""How the published code computes a step, written anew, for the measurements beside ours.

Its KAdaptation builds every update as a matrix: for q and for v of every block, in every forward pass, the n Kronecker
products are laid out one after another (n x D x D numbers), summed, and multiplied with the tokens. Nothing is left out
for the last block, and all products are torch's ordinary ones. What differs from it: q, k and v are one product here,
and its defects, which cost no time worth naming, are not repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from vitadapt.methods.kadaptation import KAdaptation, Rule
from vitadapt.methods.spec import parse_method
from vitadapt.nn.deltas import Delta, separate_branches
from vitadapt.nn.matmul import ordinary_products
from vitadapt.nn.surgery import Method, adapt, add_delta, blocks, require_vit
from vitadapt.nn.vit import ViT


class LaidOut(Delta):
    """scale * x (sum_i A_i (x) B_i) + shift, with the sum built as a matrix in every forward pass."""

    def __init__(self, rule: Rule, width: int, n: int, scale: float, shift: nn.Parameter) -> None:
        super().__init__()
        self.rule, self.scale, self.shift = rule, scale, shift
        self.u = nn.Parameter(torch.zeros(n, width // n, 1))
        self.v = nn.Parameter(torch.randn(n, 1, width // n))

    def branch(self, x: Tensor) -> Tensor:
        slow = torch.bmm(cast(Tensor, self.rule.s), cast(Tensor, self.rule.t).transpose(1, 2))  # (n, n, n)
        fast = torch.bmm(self.u, self.v)  # (n, D/n, D/n)
        terms = torch.einsum("iac,ikp->iakcp", slow, fast)
        n, width = len(slow), x.shape[-1]
        return self.scale * torch.matmul(x, terms.reshape(n, width, width).sum(dim=0)) + self.shift


@dataclass(frozen=True)
class LaidOutKAdaptation(Method):
    """KAdaptation of q and v with updates that are built as matrices."""

    n: int = 32

    def adapt(self, vit: Any) -> None:
        width = require_vit(vit).config.width
        rules = {slot: Rule(self.n, 1) for slot in ("q", "v")}
        vit.shared.update({f"rule_{slot}": rule for slot, rule in rules.items()})
        for block in blocks(vit):
            shift = nn.Parameter(torch.zeros(width))
            for slot, rule in rules.items():
                add_delta(block, cast(Any, slot), LaidOut(rule, width, self.n, 4.0, shift))


class AsPublished(nn.Module):
    """An adapted network that is computed without any of our savings."""

    def __init__(self, vit: ViT, method: str) -> None:
        super().__init__()
        ours = parse_method(method)
        self.vit = adapt(vit, LaidOutKAdaptation() if isinstance(ours, KAdaptation) else ours)

    def forward(self, images: Tensor) -> Tensor:
        with ordinary_products(), separate_branches():
            return self.vit.pool(self.vit.run_blocks(self.vit.embed(images)))
