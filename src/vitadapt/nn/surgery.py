"""What a method may do to a backbone: add a delta to named rows, insert a module, thaw; and merge, save and load.

Ownership is by object: `adapt` freezes everything first; whatever the method creates or thaws afterwards is trainable,
and nothing else is. No name is ever searched for a substring.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar, Protocol, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor, nn

from ..utils.errors import ConfigError, NotApplicable, NotMergeable, WeightsError
from .deltas import Delta as Delta
from .deltas import ThinDelta as ThinDelta
from .vit import PLACES, SLOTS, Block, Place, Slot, SlotLinear, ViT

Module = TypeVar("Module", bound=nn.Module)
State = dict[str, Tensor]


@runtime_checkable
class Method(Protocol):
    """A way to adapt a backbone: a frozen dataclass whose fields are its hyper-parameters, with one verb.

    `trains_head` is False only for methods that leave even the classifier head as it was initialised. `breaks` names
    the laws of `vitadapt.methods.testing` that a method is known to break; it then runs only under a protocol made
    for it.
    """

    trains_head: ClassVar[bool] = True
    breaks: ClassVar[frozenset[str]] = frozenset()

    def adapt(self, vit: Any) -> None:
        """Edit the frozen `vit` in place. Raises NotApplicable when it lacks what the method needs."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within the block torch's CPU generator starts from `seed`; outside, it is as if nothing had happened."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def adapt(backbone: Module, method: Method, seed: int | None = 0) -> Module:
    """An adapted copy of `backbone`; the original is untouched and shares the memory of all frozen weights.

    Same method and seed give the same initial tensors whatever ran before; seed None goes on with torch's generator
    as it stands. Raises NotApplicable.
    """
    adapted = copy_sharing_weights(backbone)
    device = next(backbone.parameters()).device
    with nullcontext() if seed is None else seeded(seed):
        method.adapt(adapted)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.clone().to(device)  # thawed tensors may no longer share memory
    if not backbone.training:
        adapted.eval()  # modules are created in training mode
    return adapted.to(device)


def copy_sharing_weights(backbone: Module) -> Module:
    """A copy of `backbone` whose parameters are frozen and share the memory of the original's."""
    shared = {id(p): nn.Parameter(p.data, requires_grad=False) for p in backbone.parameters()}
    return copy.deepcopy(backbone, cast(dict[int, Any], shared))


def require_vit(backbone: nn.Module) -> ViT:
    """`backbone` itself when it is a plain ViT; raises NotApplicable for other networks."""
    if isinstance(backbone, ViT):
        return backbone
    raise NotApplicable(
        f"this method edits the named slots of a plain vision transformer and {type(backbone).__name__} has none; "
        "use linear-probe, bitfit, layernorm or fine-tune with this backbone"
    )


def blocks(vit: nn.Module) -> list[Block]:
    """The transformer blocks from the input to the output."""
    return cast(list[Block], list(require_vit(vit).blocks))


def check_slots(slots: Sequence[str]) -> None:
    """Raises ConfigError unless `slots` are one or more of the known slots, each named once."""
    strange = [slot for slot in slots if slot not in SLOTS]
    if strange or not slots or len(set(slots)) < len(slots):
        what = f"{strange[0]!r} is not a slot" if strange else "name at least one slot, and each only once"
        raise ConfigError(f"targets={'+'.join(slots)}: {what}; the slots are {', '.join(SLOTS)}")


def slot_layer(block: Block, slot: Slot) -> SlotLinear:
    """The linear layer of `block` that owns `slot`. Raises ValueError for an unknown slot."""
    for layer in block.modules():
        if isinstance(layer, SlotLinear) and slot in layer.slots:
            return layer
    raise ValueError(f"unknown slot {slot!r}; the slots are {', '.join(SLOTS)}")


def slot_shape(block: Block, slot: Slot) -> tuple[int, int]:
    """(D_out, D_in) of the rows of `slot`."""
    layer = slot_layer(block, slot)
    return layer.out_features // len(layer.slots), layer.in_features


def add_delta(block: Block, slot: Slot, delta: Delta) -> None:
    """Add `delta` to the rows of `slot`. Raises ValueError when the slot has one already."""
    layer = slot_layer(block, slot)
    if slot in layer.deltas:
        raise ValueError(f"slot {slot!r} already carries a delta; merge it first")
    layer.deltas[slot] = delta


def insert(block: Block, place: Place, module: nn.Module) -> None:
    """Put `module` (B, N, D) -> (B, N, D) behind the attention or the MLP, before the residual sum."""
    if place not in PLACES or place in block.inserted:
        raise ValueError(f"cannot insert behind {place!r}: unknown or occupied; the places are {', '.join(PLACES)}")
    block.inserted[place] = module


def thaw(parameters: Iterable[nn.Parameter | None]) -> None:
    """Make existing parameters trainable (None entries are skipped)."""
    for parameter in parameters:
        if parameter is not None:
            parameter.requires_grad_(True)


def parameters_of(backbone: nn.Module, wanted: Callable[[nn.Module, str], bool]) -> Iterator[nn.Parameter]:
    """The parameters for which `wanted(owner module, name within the owner)` holds, each once."""
    seen: set[int] = set()
    for owner in backbone.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if id(parameter) not in seen and wanted(owner, name):
                seen.add(id(parameter))
                yield parameter


def is_norm(module: nn.Module) -> bool:
    """Is `module` a normalisation layer (layer, batch, group, instance or RMS norm)?"""
    if isinstance(module, (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)):
        return True
    return type(module).__name__.lower().endswith(("norm", "norm2d")) and hasattr(module, "weight")


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter of all that trains; a tensor used in several places appears once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def trainable_state(model: nn.Module) -> State:
    """A detached copy, on the CPU, of every trainable tensor."""
    return {name: p.detach().cpu().clone() for name, p in trainable(model).items()}


def constants(model: nn.Module) -> State:
    """Name -> buffer of what a method created: it does not train, and without it what was learnt makes no sense."""
    places: dict[type, str] = {ViT: "shared", Block: "inserted", SlotLinear: "deltas"}
    found: dict[int, tuple[str, Tensor]] = {}
    for name, module in model.named_modules():
        place = places.get(type(module))
        for key, buffer in getattr(module, place).named_buffers() if place else ():
            found.setdefault(id(buffer), (".".join(filter(None, (name, place, key))), buffer))
    return dict(found.values())


def load_trainable_state(model: nn.Module, state: State) -> None:
    """Write `state` into the trainable tensors, all or none.

    Raises WeightsError unless names and shapes agree exactly.
    """
    own = trainable(model)
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or extra:
        raise WeightsError(f"adapter does not fit: missing {missing[:3]}, unexpected {extra[:3]}")
    for name, parameter in own.items():
        if parameter.shape != state[name].shape:
            raise WeightsError(f"{name} has shape {tuple(state[name].shape)}, expected {tuple(parameter.shape)}")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])


def merge(backbone: Module) -> Module:
    """Fold every delta into the weights, in place; afterwards the state dict has the plain model's keys again.

    A network that carries none, of whatever kind, stays as it is. Raises NotMergeable, with nothing folded yet, when a
    module was inserted (a bottleneck is not linear) or a delta's bias has nowhere to go.
    """
    _check_mergeable(backbone)
    for layer in _layers_with_deltas(backbone):
        for slot, delta in layer.deltas.items():
            _fold(layer, layer.rows(cast(Slot, slot)), cast(Delta, delta))
        layer.deltas = nn.ModuleDict()
    if isinstance(backbone, ViT):
        backbone.shared = nn.ModuleDict()
    return backbone


def _layers_with_deltas(backbone: nn.Module) -> list[SlotLinear]:
    return [m for m in backbone.modules() if isinstance(m, SlotLinear) and len(m.deltas)]


def _check_mergeable(backbone: nn.Module) -> None:
    if any(isinstance(m, Block) and len(m.inserted) for m in backbone.modules()):
        raise NotMergeable("modules inserted between layers cannot be folded into the weights; keep the adapter")
    for layer in _layers_with_deltas(backbone):
        if layer.bias is None and any(cast(Delta, delta).bias() is not None for delta in layer.deltas.values()):
            raise NotMergeable("the delta has a bias and the layer has none; use the method with bias=false")


def _fold(layer: SlotLinear, rows: slice, delta: Delta) -> None:
    with torch.no_grad():
        weight = layer.weight.detach().clone()  # never in place: the memory may be shared with other models
        weight[rows] += delta.matrix().to(weight.dtype)
        layer.weight = nn.Parameter(weight, requires_grad=False)
        shift = delta.bias()
        if shift is None:
            return
        bias = layer.bias.detach().clone()
        bias[rows] += shift.to(bias.dtype)
        layer.bias = nn.Parameter(bias, requires_grad=False)
