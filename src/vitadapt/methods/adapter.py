"""Bottleneck adapters (Houlsby et al. 2019), one per block behind the MLP, as in the PEViT comparison.

Compacter and phm-adapter use the same bottleneck with other projections.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ..nn.surgery import insert, require_transformer
from ..nn.vit import ACTIVATIONS, Activation, ViT
from ..utils.errors import ConfigError
from .depth import BlockMethod
from .registry import METHODS


class Bottleneck(nn.Module):
    """y + up(activation(down(norm(y)))), (B, N, D) -> (B, N, D) (Houlsby et al. 2019, figure 2).

    Raises ConfigError for an unknown activation.
    """

    tokenwise = True

    def __init__(self, width: int, down: nn.Module, up: nn.Module, activation: Activation) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ConfigError(f"activation {activation!r} is unknown; choose one of {', '.join(ACTIVATIONS)}")
        self.norm = nn.LayerNorm(width)
        self.down, self.up = down, up
        self.activation = ACTIVATIONS[activation]

    def forward(self, y: Tensor) -> Tensor:
        change: Tensor = self.up(self.activation(self.down(self.norm(y))))
        return y + change


@METHODS.register("adapter")
@dataclass(frozen=True)
class Adapter(BlockMethod):
    """y + W_up relu(W_down norm(y) + b_down) + b_up on the MLP output (Houlsby et al. 2019, second position only).

    W_up starts at zero, so the network starts unchanged (departure Q9 from the published code, which starts disturbed).
    """

    bottleneck: int = 64
    activation: Activation = "relu"

    def adapt(self, vit: ViT) -> None:
        if self.bottleneck < 1:
            raise ConfigError(f"adapter: bottleneck must be at least 1, got {self.bottleneck}")
        width = require_transformer(vit).config.width
        for block in self.chosen_blocks(vit):
            down, up = nn.Linear(width, self.bottleneck), nn.Linear(self.bottleneck, width)
            nn.init.normal_(down.weight, std=width**-0.5)
            nn.init.zeros_(down.bias)
            nn.init.zeros_(up.weight)
            nn.init.zeros_(up.bias)
            insert(block, "mlp", Bottleneck(width, down, up, self.activation))
