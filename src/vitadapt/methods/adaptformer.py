"""AdaptFormer: a scaled bottleneck beside the MLP and its norm (Chen et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass

from ..nn.surgery import insert
from ..nn.vit import Activation, ViT
from .bottleneck import Change
from .depth import BlockMethod
from .registry import METHODS


@METHODS.register("adaptformer")
@dataclass(frozen=True)
class AdaptFormer(BlockMethod):
    """x + mlp(norm(x)) + scale * (W_up f(W_down x + b_down) + b_up) in every block (Chen et al. 2022)."""

    bottleneck: int = 64
    scale: float = 0.1
    activation: Activation = "relu"

    def adapt(self, vit: ViT) -> None:
        for block in self.chosen_blocks(vit):
            insert(block, "mlp-residual", Change(vit.config.width, self.bottleneck, self.activation, self.scale))
