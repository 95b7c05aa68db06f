"""Convpass: bottlenecks with a convolution over the patches, beside attention and MLP (Jie and Deng 2022)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..nn.surgery import insert, require_vit
from ..nn.vit import ViT, quick_gelu
from ..utils.errors import ConfigError
from .depth import BlockMethod
from .registry import METHODS


class Bypass(nn.Module):
    """scale * up(f(conv(f(down(x))))), where conv is 3 x 3 over the grid of patches; other tokens meet its centre.

    x (B, N, D): `prefix` tokens, then h w patches of a square image. It starts as zero.
    """

    tokenwise = False

    def __init__(self, width: int, bottleneck: int, scale: float, prefix: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        self.conv = nn.Conv2d(bottleneck, bottleneck, 3, padding=1)
        self.scale, self.prefix = scale, prefix
        nn.init.xavier_uniform_(self.down.weight)
        nn.init.dirac_(self.conv.weight)
        for tensor in (self.down.bias, self.conv.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(cast(Tensor, tensor))

    def forward(self, x: Tensor) -> Tensor:
        thin = quick_gelu(self.down(x))  # (B, N, D) -> (B, N, R)
        others, patches = thin[:, : self.prefix], thin[:, self.prefix :]
        side = math.isqrt(patches.shape[1])
        if side * side != patches.shape[1]:
            raise ValueError(f"convpass needs the patches of a square image and no added tokens, got {x.shape[1]}")
        grid = self.conv(patches.transpose(1, 2).unflatten(2, (side, side)))  # (B, h w, R) -> (B, R, h, w)
        alone = nn.functional.linear(others, self.conv.weight[:, :, 1, 1], self.conv.bias)
        mixed = torch.cat([alone, grid.flatten(2).transpose(1, 2)], dim=1)
        change: Tensor = self.scale * self.up(quick_gelu(mixed))
        return change


@METHODS.register("convpass")
@dataclass(frozen=True)
class Convpass(BlockMethod):
    """scale * up(f(conv3x3(f(down(n))))) beside attention and MLP, of their input n (Jie and Deng 2022)."""

    bottleneck: int = 8
    scale: float = 1.0

    def adapt(self, vit: ViT) -> None:
        if self.bottleneck < 1:
            raise ConfigError(f"convpass: bottleneck must be at least 1, got {self.bottleneck}")
        config = require_vit(vit).config
        for block in self.chosen_blocks(vit):
            for place in ("attention-parallel", "mlp-parallel"):
                insert(block, place, Bypass(config.width, self.bottleneck, self.scale, config.prefix))
