"""At which depth a method acts: a field that every method has which acts in blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import cast

from torch import nn

from ..nn.block import Block
from ..nn.head_spec import TEXT
from ..nn.surgery import Method, Towers, blocks
from ..nn.vit import ViT
from ..utils.errors import ConfigError

BlockChoice = str | tuple[int, ...]
"""All blocks ("all"), the last so many ("last:4"), or their numbers from 0 on ((8, 9)); in texts "8+9"."""
_LAST = re.compile(r"last:([1-9][0-9]{0,5})")


@dataclass(frozen=True)
class BlockMethod(Method):
    """A method that acts in the blocks of a ViT: in all of them, or in those that the field `blocks` names.

    `towers` says whether it does so in the image tower, in the text tower beside it, or in both.

    What lies before the first of these needs no gradient, and is computed once where images do not change
    (`nn.surgery.unchanged_blocks`). Raises ConfigError for a choice of blocks that cannot be read.
    """

    blocks: BlockChoice = field(default="all", kw_only=True)
    towers: Towers = field(default="image", kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.blocks, str):
            readable = self.blocks == "all" or _LAST.fullmatch(self.blocks) is not None
        else:
            object.__setattr__(self, "blocks", tuple(sorted(set(self.blocks))))
            readable = min(self.blocks, default=-1) >= 0
        if self.towers != "image":  # the classes are vectors of the text tower, so that one label wins
            object.__setattr__(self, "default_head", TEXT)
            object.__setattr__(self, "several_labels", False)
        if not readable:
            raise ConfigError(
                f"blocks={self.blocks}: write all, last:4 for the last four, or numbers from 0 on such as 8+9"
            )

    def chosen_blocks(self, vit: ViT) -> list[Block]:
        """The blocks in which the method acts, from the input to the output.

        Raises ConfigError for blocks that the network does not have, NotApplicable for a network without blocks.
        """
        return [blocks(vit)[number] for number in self.chosen_numbers(vit)]

    def chosen_numbers(self, vit: ViT) -> tuple[int, ...]:
        """The numbers of these blocks, from 0 on. Raises as above."""
        every = blocks(vit)
        if self.blocks == "all":
            return tuple(range(len(every)))
        if isinstance(self.blocks, str):
            count = int(self.blocks.removeprefix("last:"))
            numbers = tuple(range(len(every) - count, len(every)))
        else:
            numbers = self.blocks
        if any(number not in range(len(every)) for number in numbers):
            raise ConfigError(f"blocks={self.blocks}: the network has {len(every)} blocks, counted from 0")
        return numbers

    def chosen_part(self, network: nn.Module) -> nn.Module:
        """The whole network, of whatever kind, for blocks="all", else the chosen blocks alone. Raises as above."""
        return network if self.blocks == "all" else nn.ModuleList(self.chosen_blocks(cast(ViT, network)))
