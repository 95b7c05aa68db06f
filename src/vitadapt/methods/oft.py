"""OFT: a weight turned by learnt rotations of groups of its inputs (Qiu et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..nn.block import Slot
from ..nn.deltas import WeightTransform
from ..nn.surgery import HALF, add_delta, check_slots, slot_shape
from ..nn.vit import ViT
from ..utils.errors import ConfigError
from .depth import BlockMethod
from .registry import METHODS


class Rotation(WeightTransform):
    """W R^T, R block-diagonal with blocks (I - S) (I + S)^-1 (Cayley), S skew-symmetric, zero at the start."""

    def __init__(self, d_in: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.upper = nn.Parameter(torch.zeros(d_in // size, size * (size - 1) // 2))  # S above its diagonal, row by row

    def transform(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return turned(weight, cayley(self.upper, self.size)), bias


def cayley(upper: Tensor, size: int) -> Tensor:
    """The rotations (..., size, size) of skew-symmetric matrices given by what is above their diagonal, row by row."""
    exact = upper.float() if upper.dtype in HALF else upper  # half precision knows no inverse
    rows, columns = torch.triu_indices(size, size, 1, device=upper.device)
    skew = exact.new_zeros(*upper.shape[:-1], size, size)
    skew[..., rows, columns] = exact
    skew, one = skew - skew.mT, torch.eye(size, dtype=exact.dtype, device=exact.device)
    # I + S has an inverse for every S. To check it, a GPU would have to be waited for.
    solved = torch.linalg.solve_ex(one + skew, one - skew, left=False, check_errors=False)
    return cast(Tensor, solved.result).to(upper.dtype)


def turned(weight: Tensor, rotations: Tensor) -> Tensor:
    """W R^T of a weight (D_out, D_in), R block-diagonal with the `rotations` (G, size, size)."""
    grouped = weight.unflatten(1, (-1, rotations.shape[-1]))  # (D_out, D_in) -> (D_out, G, size)
    return torch.einsum("ogi,gji->ogj", grouped, rotations).flatten(1)


@METHODS.register("oft")
@dataclass(frozen=True)
class OFT(BlockMethod):
    """W R^T with rotations R of groups of `group` inputs, on the chosen slots; merges (Qiu et al. 2023)."""

    group: int = 32
    targets: tuple[Slot, ...] = ("q", "v")

    def adapt(self, vit: ViT) -> None:
        check_slots(self.targets)
        for block in self.chosen_blocks(vit):
            for slot in self.targets:
                d_in = slot_shape(block, slot)[1]
                if self.group < 2 or d_in % self.group:
                    raise ConfigError(
                        f"oft: group={self.group} must be 2 or more and divide the {d_in} inputs of {slot}"
                    )
                add_delta(block, slot, Rotation(d_in, self.group))
