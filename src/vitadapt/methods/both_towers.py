"""Published methods for both towers of a CLIP: others of this folder with the hyper-parameters of their papers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..nn.block import Slot
from ..nn.surgery import Towers
from ..utils.errors import ConfigError
from .lora import LoRA
from .registry import METHODS
from .selective import LayerNorm
from .svd import SVD


@METHODS.register("clip-lora")
@dataclass(frozen=True)
class CLIPLoRA(LoRA):
    """LoRA of rank 2 on q, k and v of both towers, W + (alpha / sqrt(rank)) B A (Zanella and Ben Ayed 2024).

    Departure: dropout, which the recipe has, acts on what B A adds (published: on what A reads).
    """

    rank: int = 2
    alpha: float = 1.0
    targets: tuple[Slot, ...] = ("q", "k", "v")
    towers: Towers = field(default="both", kw_only=True)

    @property
    def scale(self) -> float:
        return self.alpha / math.sqrt(self.rank)


@METHODS.register("clip-svd")
@dataclass(frozen=True)
class CLIPSVD(SVD):
    """The singular values of all weights of both towers (Koleilat et al. 2025)."""

    towers: Towers = field(default="both", kw_only=True)


@METHODS.register("2sfs")
@dataclass(frozen=True)
class TwoStage(LayerNorm):
    """All norms of both towers; then, for the rest of the steps, the class vectors alone (Farina et al. 2025, 2SFS).

    head_share: the share of the steps in which they alone train, from where the text tower left them.
    Departures: the second stage works on features of the images as they are (published: of new crops in each step).
    """

    head_share: float = 0.4
    towers: Towers = field(default="both", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.head_share < 1:
            raise ConfigError(f"2sfs: head_share must be in 0 to 1, without 1, got {self.head_share}")
