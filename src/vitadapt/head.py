"""The classifier: a backbone and a linear head in fp32."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


class Head(nn.Module):
    """features (B, E) -> logits (B, C): W ((f - centre) / spread) + b, in fp32; W and b start at zero.

    `centre` (E,) and `spread` (a scalar) are statistics of the frozen backbone's features on the training images, fixed
    before training: one learning rate then suits backbones whose features differ in size by orders of magnitude, and
    every row is still treated alone. `folded` gives the equivalent plain linear layer.
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("spread", torch.ones(()))

    def standardise(self, features: Tensor) -> None:
        """Set centre and spread from features (N, E) of the training images."""
        features = features.float()
        centre = features.mean(dim=0)
        spread = (features - centre).square().mean().sqrt()
        cast(Tensor, self.centre).copy_(centre)
        cast(Tensor, self.spread).copy_(spread if spread > 0 else torch.ones_like(spread))

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            scaled = (features.float() - cast(Tensor, self.centre)) / cast(Tensor, self.spread)
            return cast(Tensor, self.linear(scaled))

    def folded(self) -> nn.Linear:
        """A plain linear layer with the same logits."""
        centre, spread = cast(Tensor, self.centre), cast(Tensor, self.spread)
        plain = nn.Linear(self.linear.in_features, self.linear.out_features)
        with torch.no_grad():
            plain.weight.copy_(self.linear.weight / spread)
            plain.bias.copy_(self.linear.bias - plain.weight @ centre)
        return plain


class Classifier(nn.Module):
    """Images (B, 3, S, S) -> logits (B, C)."""

    def __init__(self, backbone: nn.Module, head: Head) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.backbone(images)))
