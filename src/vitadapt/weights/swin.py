"""Live Swin transformers (Liu et al. 2021) of timm and transformers: the linear layers of their blocks as slots.

A method sees a ViT with the blocks of all stages behind one another, each of its own width. Only what it adds to linear
layers can be moved to the model; the biases of relative positions stay as they are.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from ..nn.block import Block
from ..nn.changes import slot_layers
from ..nn.deltas import Delta
from ..nn.vit import ViT, ViTConfig
from ..utils.errors import NotApplicable
from .rules import Rule

_FILE = tuple(f"attention.self.{part}" for part in ("query", "key", "value"))
_MEMORY = tuple(f"attention.{part}_proj" for part in "qkv")
_LAYERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "SwinTransformerBlock": (("attn.qkv",), ("attn.proj",), ("mlp.fc1",), ("mlp.fc2",)),
    "SwinLayer": (_MEMORY, ("attention.o_proj",), ("mlp.fc1",), ("mlp.fc2",)),
    "SwinLayer of version 4": (_FILE, ("attention.output.dense",), ("intermediate.dense",), ("output.dense",)),
}
"""Class of a block -> what it calls our four linear layers; q, k and v may be three."""
_OURS = ("attention.qkv", "attention.out", "mlp.fc1", "mlp.fc2")
_PLACES = ("timm.models.swin_transformer", "transformers.models.swin.modeling_swin")


def stand_in(model: nn.Module) -> tuple[ViT, dict[str, Rule]] | None:
    """A frozen ViT with the linear layers of a Swin's blocks, and the rules for its tensors; None for anything else."""
    found = [(path, block) for path, block in model.named_modules() if type(block).__module__ in _PLACES]
    blocks = [(path, *known) for path, block in found if (known := _layers(block)) is not None]
    if not blocks:
        return None
    made = [_block(layers) for _, layers, _ in blocks]
    width = made[0].attention.out.in_features
    vit = ViT(ViTConfig(width, len(made), heads=1, patch=1, image_size=1, hidden=made[0].mlp.fc2.in_features))
    vit.blocks = nn.ModuleList(made)
    rules = {}
    for number, (path, layers, names) in enumerate(blocks):
        for ours, theirs, parts in zip(_OURS, names, layers, strict=True):
            for kind in ("weight", "bias") if parts[0].bias is not None else ("weight",):
                whole = tuple(f"{path}.{name}.{kind}" for name in theirs)
                name = f"blocks.{number}.{ours}.{kind}"
                rules[name] = Rule(name, whole, "stacked" if len(whole) > 1 else "same")
    return vit.requires_grad_(False).eval(), rules


def _layers(block: nn.Module) -> tuple[list[list[nn.Linear]], tuple[tuple[str, ...], ...]] | None:
    """The linear layers of a block, and their names; None for a module that is no block of a Swin."""
    known = dict(block.named_modules())
    for kind, names in _LAYERS.items():
        if type(block).__name__ == kind.partition(" ")[0] and all(name in known for part in names for name in part):
            return [[cast(nn.Linear, known[name]) for name in part] for part in names], names
    return None


def _block(layers: list[list[nn.Linear]]) -> Block:
    """A block of ours with the weights of a Swin's four linear layers."""
    width, hidden = layers[1][0].in_features, layers[2][0].out_features
    bias = layers[0][0].bias is not None
    block = Block(ViTConfig(width, 1, heads=1, patch=1, image_size=1, hidden=hidden, qkv_bias=bias))
    for ours, theirs in zip(_OURS, layers, strict=True):
        for kind in ("weight", "bias"):
            parts = [cast(Any, getattr(layer, kind)) for layer in theirs]
            if parts[0] is not None:
                tensor = torch.cat([part.detach().to("cpu", torch.float32) for part in parts])
                setattr(block.get_submodule(ours), kind, nn.Parameter(tensor))
    return block


def check_movable(adapted: ViT) -> None:
    """Raises NotApplicable unless the method changed linear layers alone, each by a matrix of its shape."""
    blocks = cast(list[Block], list(adapted.blocks))
    if adapted.tokens is not None or any(len(block.inserted) or block.tokens is not None for block in blocks):
        raise NotApplicable(
            "the method adds modules or tokens, and the blocks of a Swin have no place for them; "
            "use a method that changes linear layers, such as lora or kadaptation"
        )
    for layer in slot_layers(adapted):
        for slot, delta in layer.deltas.items():
            shape = (layer.out_features // len(layer.slots), layer.in_features)
            try:
                fits = cast(Delta, delta).matrix().shape == shape
            except RuntimeError:
                fits = False
            if not fits:
                raise NotApplicable(
                    f"what the method adds to {slot} is no matrix of that layer's shape in every block, for the blocks "
                    "of a Swin have several widths; use lora or kadaptation"
                )
