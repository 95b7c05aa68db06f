"""What a method changed in a network: from where on, and how it folds into the weights."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from ..utils.errors import NotMergeable
from .block import Block, Slot, SlotLinear
from .deltas import Affine, Delta
from .transformer import Transformer
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
    if "patches" in backbone.inserted:
        return None
    behind = (backbone.blocks, backbone.norm, backbone.projection, backbone.shared, backbone.inserted)
    ends = [part for part in (*behind, backbone.attention_pooling, backbone.side) if part is not None]
    inner = {id(parameter) for part in ends for parameter in part.parameters()} | {id(backbone.latent)}
    if any(p.requires_grad and id(p) not in inner for p in backbone.parameters()):
        return None
    limit = backbone.config.depth - backbone.config.pooled_blocks
    if backbone.side is not None:
        limit = min(limit, getattr(backbone.side, "first", 0))
    blocks = cast(list[Block], list(backbone.blocks[:limit]))
    return next((number for number, block in enumerate(blocks) if _is_changed(block)), limit)


def trains_end_alone(backbone: nn.Module) -> bool:
    """Does nothing train, or nothing but the output projection of a ViT and what stands behind it?"""
    ends: list[nn.Module] = []
    if isinstance(backbone, ViT):
        ends = [backbone.projection, *(m for place, m in backbone.inserted.items() if place == "features")]
    known = {id(parameter) for end in ends for parameter in end.parameters()}
    return all(id(parameter) in known for parameter in backbone.parameters() if parameter.requires_grad)


def _is_changed(block: Block) -> bool:
    created = [block.inserted, *(layer.deltas for layer in slot_layers(block))]
    thawed = any(parameter.requires_grad for parameter in block.parameters())
    return thawed or block.tokens is not None or any(len(modules) for modules in created)


def merge(backbone: Module) -> Module:
    """Fold every delta and every affine map into the weights, in place: afterwards the state dict has the plain keys.

    A network that carries none, of whatever kind, stays as it is. Raises NotMergeable, with nothing folded yet, when a
    method left more than these (modules, tokens, hooks), or a bias has nowhere to go.
    """
    for vit in [module for module in backbone.modules() if isinstance(module, Transformer)]:
        _check_mergeable(vit)
        for layer in slot_layers(vit):
            for slot, delta in layer.deltas.items():
                _fold(layer, layer.rows(cast(Slot, slot)), cast(Delta, delta))
            layer.deltas = nn.ModuleDict()
        for block in cast(list[Block], list(vit.blocks)):
            for place, change in block.inserted.items():
                _fold_before(_layer_behind(block, place), cast(Affine, change))
            block.inserted = nn.ModuleDict()
        _fold_behind(vit)
        vit.shared, vit.inserted = nn.ModuleDict(), nn.ModuleDict()
    return backbone


def slot_layers(part: nn.Module) -> list[SlotLinear]:
    """The linear layers with named rows in a network or a block."""
    return [module for module in part.modules() if isinstance(module, SlotLinear)]


def has_tokens(vit: Transformer) -> bool:
    """Were tokens added, to all blocks or to some?"""
    return any(cast(Any, holder).tokens is not None for holder in (vit, *vit.blocks))


def _layer_behind(block: Block, place: str) -> SlotLinear:
    """The linear layer that gets what a module at "attention-input" or "mlp-input" makes."""
    return block.attention.qkv if place.startswith("attention") else block.mlp.fc1


def _check_mergeable(vit: Transformer) -> None:
    for block in cast(list[Block], list(vit.blocks)):
        for place, module in block.inserted.items():
            if not (isinstance(module, Affine) and place.endswith("-input")):
                raise NotMergeable("modules inserted between layers cannot be folded; keep the adapter")
            if module.shift() is not None and _layer_behind(block, place).bias is None:
                raise NotMergeable("the change before a layer has a shift and the layer no bias; keep the adapter")
    _check_ends(vit)
    if has_tokens(vit):
        raise NotMergeable("added tokens cannot be folded into the weights; keep the adapter")
    if vit.other_changes:
        raise NotMergeable(f"the method changed {vit.other_changes[0]}, which cannot be folded into the weights")
    for layer in slot_layers(vit):
        if layer.bias is None and any(cast(Delta, delta).bias() is not None for delta in layer.deltas.values()):
            raise NotMergeable("the delta has a bias and the layer has none; use the method with bias=false")


def _check_ends(vit: Transformer) -> None:
    at_ends = [m for place, m in vit.inserted.items() if place != "positions" and not isinstance(m, Affine)]
    if at_ends or vit.side is not None or "features" in vit.inserted or ("norm" in vit.inserted and not _scales(vit)):
        raise NotMergeable("what stands beside the blocks or behind the norm cannot be folded; keep the adapter")
    if "patches" not in vit.inserted:
        return
    image = cast(ViT, vit)
    if image.patches.bias is None and (image.position is None or image.patch_norm is not None):
        raise NotMergeable("the embedding of the patches has no bias to take up a shift; keep the adapter")


def _scales(vit: Transformer) -> bool:
    """Can the final norm take up a scale and a shift of every channel?"""
    return isinstance(vit.norm, nn.LayerNorm) and vit.norm.elementwise_affine and _is_diagonal(vit.inserted["norm"])


def _is_diagonal(change: nn.Module) -> bool:
    return cast(Affine, change).matrix().ndim == 1


def other_changes(vit: Transformer, original: Transformer) -> list[str]:
    """What else differs from the original than this file knows of: modules replaced or added, hooks, own `forward`s."""
    before, found = dict(original.named_modules()), []
    for name, module in vit.named_modules():
        if {"deltas", "inserted", "shared", "side"}.intersection(name.split(".")):
            continue
        same = before.get(name)
        if same is None or type(same) is not type(module):
            found.append(f"{name} (a module of class {type(module).__name__})")
        elif _is_overridden(module) and not _is_overridden(same):
            found.append(f"{name or 'the backbone'} (a hook or a forward of its own)")
    return found


def _is_overridden(module: nn.Module) -> bool:
    own, hooks = vars(module), ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return "forward" in own or any(own[kind] for kind in hooks)


def _fold(layer: SlotLinear, rows: slice, delta: Delta) -> None:
    """Add a delta to its rows; never in place, for the memory may be shared with other models."""
    for name, change in (("weight", delta.matrix()), ("bias", delta.bias())):
        if change is not None:
            tensor = getattr(layer, name).detach().clone()
            tensor[rows] += change.detach().to(tensor.dtype)
            _set(layer, name, tensor)


@torch.no_grad()
def _fold_before(layer: nn.Linear, change: Affine) -> None:
    """W (A x + c) + b = (W A) x + (W c + b)."""
    weight, matrix, shift = layer.weight, change.matrix(), change.shift()
    if shift is not None:
        _set(layer, "bias", layer.bias + weight @ shift)
    _set(layer, "weight", weight * matrix if matrix.ndim == 1 else weight @ matrix)


@torch.no_grad()
def _fold_behind(vit: Transformer) -> None:
    """A (W x + b) + c = (A W) x + (A b + c) behind the patches and the final norm; and the table of positions."""
    for place, inserted in vit.inserted.items():
        if place == "positions":
            _set(vit, "position", inserted(vit.position))
            continue
        layer, change = getattr(vit, place), cast(Any, inserted)
        matrix = change.matrix().diag() if _is_diagonal(change) else change.matrix()
        bias, shift = cast(Any, layer.bias), change.shift()
        if bias is not None:
            _set(layer, "bias", matrix @ bias + (0 if shift is None else shift))
        elif shift is not None:  # every patch gets a position, too
            position = cast(Tensor, vit.position)
            extra = len(position) - cast(ViT, vit).config.table_grid ** 2
            _set(vit, "position", torch.cat([position[:extra], position[extra:] + shift]))
        weight = cast(Tensor, layer.weight)
        _set(layer, "weight", (matrix @ weight.flatten(1)).view_as(weight) if weight.ndim > 1 else matrix @ weight)


def _set(owner: nn.Module, name: str, tensor: Tensor) -> None:
    setattr(owner, name, nn.Parameter(tensor.to(getattr(owner, name).dtype), requires_grad=False))
