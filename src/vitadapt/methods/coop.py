"""CoOp: the words in front of the class name are learnt.

Zhou et al. 2022, "Learning to Prompt for Vision-Language Models" (2109.01134; code: KaiyangZhou/CoOp). The sentence
about class c is "a photo of a NAME."; in place of the embeddings e_1 ... e_P of the words behind its start token, which
all classes have in common, the text tower reads learnt vectors

    v_p = e_p + d_p,    d_p = 0 at the start,

and its output is the class vector: the class texts are computed anew in each step, the images once. Adding d_p to what
stands at place p is adding it to row p of the position table, so that it merges.

Trained: P D, which is 2,048 for the text tower of CLIP ViT-B/16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn.head_spec import TEXT, HeadSpec
from ..nn.surgery import Method, Towers, insert
from ..nn.text_transformer import TextTransformer
from ..utils.errors import ConfigError
from .registry import METHODS

WORDS = ("a", "photo", "of", "a")


class Words(nn.Module):
    """Positions (L, D) -> the same with learnt vectors (P, D) added to the rows from `first` on."""

    def __init__(self, first: int, count: int, width: int) -> None:
        super().__init__()
        self.first, self.change = first, nn.Parameter(torch.zeros(count, width))

    def forward(self, positions: Tensor) -> Tensor:
        rest = len(positions) - self.first - len(self.change)
        return positions + F.pad(self.change, (0, 0, self.first, rest))


def first_place(vit: TextTransformer) -> int:
    """Where the first word of a sentence stands."""
    return int(vit.config.pooling == "end")  # such towers begin with a start token


@METHODS.register("coop")
@dataclass(frozen=True)
class CoOp(Method):
    """v_p = e_p + d_p in place of the embeddings e_p of the words in front of the class name (Zhou et al. 2022).

    tokens: P, how many; more than four begin with further words "X".
    """

    tokens: int = 4

    default_head: ClassVar[HeadSpec | None] = TEXT
    several_labels: ClassVar[bool] = False
    towers: ClassVar[Towers] = "text"

    def templates(self) -> tuple[str, ...]:
        return (" ".join(["X"] * (self.tokens - len(WORDS)) + [*WORDS, "{}."]),)

    def adapt(self, vit: TextTransformer) -> None:
        first = first_place(vit)
        if not 1 <= self.tokens <= vit.config.context - first:
            raise ConfigError(f"tokens={self.tokens} must be in 1..{vit.config.context - first}")
        insert(vit, "positions", Words(first, self.tokens, vit.config.width))
