"""The bottleneck of adapters: down, an activation, up; zero at the start, so that the network starts unchanged."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..nn.vit import ACTIVATIONS, Activation
from ..utils.errors import ConfigError


class Change(nn.Module):
    """s * (W_up f(W_down x + b_down) + b_up), (B, N, D) -> (B, N, D): what is added beside a layer.

    W_down ~ N(0, 0.01^2), cut off at two deviations; W_up and the biases are zero. s is a number, or with `learns` a
    vector (D,) that trains and starts at that number. Raises ConfigError for an impossible width or activation.
    """

    tokenwise = True

    def __init__(self, width: int, bottleneck: int, activation: Activation, scale: float = 1.0, learns: bool = False):
        super().__init__()
        if bottleneck < 1 or activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ConfigError(f"bottleneck={bottleneck} must be at least 1, and activation={activation} one of {known}")
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        nn.init.trunc_normal_(self.down.weight, std=0.01, a=-0.02, b=0.02)
        for tensor in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(tensor)
        self.activation = ACTIVATIONS[activation]
        self.scale: float | nn.Parameter = nn.Parameter(torch.full((width,), scale)) if learns else scale

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.up(self.activation(self.down(x)))
        return self.scale * change


class Residual(Change):
    """x + the change: what stands behind a layer."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)
