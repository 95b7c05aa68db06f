"""Pooling by attention: one learnt query looks at all tokens (Lee et al. 2019; the MAP head of Zhai et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from .block import norm_of
from .vit_config import ACTIVATIONS, ViTConfig

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries, keys and values (B, H, N, D/H) -> the values, mixed."""


class AttentionPooling(nn.Module):
    """Tokens (B, N, D) and the learnt `latent` (D,) -> (B, D).

        a = W_o attention(W_q latent, W_k x, W_v x),  pooled = a + fc2(activation(fc1(norm(a))))

    The latent is a tensor of the ViT, like its class token.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        width, hidden = config.width, config.pool_hidden or 4 * config.width
        self.heads = config.pool_heads
        self.q, self.kv, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.norm = norm_of(config)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor, latent: Tensor, attend: Attend = F.scaled_dot_product_attention) -> Tensor:
        return self.output(attend(*self.input(x, latent)))

    def input(self, x: Tensor, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The query (B, H, 1, D/H), and keys and values of tokens (B, N, D), (B, H, N, D/H) each."""
        parts = (self.q(latent.expand(x.shape[0], 1, -1)), *self.kv(x).chunk(2, dim=-1))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        return q, k, v

    def output(self, mixed: Tensor) -> Tensor:
        """Values, mixed by the attention, (B, H, 1, D/H) -> (B, D)."""
        y = self.out(mixed.transpose(1, 2).flatten(1))
        return cast(Tensor, y + self.fc2(self.activation(self.fc1(self.norm(y)))))
