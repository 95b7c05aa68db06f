"""PHM-adapter: as compacter, with full-rank fast weights (Karimi Mahabadi et al. 2021, section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass

from ..surgery import Method
from ..vit import Activation, ViT
from ._registry import METHODS
from .compacter import insert_phm_bottlenecks


@METHODS.register("phm-adapter")
@dataclass(frozen=True)
class PHMAdapter(Method):
    """Adapters whose projections are sum_{i<n} R_i (x) W_i with full W_i and shared R_i."""

    bottleneck: int = 64
    n: int = 4
    activation: Activation = "gelu_tanh"

    def adapt(self, vit: ViT) -> None:
        insert_phm_bottlenecks(vit, self.bottleneck, self.n, 0, self.activation)
