"""SSF: a scale and a shift behind every layer (Lian et al. 2022, Scaling and Shifting Your Features)."""

from __future__ import annotations

from dataclasses import dataclass

from ..nn.deltas import ChannelScale, ScaleShift
from ..nn.surgery import add_delta, insert, require_vit, slot_shape, slots_of
from ..nn.vit import ViT
from .depth import BlockMethod
from .registry import METHODS


@METHODS.register("ssf")
@dataclass(frozen=True)
class SSF(BlockMethod):
    """g * y + b behind the patches, every norm and every linear layer; all of it merges (Lian et al. 2022).

    Departures: g and b start at 1 and 0 (published: with noise, so that the network starts disturbed), and the keys are
    scaled alone (a shift of all keys cancels in the softmax).
    """

    def adapt(self, vit: ViT) -> None:
        for block in self.chosen_blocks(vit):
            for slot in slots_of(block):
                add_delta(block, slot, ScaleShift(slot_shape(block, slot)[0], shifts=slot != "k"))
            insert(block, "attention-input", ChannelScale(vit.config.width))
            insert(block, "mlp-input", ChannelScale(vit.config.width))
        if self.blocks == "all":
            insert(require_vit(vit), "patches", ChannelScale(vit.config.width))
            if vit.config.final_norm == "affine":
                width = vit.config.width
                insert(vit, "norm", ChannelScale(width))
