"""Adapter+: a bottleneck behind the whole block with a learnt scale of every channel (Steitz and Roth 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from ..nn.surgery import insert
from ..nn.vit import Activation, ViT
from .bottleneck import Residual
from .depth import BlockMethod
from .registry import METHODS


@METHODS.register("adapter-plus")
@dataclass(frozen=True)
class AdapterPlus(BlockMethod):
    """x + s * (W_up f(W_down x + b_down) + b_up) behind every block, with s (D,) learnt (Steitz and Roth 2024).

    Departure: W_up starts at zero, not at N(0, 0.01^2), so that the network starts unchanged.
    """

    bottleneck: int = 8
    activation: Activation = "gelu"

    def adapt(self, vit: ViT) -> None:
        for block in self.chosen_blocks(vit):
            insert(block, "block", Residual(vit.config.width, self.bottleneck, self.activation, learns=True))
