"""What an adapter left behind in a backbone, by kind of module; adapters that left the same kinds are a family.

Nothing here knows a method: a delta with thin factors, any other delta, an inserted module, and tensors of the backbone
that are not the bank's are found where they stand.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor, nn

from ...nn.block import BEHIND, Block, Slot, SlotLinear
from ...nn.deltas import Delta, references
from ...nn.relative import RelativeBias
from ...nn.surgery import copy_sharing_weights, require_vit
from ...nn.vit import ViT
from ...utils.errors import NotApplicable, WeightsError
from .calls import Call, Layout, TensorNames
from .factors import FactorCalls, delta_factors, merged_layer, merging_pays, thin_deltas


@dataclass(frozen=True, eq=False)
class SlotPiece:
    """What adapters of a family do to a `SlotLinear`: a merged layer of their own, or thin deltas and a bias (its name)
    that are added to the shared one; and other deltas."""

    merged: Call | None = None
    thin: tuple[tuple[Slot, Call], ...] = ()
    bias: str = ""
    branches: tuple[tuple[Slot, Call], ...] = ()

    @property
    def factor_calls(self) -> tuple[Call, ...]:
        return tuple(call for _, call in self.thin) if self.merged is None else (self.merged,)


Piece = SlotPiece | Call


@dataclass(frozen=True, eq=False)
class Family:
    """Adapters of one skeleton: the same modules with the same settings at the same paths; only numbers differ.

    template: a backbone adapted like them. names: its tensors that differ; layout: how they are packed. pieces: path
    of a module of the plain backbone -> what stands there; factors: what is computed for it before. whole: paths of
    the blocks that must compute every token. projected: is the output projection in use?
    """

    key: Hashable
    template: ViT
    names: TensorNames
    layout: Layout
    pieces: dict[str, Piece]
    factors: FactorCalls
    whole: frozenset[str]
    projected: bool


def dissect(
    adapted: nn.Module, plain: ViT, known: Mapping[Hashable, Family] = MappingProxyType({})
) -> tuple[Family, dict[str, Tensor]]:
    """The family of an adapted backbone, one of the `known` if it is, and its own tensors by their names in it.

    Raises NotApplicable for what has nothing to share with other adapters, WeightsError for another backbone.
    """
    model = require_vit(adapted)
    _check_config(model, plain)
    if model.side is not None:
        raise NotApplicable(
            "has a network beside the blocks, which a bank cannot compute for many; serve it as a model of its own"
        )
    own = dict(_own_tensors(model, plain))
    key = _key(model, plain, {id(tensor): name for name, tensor in own.items()})
    return known.get(key) or family_of(copy_sharing_weights(model), plain, tuple(own)), own


def family_of(template: ViT, plain: ViT, names: Sequence[str]) -> Family:
    """The family of a `template` that is nobody else's, where tensors of these names are the adapters' own."""
    template.to(plain.patches.weight.device).eval()
    known: dict[str, Tensor] = dict(template.named_parameters()) | dict(template.named_buffers())
    for name, parameter in plain.named_parameters():
        if name in known and name not in names:
            known[name].data = parameter.data  # held once, whoever holds the adapted model
    tensor_names = TensorNames({id(known[name]): name for name in names})
    pieces = dict(_pieces(template, tensor_names))
    calls = [call for piece in pieces.values() if isinstance(piece, SlotPiece) for call in piece.factor_calls]
    factors = FactorCalls.of(calls, tensor_names)
    used = {name for piece in pieces.values() for name in _names_in(piece)}
    if unused := set(names) - used - {"projection.weight"}:
        raise NotApplicable(f"has {min(unused)}, which a bank cannot compute for many; serve it as a model of its own")
    whole = (path for path, m in template.named_modules() if isinstance(m, Block) and not _tokenwise(m))
    layout = Layout.of({name: known[name] for name in names})
    projected = template.config.projection == plain.config.projection
    key = _key(template, plain, tensor_names.names)
    return Family(key, template, tensor_names, layout, pieces, factors, frozenset(whole), projected)


def _names_in(piece: Piece) -> Iterator[str]:
    """The tensors of an adapter with which a piece computes."""
    if isinstance(piece, SlotPiece):
        yield piece.bias
    calls = (*piece.factor_calls, *(c for _, c in piece.branches)) if isinstance(piece, SlotPiece) else (piece,)
    yield from (name for call in calls for _, _, name in call.places)


def _key(model: ViT, plain: ViT, names: Mapping[int, str]) -> Hashable:
    """Equal for models whose own tensors have the same names and whose created modules the same signatures."""
    created = tuple(
        (path, _signature(module.inserted if isinstance(module, Block) else module.deltas, names))
        for path, module in model.named_modules()
        if isinstance(module, (Block, SlotLinear))
    )
    return model.config.projection == plain.config.projection, tuple(names.values()), created


def _check_config(model: ViT, plain: ViT) -> None:
    if replace(model.config, projection=plain.config.projection) == plain.config:
        return
    theirs, ours = vars(model.config), vars(plain.config)
    name = next(name for name in ours if name != "projection" and theirs[name] != ours[name])
    raise WeightsError(f"was made for a backbone with {name}={theirs[name]}, and the bank's has {name}={ours[name]}")


def _own_tensors(model: ViT, plain: ViT) -> Iterator[tuple[str, Tensor]]:
    """What the adapter trains, and all that its method created."""
    base = dict(plain.named_parameters()) | dict(plain.named_buffers())
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if name not in base or tensor.requires_grad or not _same(tensor, base[name]):
            if "." not in name and name in base:
                raise NotApplicable(
                    f"has a {name} of its own: it was made for another backbone, or trains all of it and has nothing "
                    "to share; serve it as a model of its own"
                )
            yield name, tensor


def _same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        raise WeightsError(f"was made for a backbone of other shapes ({tuple(a.shape)}, expected {tuple(b.shape)})")
    return a.data_ptr() == b.data_ptr() or torch.equal(a.detach().to(b), b)


def _pieces(template: ViT, names: TensorNames) -> Iterator[tuple[str, Piece]]:
    for path, module in template.named_modules():
        if isinstance(module, Block):
            for place in (place for place in BEHIND if place in module.inserted):
                inserted = module.inserted[place]
                alone = not getattr(inserted, "tokenwise", False)
                yield f"{path}.inserted.{place}", Call.of(inserted, names, alone)
            for name in ("attention.qkv", "attention.out", "mlp.fc1", "mlp.fc2"):
                layer = cast(SlotLinear, module.get_submodule(name))
                piece = _slot_piece(layer, names, alone=not _tokenwise(module))
                if piece is not None:
                    yield f"{path}.{name}", piece
        elif _of_the_backbone(path, module) and any(id(p) in names.names for p in module.parameters(recurse=False)):
            yield path, Call.of(module, names)


def _of_the_backbone(path: str, module: nn.Module) -> bool:
    """Is this one of the plain network's modules, and none that is dealt with elsewhere?"""
    created = {"inserted", "deltas", "shared"}.intersection(path.split("."))
    return not created and not isinstance(module, (SlotLinear, ViT, RelativeBias))


def _slot_piece(layer: SlotLinear, names: TensorNames, alone: bool) -> SlotPiece | None:
    deltas = thin_deltas(layer)
    branches = tuple(
        (cast(Slot, slot), Call.of(delta, names, alone, cast(Delta, delta).branch))
        for slot, delta in layer.deltas.items()
        if slot not in deltas
    )
    bias = names.names.get(id(layer.bias), "")
    if id(layer.weight) in names.names or (deltas and merging_pays(layer)):
        return SlotPiece(Call.of(layer, names, function=partial(merged_layer, layer)), branches=branches)
    thin = tuple(
        (slot, Call.of(delta, names, function=partial(delta_factors, delta))) for slot, delta in deltas.items()
    )
    return SlotPiece(None, thin, bias, branches) if thin or branches or bias else None


def _tokenwise(block: Block) -> bool:
    return all(getattr(module, "tokenwise", False) for module in block.inserted.values())


def _signature(module: nn.Module, names: Mapping[int, str]) -> Hashable:
    """Equal for modules that differ in nothing but the numbers in the adapter's tensors."""
    settings = sorted((n, _value(v)) for n, v in vars(module).items() if not n.startswith("_") and n != "training")
    own = chain(module._parameters.items(), module._buffers.items())
    tensors = tuple((n, names.get(id(t)), t.shape, t.dtype) for n, t in own if t is not None)
    children = tuple((name, _signature(child, names)) for name, child in module.named_children())
    referred = tuple((n, _referred(*place, names)) for n, place in references(module).items())
    return type(module), tuple(settings), tensors, children, referred


def _referred(owner: nn.Module, attribute: str, names: Mapping[int, str]) -> Hashable:
    thing = getattr(owner, attribute) if attribute else None
    if isinstance(thing, Tensor):
        return names.get(id(thing)), thing.shape, thing.dtype
    return _signature(thing, names) if isinstance(thing, nn.Module) else None


def _value(value: object) -> tuple[str, Hashable]:
    if isinstance(value, partial):  # a copy of one would count as another
        return "partial", (value.func, value.args, tuple(sorted(value.keywords.items())))
    if isinstance(value, slice):  # hashable from Python 3.12 on
        return "slice", (value.start, value.stop, value.step)
    try:
        hash(value)
    except TypeError:
        return "object", id(value)  # never shared by accident: the template keeps it alive
    return type(value).__qualname__, value
