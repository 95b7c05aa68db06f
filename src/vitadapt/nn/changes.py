"""What a method changed in a network: from where on, and how it folds into the weights."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch
from torch import nn

from ..utils.errors import NotMergeable
from .block import Block, Slot, SlotLinear
from .deltas import Delta
from .vit import ViT

Module = TypeVar("Module", bound=nn.Module)


def unchanged_blocks(backbone: nn.Module) -> int | None:
    """How many blocks, counted from the input, compute what the plain network computes and learn nothing.

    `vit.forward_to(images, k)` with this k needs no gradient and may be computed once for each view of an image;
    `vit.forward_from(tokens, k)` goes on from there. At most the first block whose tokens are pooled. None when already
    the tokens before the first block are changed, or the network is no plain ViT.
    """
    if not isinstance(backbone, ViT) or backbone.other_changes or backbone.tokens is not None:
        return None
    inner = {id(parameter) for part in (backbone.blocks, backbone.norm, backbone.projection, backbone.shared)
             for parameter in part.parameters()}  # fmt: skip
    if any(p.requires_grad and id(p) not in inner for p in backbone.parameters()):
        return None
    limit = backbone.config.depth - backbone.config.pooled_blocks
    blocks = cast(list[Block], list(backbone.blocks[:limit]))
    return next((number for number, block in enumerate(blocks) if _is_changed(block)), limit)


def _is_changed(block: Block) -> bool:
    created = [block.inserted, *(layer.deltas for layer in slot_layers(block))]
    thawed = any(parameter.requires_grad for parameter in block.parameters())
    return thawed or block.tokens is not None or any(len(modules) for modules in created)


def merge(backbone: Module) -> Module:
    """Fold every delta into the weights, in place; afterwards the state dict has the plain model's keys again.

    A network that carries none, of whatever kind, stays as it is. Raises NotMergeable, with nothing folded yet, when a
    method left more than deltas (modules, tokens, hooks), or a delta's bias has nowhere to go.
    """
    vits = [module for module in backbone.modules() if isinstance(module, ViT)]
    for vit in vits:
        _check_mergeable(vit)
        for layer in slot_layers(vit):
            for slot, delta in layer.deltas.items():
                _fold(layer, layer.rows(cast(Slot, slot)), cast(Delta, delta))
            layer.deltas = nn.ModuleDict()
        vit.shared = nn.ModuleDict()
    return backbone


def slot_layers(part: nn.Module) -> list[SlotLinear]:
    """The linear layers with named rows in a network or a block."""
    return [module for module in part.modules() if isinstance(module, SlotLinear)]


def has_tokens(vit: ViT) -> bool:
    """Were tokens added, to all blocks or to some?"""
    return any(cast(Any, holder).tokens is not None for holder in (vit, *vit.blocks))


def _check_mergeable(vit: ViT) -> None:
    if any(len(block.inserted) for block in vit.modules() if isinstance(block, Block)):
        raise NotMergeable("modules inserted between layers cannot be folded into the weights; keep the adapter")
    if has_tokens(vit):
        raise NotMergeable("added tokens cannot be folded into the weights; keep the adapter")
    if vit.other_changes:
        raise NotMergeable(f"the method changed {vit.other_changes[0]}, which cannot be folded into the weights")
    for layer in slot_layers(vit):
        if layer.bias is None and any(cast(Delta, delta).bias() is not None for delta in layer.deltas.values()):
            raise NotMergeable("the delta has a bias and the layer has none; use the method with bias=false")


def other_changes(vit: ViT) -> list[str]:
    """What was changed by other ways than those of this file: modules replaced or added, hooks, own `forward`s."""
    with torch.device("meta"):
        plain = dict(type(vit)(vit.config).named_modules())
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    found = []
    for name, module in vit.named_modules():
        if {"deltas", "inserted", "shared"}.intersection(name.split(".")):
            continue
        if type(plain.get(name)) is not type(module):
            found.append(f"{name} (a module of class {type(module).__name__})")
        elif "forward" in vars(module) or any(vars(module)[kind] for kind in hooks):
            found.append(f"{name or 'the backbone'} (a hook or a forward of its own)")
    return found


def _fold(layer: SlotLinear, rows: slice, delta: Delta) -> None:
    """Add a delta to its rows; never in place, for the memory may be shared with other models."""
    for name, change in (("weight", delta.matrix()), ("bias", delta.bias())):
        if change is not None:
            tensor = getattr(layer, name).detach().clone()
            tensor[rows] += change.detach().to(tensor.dtype)
            setattr(layer, name, nn.Parameter(tensor, requires_grad=False))
