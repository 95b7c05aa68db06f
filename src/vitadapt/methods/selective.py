"""Methods that create nothing and train some of the backbone's own tensors."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ..surgery import Method, blocks, is_norm, parameters_of, thaw
from ..vit import ViT
from ._registry import METHODS


@METHODS.register("bitfit")
@dataclass(frozen=True)
class BitFit(Method):
    """All bias vectors, those of the norms included (Ben Zaken et al. 2022)."""

    def adapt(self, vit: nn.Module) -> None:
        thaw(parameters_of(vit, lambda owner, name: name == "bias"))


@METHODS.register("layernorm")
@dataclass(frozen=True)
class LayerNorm(Method):
    """Weights and biases of all normalisation layers (Basu et al. 2024, "Strong baselines")."""

    def adapt(self, vit: nn.Module) -> None:
        thaw(parameters_of(vit, lambda owner, name: is_norm(owner)))


@METHODS.register("attention")
@dataclass(frozen=True)
class Attention(Method):
    """Weights and biases of all attention layers (Touvron et al. 2022, "Three things")."""

    def adapt(self, vit: ViT) -> None:
        for block in blocks(vit):
            thaw(block.attention.parameters())


@METHODS.register("fine-tune")
@dataclass(frozen=True)
class FineTune(Method):
    """Every parameter of the backbone."""

    def adapt(self, vit: nn.Module) -> None:
        thaw(vit.parameters())
