"""The canonical text tower: the blocks of the ViT on the tokens of a sentence (Radford et al. 2021, Zhai et al. 2023).

Shapes are written in one alphabet: B sentences, L tokens of each, D width, E features.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from torch import Tensor, nn

from .block import Block, norm_of
from .transformer import Transformer
from .vit_config import BlockConfig

Reading = Literal["end", "last", "first"]
"""Where the sentence is read off: at its first end token, or at the last or the first place of all."""


@dataclass(frozen=True)
class TextConfig(BlockConfig):
    """What fixes the function of a text tower apart from its weights and its tokeniser."""

    context: int = 77  # places: tokens of a sentence, start and end included
    vocabulary: int = 49408
    projection: int = 0  # width of the output projection; 0 means none
    projection_bias: bool = False
    pooling: Reading = "end"
    end: int = 49407  # number of the end token
    norm_eps: float = field(default=1e-5, kw_only=True)
    causal: bool = field(default=True, kw_only=True)

    @property
    def features(self) -> int:
        """Width E of the output."""
        return self.projection or self.width


class TextTransformer(Transformer):
    """Token numbers (B, L), L at most `context` -> features (B, E), not normalised.

    A causal tower that reads at the end token is computed up to the last end token of the batch: no later token counts.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config: TextConfig = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.position = nn.Parameter(torch.zeros(config.context, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = norm_of(config)
        out = (config.width, config.projection, config.projection_bias)
        self.projection = nn.Linear(*out) if config.projection else nn.Identity()
        self.reset_parameters()

    def forward(self, tokens: Tensor) -> Tensor:
        place = self.places(tokens)
        if self.config.causal and self.config.pooling == "end":
            tokens = tokens[:, : int(place.max()) + 1]
        x, state = self.embed(tokens), None
        for number, block in enumerate(self.blocks):
            x, state = self.beside(number, block(x), state)
        return self.pool(x, place)

    @property
    def features(self) -> int:
        """Width E of the features."""
        return self.config.features

    def embed(self, tokens: Tensor) -> Tensor:
        """Token numbers (B, L) -> tokens (B, L, D) with positions."""
        table = self.inserted["positions"](self.position) if "positions" in self.inserted else self.position
        return cast(Tensor, self.embedding(tokens) + table[: tokens.shape[1]])

    def places(self, tokens: Tensor) -> Tensor:
        """Where each of the sentences (B, L) is read off, (B,)."""
        if self.config.pooling == "end":
            return (tokens == self.config.end).int().argmax(dim=-1)
        return tokens.new_full((len(tokens),), 0 if self.config.pooling == "first" else tokens.shape[1] - 1)

    def pool(self, x: Tensor, place: Tensor) -> Tensor:
        """Tokens (B, L, D), read off at `place` (B,) -> features (B, E)."""
        y = self.norm(x[torch.arange(len(x), device=x.device), place])
        return cast(Tensor, self.projection(self.inserted["norm"](y) if "norm" in self.inserted else y))
