"""Ladder side tuning: a small transformer beside the frozen one (Sung et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..nn.block import Block
from ..nn.surgery import add_side
from ..nn.vit import ViT
from ..nn.vit_config import BlockConfig
from ..utils.errors import ConfigError
from .depth import BlockMethod
from .registry import METHODS

TEMPERATURE = 0.1  # of the ladder's gates


class Ladder(nn.Module):
    """h <- block(g down(x) + (1 - g) h) with g = sigmoid(gate / 0.1) behind each block; at the end x + up(h)."""

    def __init__(self, numbers: tuple[int, ...], last: int, config: BlockConfig, width: int) -> None:
        super().__init__()
        heads = config.heads if width % config.heads == 0 else 1
        small = BlockConfig(width, 1, heads, causal=config.causal)
        self.numbers, self.first, self.last = numbers, numbers[0], last
        self.down = nn.ModuleList(nn.Linear(config.width, width) for _ in numbers)
        self.gates = nn.Parameter(torch.zeros(len(numbers) - 1)) if len(numbers) > 1 else None
        self.rungs = nn.ModuleList(Block(small) for _ in numbers)
        self.up = nn.Linear(width, config.width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, number: int, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if number in self.numbers:
            i = self.numbers.index(number)
            thin = self.down[i](x)  # (B, N, D) -> (B, N, D / reduction)
            if state is not None and self.gates is not None:
                thin = torch.lerp(state, thin, torch.sigmoid(self.gates[i - 1] / TEMPERATURE))
            state = self.rungs[i](thin)
        return (x + self.up(state) if number == self.last else x), state


@METHODS.register("side")
@dataclass(frozen=True)
class SideTuning(BlockMethod):
    """A small transformer beside the frozen one, fed by each block, in which no gradient flows (Sung et al. 2022)."""

    reduction: int = 16

    def adapt(self, vit: ViT) -> None:
        numbers, config = self.chosen_numbers(vit), vit.config
        if self.reduction < 1 or config.width % self.reduction:
            raise ConfigError(f"side: reduction={self.reduction} must divide the width {config.width}")
        add_side(vit, Ladder(numbers, config.depth - 1, config, config.width // self.reduction))
