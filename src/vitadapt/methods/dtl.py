"""DTL: a thin stream beside the blocks (Fu et al. 2024, Disentangled Transfer Learning)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..nn.surgery import add_side
from ..nn.vit import ViT
from ..utils.errors import ConfigError
from .depth import BlockMethod
from .registry import METHODS


class Stream(nn.Module):
    """h <- h + x A B behind each block; in the second half of them x + h sigmoid(100 h) goes on."""

    def __init__(self, numbers: tuple[int, ...], width: int, rank: int) -> None:
        super().__init__()
        self.numbers, self.first = numbers, numbers[0]
        self.a = nn.Parameter(nn.init.xavier_uniform_(torch.empty(len(numbers), width, rank)))
        self.b = nn.Parameter(torch.zeros(len(numbers), rank, width))

    def forward(self, number: int, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if number not in self.numbers:
            return x, state
        i = self.numbers.index(number)
        change = x @ self.a[i] @ self.b[i]
        state = change if state is None else state + change
        return (x + state * torch.sigmoid(100 * state) if i >= len(self.numbers) // 2 else x), state


@METHODS.register("dtl")
@dataclass(frozen=True)
class DTL(BlockMethod):
    """A thin stream beside the blocks that is added to the tokens in their second half (Fu et al. 2024, DTL)."""

    rank: int = 2

    def adapt(self, vit: ViT) -> None:
        numbers = self.chosen_numbers(vit)
        if not 1 <= self.rank <= vit.config.width:
            raise ConfigError(f"dtl: rank must be in 1..{vit.config.width}, got {self.rank}")
        add_side(vit, Stream(numbers, vit.config.width, self.rank))
