"""VPT: learnt tokens beside the patches (Jia et al. 2022, Visual Prompt Tuning)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from ..nn.surgery import add_tokens, blocks, require_vit
from ..nn.vit import ViT
from ..utils.errors import ConfigError
from .depth import BlockMethod
from .registry import METHODS


@METHODS.register("vpt")
@dataclass(frozen=True)
class VPT(BlockMethod):
    """Learnt tokens in every block, dropped behind it; or, with deep=false, in front of the first (Jia et al. 2022)."""

    tokens: int = 10
    deep: bool = True
    starts_as_identity: ClassVar[bool] = False

    def adapt(self, vit: ViT) -> None:
        if self.tokens < 1 or (not self.deep and self.blocks != "all"):
            raise ConfigError(f"vpt: tokens={self.tokens} must be at least 1, and deep=false is for all blocks")
        chosen = self.chosen_blocks(require_vit(vit))
        if not self.deep:
            add_tokens(vit, [self._drawn(vit)])
            return
        add_tokens(vit, [self._drawn(vit) if block in chosen else None for block in blocks(vit)])

    def _drawn(self, vit: ViT) -> nn.Parameter:
        size = (6 / (3 * vit.config.patch**2 + vit.config.width)) ** 0.5
        return nn.Parameter(torch.empty(self.tokens, vit.config.width).uniform_(-size, size))
