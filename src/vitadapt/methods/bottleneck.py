"""The residual bottleneck that adapter, compacter and phm-adapter put behind the MLP."""

from __future__ import annotations

from torch import Tensor, nn

from ..nn.vit import ACTIVATIONS, Activation
from ..utils.errors import ConfigError


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
