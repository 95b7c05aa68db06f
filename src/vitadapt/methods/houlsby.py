"""Bottlenecks behind attention and MLP (Houlsby et al. 2019), or behind the MLP alone (Pfeiffer et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass

from ..nn.surgery import insert
from ..nn.vit import Activation, ViT
from .bottleneck import Residual
from .depth import BlockMethod
from .registry import METHODS


@METHODS.register("houlsby")
@dataclass(frozen=True)
class Houlsby(BlockMethod):
    """y + W_up f(W_down y + b_down) + b_up behind attention and MLP, before the residual sums (Houlsby et al. 2019)."""

    bottleneck: int = 8
    activation: Activation = "gelu"

    def adapt(self, vit: ViT) -> None:
        for block in self.chosen_blocks(vit):
            insert(block, "attention", Residual(vit.config.width, self.bottleneck, self.activation))
            insert(block, "mlp", Residual(vit.config.width, self.bottleneck, self.activation))


@METHODS.register("pfeiffer")
@dataclass(frozen=True)
class Pfeiffer(BlockMethod):
    """The same bottleneck behind the MLP alone, before the residual sum (Pfeiffer et al. 2021, AdapterFusion)."""

    bottleneck: int = 8
    activation: Activation = "relu"

    def adapt(self, vit: ViT) -> None:
        for block in self.chosen_blocks(vit):
            insert(block, "mlp", Residual(vit.config.width, self.bottleneck, self.activation))
