"""Vectors of classes from sentences about them, by a text tower that may be learning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .text_transformer import TextTransformer


def class_vectors(features: Tensor, counts: Sequence[int]) -> Tensor:
    """Features (S, E) of sentences, of which each class has so many, (C, E): unit length, mean, unit length."""
    parts = F.normalize(features, dim=-1).split(list(counts))
    return F.normalize(torch.stack([part.mean(dim=0) for part in parts]), dim=-1)


class ClassTexts(nn.Module):
    """A text tower, and the token numbers (S, L) of the sentences about the classes: () -> class vectors (C, E).

    counts: how many sentences each class has, in their order.
    """

    def __init__(self, network: TextTransformer, tokens: Tensor, counts: Sequence[int]) -> None:
        super().__init__()
        self.network, self.counts = network, tuple(counts)
        self.register_buffer("tokens", tokens, persistent=False)

    def forward(self) -> Tensor:
        return class_vectors(self.network(cast(Tensor, self.tokens)), self.counts)

    def of(self, network: TextTransformer) -> ClassTexts:
        """The same sentences, read by another tower."""
        return ClassTexts(network, cast(Tensor, self.tokens), self.counts)
