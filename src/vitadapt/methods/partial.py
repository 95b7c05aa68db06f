"""Methods that train tensors of the backbone in part: its last blocks, or biases and norms beside new scales."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ..nn.deltas import ScaleShift
from ..nn.surgery import Method, add_delta, blocks, is_norm, parameters_of, thaw
from ..nn.vit import ViT
from ..utils.errors import ConfigError
from .depth import BlockMethod
from .registry import METHODS


@METHODS.register("partial-k")
@dataclass(frozen=True)
class PartialK(Method):
    """The last k blocks and the final norm (as in Jia et al. 2022, "Partial-k")."""

    k: int = 1

    def adapt(self, vit: ViT) -> None:
        every = blocks(vit)
        if not 1 <= self.k <= len(every):
            raise ConfigError(f"partial-k: k must be in 1..{len(every)}, got {self.k}")
        for part in (*every[-self.k :], vit.norm):
            thaw(part.parameters())


@METHODS.register("diff-fit")
@dataclass(frozen=True)
class DiffFit(BlockMethod):
    """All biases and norms, and a new scale of the outputs of every attention and MLP (Xie et al. 2023, DiffFit)."""

    def adapt(self, vit: ViT) -> None:
        chosen = self.chosen_blocks(vit)
        part: nn.Module = self.chosen_part(vit)
        thaw(parameters_of(part, lambda owner, name: name == "bias" or is_norm(owner)))
        for block in chosen:
            add_delta(block, "o", ScaleShift(vit.config.width, shifts=False))
            add_delta(block, "fc2", ScaleShift(vit.config.width, shifts=False))
