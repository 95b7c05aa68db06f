"""MaPLe: learnt words in front of the class name, anew in several blocks, and image tokens that are made of them.

Khattak et al. 2023, "MaPLe: Multi-modal Prompt Learning" (2210.03117; code: muzairkhattak/multimodal-prompt-learning).
The text tower reads P learnt words v_1 in place of the first ones of "a photo of a NAME.", as in CoOp; what its blocks
i = 2 ... J get in their places are words v_i of their own. The image tower gets P tokens behind its patches,

    t_1 = norm(A_1 v_1 + b_1),    t_i = A_i v_i + b_i    in place of these in front of the blocks i = 2 ... J,

with its norm in front of the blocks, if any; behind block J they go on. The maps A_i (D_image x D_text) and b_i are
needed in training alone: what is saved of the image tower are the tokens t_i.

Trained: J (P D_text + D_text D_image + D_image), which is 3,555,072 for CLIP ViT-B/16.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from ..nn.deltas import Computed, value_of
from ..nn.surgery import Towers, add_side, add_tokens, blocks, require_vit
from ..nn.text_transformer import TextTransformer
from ..nn.vit import ViT
from ..utils.errors import ConfigError
from .coop import CoOp, first_place
from .registry import METHODS

SIZE = 0.02  # standard deviation of new words


class Replaced(nn.Module):
    """Beside the blocks: behind block i, from 0, rows i of tokens (J - 1, P, D) stand in the places from `first` on."""

    def __init__(self, tokens: Tensor, first: int) -> None:
        super().__init__()
        self.tokens: nn.Parameter | Computed = nn.Parameter(tokens)
        self.first = first  # below 0: counted from the end

    def forward(self, number: int, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        tokens = value_of(self.tokens) if state is None else state
        if number < len(tokens):
            new = tokens[number].expand(x.shape[0], -1, -1)  # (P, D) -> (B, P, D)
            first = self.first % x.shape[1]
            x = torch.cat([x[:, :first], new, x[:, first + new.shape[1] :]], dim=1)
        return x, tokens


class First(Computed):
    """norm(A (e + d) + b): the first image tokens (P, D_image), of embeddings e (P, D_text) and what CoOp adds, d."""

    def __init__(self, words: nn.Module, start: Tensor, norm: nn.Module, width: int) -> None:
        super().__init__()
        self.refer("change", words, "change")
        self.refer("norm", norm)
        self.register_buffer("start", start, persistent=False)
        self.map = nn.Linear(start.shape[1], width)

    def forward(self) -> Tensor:
        tokens: Tensor = self.norm(self.map(self.start + self.change))
        return tokens


class Further(Computed):
    """A_i v_i + b_i: the image tokens (J - 1, P, D_image) of the further blocks, of the words (J - 1, P, D_text)."""

    def __init__(self, words: Replaced, width: int) -> None:
        super().__init__()
        self.refer("words", words, "tokens")
        count, _, narrow = value_of(words.tokens).shape
        one = nn.Linear(narrow, width)
        self.maps = nn.ModuleList(copy.deepcopy(one) for _ in range(count))

    def forward(self) -> Tensor:
        return torch.stack([one(words) for one, words in zip(self.maps, self.words, strict=True)])


@METHODS.register("maple")
@dataclass(frozen=True)
class MaPLe(CoOp):
    """Learnt words in the first blocks of the text tower, and image tokens A v + b (Khattak et al. 2023, MaPLe).

    tokens: P, how many. depth: J, in how many blocks they are new; in all where there are fewer.
    """

    tokens: int = 2
    depth: int = 9

    towers: ClassVar[Towers] = "both"
    starts_as_identity: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.depth < 1:
            raise ConfigError(f"maple: tokens={self.tokens} and depth={self.depth} must be at least 1")

    def adapt(self, vit: ViT | TextTransformer) -> None:
        if isinstance(vit, TextTransformer):
            super().adapt(vit)
            first = first_place(vit)
        else:
            width = require_vit(vit).config.width
            add_tokens(vit, [nn.Parameter(SIZE * torch.randn(self.tokens, width))])
            first = -self.tokens
        if more := min(self.depth, len(blocks(vit))) - 1:
            add_side(vit, Replaced(SIZE * torch.randn(more, self.tokens, vit.config.width), first))

    def couple(self, image: ViT, text: TextTransformer, sentences: Tensor) -> None:
        depths = [len(blocks(tower)) for tower in (image, text)]
        if min(self.depth, *depths) < min(self.depth, max(depths)):
            raise ConfigError(f"maple: the towers have {depths[0]} and {depths[1]} blocks; use depth={min(depths)}")
        first, width = first_place(text), image.config.width
        start = text.embedding.weight[sentences[0, first : first + self.tokens]].detach()
        First(text.inserted["positions"], start, image.ln_pre, width).replace(image, "tokens")
        if image.side is not None:
            Further(cast(Replaced, text.side), width).replace(image.side, "tokens")
