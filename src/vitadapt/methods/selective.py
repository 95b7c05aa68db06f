"""Methods that create nothing and train some of the backbone's own tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ..nn.surgery import Method, is_norm, parameters_of, thaw
from ..nn.vit import ViT
from .depth import BlockMethod
from .registry import METHODS


@METHODS.register("bitfit")
@dataclass(frozen=True)
class BitFit(BlockMethod):
    """All bias vectors, those of the norms included (Ben Zaken et al. 2022)."""

    def adapt(self, vit: nn.Module) -> None:
        thaw(parameters_of(self.chosen_part(vit), lambda owner, name: name == "bias"))


@METHODS.register("layernorm")
@dataclass(frozen=True)
class LayerNorm(BlockMethod):
    """Weights and biases of all normalisation layers (Basu et al. 2024, "Strong baselines")."""

    def adapt(self, vit: nn.Module) -> None:
        thaw(parameters_of(self.chosen_part(vit), lambda owner, name: is_norm(owner)))


@METHODS.register("attention")
@dataclass(frozen=True)
class Attention(BlockMethod):
    """Weights and biases of all attention layers (Touvron et al. 2022, "Three things")."""

    def adapt(self, vit: ViT) -> None:
        for block in self.chosen_blocks(vit):
            thaw(block.attention.parameters())


@METHODS.register("fine-tune")
@dataclass(frozen=True)
class FineTune(BlockMethod):
    """Every parameter of the backbone."""

    def adapt(self, vit: nn.Module) -> None:
        thaw(self.chosen_part(vit).parameters())


@METHODS.register("linear-probe")
@dataclass(frozen=True)
class LinearProbe(Method):
    """Only the classifier head trains; the features are computed once."""

    def adapt(self, vit: nn.Module) -> None:
        return None


@METHODS.register("zero-shot")
@dataclass(frozen=True)
class ZeroShot(Method):
    """Nothing trains: the head is the text features of the class names, so the backbone needs a text tower."""

    trains_head: ClassVar[bool] = False
    several_labels: ClassVar[bool] = False
    learns_prior: ClassVar[bool] = False

    def adapt(self, vit: nn.Module) -> None:
        return None
