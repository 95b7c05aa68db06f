"""What a method may do to a backbone: add deltas, modules and tokens, thaw; and saving and loading what it did.

Ownership is by object: `adapt` freezes everything first; whatever the method creates or thaws afterwards is trainable,
and nothing else is. No name is ever searched for a substring.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any, ClassVar, Literal, Protocol, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor, nn

from ..utils.errors import NotApplicable, WeightsError
from .block import ENDS, PLACES, SLOTS, Block, EndPlace, Place, Slot, SlotLinear
from .block import check_slots as check_slots
from .changes import has_tokens, other_changes, slot_layers
from .changes import merge as merge
from .changes import trains_end_alone as trains_end_alone
from .changes import unchanged_blocks as unchanged_blocks
from .deltas import Computed, Delta, WeightTransform
from .head_spec import HeadSpec
from .support import Solution, Support
from .text_transformer import TextTransformer
from .transformer import Transformer
from .vit import ViT

Module = TypeVar("Module", bound=nn.Module)
State = dict[str, Tensor]
Towers = Literal["image", "text", "both"]
HALF = (torch.float16, torch.bfloat16)
ADAPTED = "the backbone is already adapted; merge it first, or start from the plain backbone"


@runtime_checkable
class Method(Protocol):
    """A way to adapt a backbone: a frozen dataclass whose fields are its hyper-parameters, with one verb.

    `trains_head` is False only for methods that leave even the classifier head as it was initialised. `breaks` names
    the laws of `vitadapt.methods.laws` that a method is known to break; it then runs under a protocol of its own only.
    `reads_versions`: its `solve_head` uses the features of several versions of each image.
    `reads_pooled`: it uses those before the output projection, and what it trains is this projection or behind it.
    `several_labels` is False for methods whose heads give one label per image.
    `learns_prior` is False where every class counts as equally likely, however many images it has in training.
    `text_penalty` holds class vectors of a text tower that learns near those of the plain one (`nn.class_texts`).
    `head_share`: of all steps, in the last of which the class vectors alone train, from where the text tower left them.
    """

    trains_head: ClassVar[bool] = True
    breaks: ClassVar[frozenset[str]] = frozenset()
    default_head: ClassVar[HeadSpec | None] = None
    reads_versions: ClassVar[bool] = False
    reads_pooled: ClassVar[bool] = False
    several_labels: ClassVar[bool] = True
    learns_prior: ClassVar[bool] = True
    text_penalty: float = 0.0
    head_share: float = 0.0

    def adapt(self, vit: Any) -> None:
        """Edit the frozen `vit`, or text tower, in place. Raises NotApplicable when it lacks what the method needs."""

    def couple(self, image: Any, text: Any, sentences: Tensor) -> None:
        """Tie what `adapt` made in both towers; sentences (S, L): token numbers of those about the classes."""
        return None

    def templates(self) -> tuple[str, ...]:
        """The sentences that a method needs whose words it learns, with {} for the name; none for those of the data."""
        return ()

    def solve_head(self, support: Support) -> Solution | None:
        """A head in closed form, or learnt by the method itself on cached features; None for one that is trained."""
        return None


def solves_head(method: Method) -> bool:
    """Does the method give a head in closed form, so that no recipe matters?"""
    return any(
        type(part).solve_head is not Method.solve_head for part in cast(Any, getattr(method, "methods", (method,)))
    )


def towers_of(method: Method) -> Towers:
    """Which towers `method` changes: its field `towers`; the image tower alone where it has none."""
    return cast(Towers, getattr(method, "towers", "image"))


def acts_on(method: Method, network: nn.Module) -> bool:
    """Does `method` change the tower that `network` is?"""
    return towers_of(method) in ("text" if isinstance(network, TextTransformer) else "image", "both")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within the block torch's CPU generator starts from `seed`; outside, it is as if nothing had happened."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def adapt(backbone: Module, method: Method, seed: int | None = 0) -> Module:
    """An adapted copy of `backbone`; the original is untouched and shares the memory of all frozen weights.

    A method that does not act on the tower that `backbone` is (see `towers_of`) leaves the copy as it is.

    What the method creates has the backbone's device and precision. Same method and seed give the same initial tensors
    whatever ran before; seed None goes on with torch's generator as it stands. Raises NotApplicable.
    """
    if is_adapted(backbone):
        raise NotApplicable(ADAPTED)
    adapted = copy_sharing_weights(backbone)
    base = {id(tensor) for tensor in chain(adapted.parameters(), adapted.buffers())}
    with nullcontext() if seed is None else seeded(seed):
        if acts_on(method, adapted):
            method.adapt(adapted)
    created = [tensor for tensor in chain(adapted.parameters(), adapted.buffers()) if id(tensor) not in base]
    match_base(created, next(backbone.parameters()))
    if isinstance(adapted, Transformer):
        adapted.other_changes = other_changes(adapted, cast(Transformer, backbone))
    for parameter in adapted.parameters():
        if parameter.requires_grad and id(parameter) in base:
            parameter.data = parameter.data.clone()  # thawed tensors may no longer share memory
    if not backbone.training:
        adapted.eval()  # modules are created in training mode
    return adapted.to(next(backbone.parameters()).device)


def adapt_both(
    image: Module, text: TextTransformer, sentences: Tensor, method: Method, seed: int = 0
) -> tuple[Module, TextTransformer]:
    """Adapted copies of both towers, as of `adapt`, which the method may have tied together (`Method.couple`).

    sentences (S, L): token numbers of those about the classes. Raises NotApplicable.
    """
    first, second = adapt(image, method, seed), adapt(text, method, seed)
    towers = nn.ModuleList([first, second])
    known = {id(tensor) for tensor in chain(towers.parameters(), towers.buffers())}
    with seeded(seed):
        method.couple(first, second, sentences)
    created = [tensor for tensor in chain(towers.parameters(), towers.buffers()) if id(tensor) not in known]
    match_base(created, next(image.parameters()))
    return first, second


def match_base(created: Iterable[Tensor], base: Tensor) -> None:
    """Bring tensors, in place, to the device and (floating ones) the precision of `base`; each gets memory of its own.

    A layer of a backbone in half precision takes no other tensors.
    """
    for tensor in created:
        tensor.data = tensor.data.to(base.device, base.dtype if tensor.is_floating_point() else None, copy=True)


def is_adapted(backbone: nn.Module) -> bool:
    """Does a transformer carry deltas, inserted modules, added tokens or modules that a method shares?"""
    if not isinstance(backbone, Transformer):
        return False
    created = [backbone.shared, *(layer.deltas for layer in slot_layers(backbone))]
    created += [backbone.inserted, *(block.inserted for block in blocks(backbone))]
    return any(len(modules) for modules in created) or has_tokens(backbone) or backbone.side is not None


def copy_sharing_weights(backbone: Module) -> Module:
    """A copy of `backbone` whose parameters are frozen and share the memory of the original's."""
    shared = {id(p): nn.Parameter(p.data, requires_grad=False) for p in backbone.parameters()}
    return copy.deepcopy(backbone, cast(dict[int, Any], shared))


def require_vit(backbone: nn.Module) -> ViT:
    """`backbone` itself when it is a plain ViT; raises NotApplicable for other networks."""
    if isinstance(backbone, ViT):
        return backbone
    if isinstance(backbone, TextTransformer):
        raise NotApplicable("this method is made for images and cannot act on a text tower; use towers=image")
    raise NotApplicable(
        f"this method edits the named slots of a plain vision transformer and {type(backbone).__name__} has none; "
        "use linear-probe, bitfit, layernorm or fine-tune with this backbone"
    )


def require_transformer(network: nn.Module) -> Transformer:
    """`network` itself when it is a ViT or a text tower; raises NotApplicable for other networks."""
    return network if isinstance(network, Transformer) else require_vit(network)


def blocks(network: nn.Module) -> list[Block]:
    """The transformer blocks from the input to the output."""
    return cast(list[Block], list(require_transformer(network).blocks))


def slot_layer(block: Block, slot: Slot) -> SlotLinear:
    """The linear layer of `block` that owns `slot`. Raises ValueError for an unknown slot, NotApplicable without it."""
    if found := [layer for layer in slot_layers(block) if slot in layer.slots]:
        return found[0]
    if slot in SLOTS:
        raise NotApplicable(f"the MLPs of this backbone have no {slot}; leave {slot} out of targets")
    raise ValueError(f"unknown slot {slot!r}; the slots are {', '.join(SLOTS)}")


def slots_of(block: Block) -> list[Slot]:
    """The slots that `block` has, from the attention's to the MLP's."""
    return [slot for layer in slot_layers(block) for slot in layer.slots]


def slot_shape(block: Block, slot: Slot) -> tuple[int, int]:
    """(D_out, D_in) of the rows of `slot`."""
    layer = slot_layer(block, slot)
    return layer.out_features // len(layer.slots), layer.in_features


def add_delta(block: Block, slot: Slot, delta: Delta) -> None:
    """Add `delta` to the rows of `slot`. Raises ValueError when the slot has one already."""
    layer = slot_layer(block, slot)
    if slot in layer.deltas:
        raise ValueError(f"slot {slot!r} already carries a delta; merge it first")
    if isinstance(delta, WeightTransform):
        delta.attach(layer, slot)
    layer.deltas[slot] = delta


def insert(part: Block | Transformer, place: Place | EndPlace, module: nn.Module) -> None:
    """Put `module` (B, N, D) -> (B, N, D) into a block.

    Where f is the attention or the MLP, with its input n, which is the norm of the tokens x, and its output y before
    the residual sum: "attention" and "mlp" stand behind, y -> module(y); "f-input" before, n -> module(n); "f-parallel"
    beside, y -> y + module(n); "f-residual" beside the norm, too, y -> y + module(x). "block" stands behind the whole
    block, x -> module(x). A network has more places, of which the module also changes what it gets: "patches" behind
    their embedding, before the positions are added, "positions" (L, D), the table of a text tower, "norm" behind the
    final norm, and "features" (B, E) behind the output projection.
    Raises ValueError for another place, and for one that is taken.
    """
    places: tuple[str, ...] = PLACES if isinstance(part, Block) else ENDS
    if place in ("patches", "features"):
        require_vit(part)
    if place == "positions" and not isinstance(part, TextTransformer):
        raise NotApplicable("the positions are changed in a text tower alone; use towers=text")
    if place not in places or place in part.inserted:
        raise ValueError(f"cannot insert at {place!r}: unknown or occupied; the places are {', '.join(places)}")
    part.inserted[place] = module


def add_side(vit: Transformer, side: nn.Module) -> None:
    """Let a network run beside the blocks: behind each, `side(number, x, state)` -> (x, state).

    number: of the block, from 0; x (B, N, D): its output, which goes on as the `x` that is returned; state: what was
    returned behind the block before, None at first. An attribute `first` tells that it leaves the blocks before that
    number alone. Raises ValueError when there is one already.
    """
    if require_transformer(vit).side is not None:
        raise ValueError("there is a network beside the blocks already")
    vit.side = side


def add_tokens(vit: ViT, tokens: Sequence[nn.Parameter | None]) -> None:
    """Let learnt tokens (P, D) stand beside the patches.

    One parameter: they go through all blocks and are dropped before pooling (shallow prompts). One for each block: they
    stand in that block alone and are dropped behind it (deep prompts); None for a block without any. Raises ValueError
    for another number of parameters, another width, and when there are tokens already.
    """
    vit = require_vit(vit)
    holders = [vit] if len(tokens) == 1 else list(vit.blocks)
    given = [t for t in tokens if t is not None]
    if len(tokens) not in (1, len(vit.blocks)) or any(t.ndim != 2 or t.shape[1] != vit.config.width for t in given):
        raise ValueError(f"give one parameter (P, {vit.config.width}), or one for each of the {len(vit.blocks)} blocks")
    if has_tokens(vit):
        raise ValueError("there are added tokens already")
    for holder, parameter in zip(holders, tokens, strict=True):
        cast(Any, holder).tokens = parameter


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
    """A detached copy, on the CPU, of every trainable tensor; half precision becomes float32, which is exact."""
    return _copies(trainable(model))


def learnt_state(model: nn.Module) -> State:
    """The same, of a tensor that was computed of others in training (`Computed`) what it became."""
    computed = {name: part for name, part in model.named_modules() if isinstance(part, Computed)}
    inner = {id(p) for part in computed.values() for p in part.parameters()}
    own: State = {name: p for name, p in trainable(model).items() if id(p) not in inner}
    return _copies(own | {name: part() for name, part in computed.items()})


def _copies(tensors: Mapping[str, Tensor]) -> State:
    wide = {name: p.float() if p.dtype in HALF else p for name, p in tensors.items()}
    return {name: p.detach().cpu().clone() for name, p in wide.items()}


def constants(model: nn.Module) -> State:
    """Name -> buffer of what a method created: it does not train, and without it what was learnt makes no sense."""
    places = ("shared", "inserted", "deltas", "side")
    held = [getattr(module, place, None) for module in model.modules() for place in places]
    created = {id(b) for part in held if isinstance(part, nn.Module) for b in part.buffers()}
    kept = model.state_dict().keys()  # a buffer that is not, is computed anew from the weights
    return {name: buffer for name, buffer in model.named_buffers() if id(buffer) in created and name in kept}


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
