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

    counts: how many sentences each class has, in their order. While it trains, its last vectors w_c are held near those
    of `start` (C, E), unit vectors t_c, by `penalty`: strength * mean_c (1 - w_c t_c) (Yao et al. 2023, KgCoOp).
    """

    tokens: Tensor
    start: Tensor | None

    def __init__(
        self,
        network: TextTransformer,
        tokens: Tensor,
        counts: Sequence[int],
        start: Tensor | None = None,
        strength: float = 0.0,
    ) -> None:
        super().__init__()
        self.network, self.counts, self.strength = network, tuple(counts), strength
        self.register_buffer("tokens", tokens, persistent=False)
        self.register_buffer("start", start, persistent=False)
        self.penalty: Tensor | None = None

    def forward(self) -> Tensor:
        vectors = class_vectors(self.network(self.tokens), self.counts)
        held = self.training and self.strength > 0
        self.penalty = self.strength * (1 - (vectors * cast(Tensor, self.start)).sum(1).mean()) if held else None
        return vectors

    def of(self, network: TextTransformer, start: Tensor | None = None, strength: float = 0.0) -> ClassTexts:
        """The same sentences, read by another tower, and held near `start` if `strength` is not 0."""
        return ClassTexts(network, self.tokens, self.counts, start, strength)


def penalty_of(model: nn.Module) -> Tensor | float:
    """What class vectors in `model` add to the loss for what they were made at last."""
    return next((m.penalty for m in model.modules() if isinstance(m, ClassTexts) and m.penalty is not None), 0.0)
