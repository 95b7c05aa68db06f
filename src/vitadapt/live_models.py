"""Adapting a live open_clip, timm or Hugging Face model in place of our own ViT, so that training loops keep working.

The model is understood by the converters of `weights`: a copy of it in our words is adapted, and what the method made
there is moved to the layers of the model that hold the same weights. Those layers keep their names in the state dict
and their class's interface (they become subclasses of it); the model's own code runs everything else. A delta's
branch is computed beside a linear layer; where a library hands its weights to a function (the attention of open_clip),
the matrix itself is added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import surgery
from .errors import NotApplicable, NotMergeable, WeightsError
from .surgery import Delta, Method
from .vit import PLACES, Place, Preprocess, Slot, SlotLinear, ViT
from .weights.layouts import CONVERTERS, from_module, understand

Module = TypeVar("Module", bound=nn.Module)

_ANY_INPUT = Preprocess()  # a live model is given images that its own code has normalised
_CLASSIFIERS = ("head", "classifier")
"""What timm and Hugging Face call the layer behind the features."""
_LAYERS: dict[str, str] = {
    **dict.fromkeys("qkv", "attention.qkv"),
    "o": "attention.out",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
"""Slot -> the layer of a block that holds it."""
_LAST: dict[Place, tuple[str, str]] = {"attention": ("scale1", "attention.out"), "mlp": ("scale2", "mlp.fc2")}
"""Behind which part of a block a module is inserted: its layer scale where it has one, else its last linear layer."""


def adapt(backbone: Module, method: Method, seed: int | None = 0) -> Module:
    """An adapted copy of `backbone`, which is one of ours or a live open_clip, timm or Hugging Face model.

    The copy of a live model has the same class interface: same forward, same outputs, the same names in its state dict
    besides the new ones. What the method trains is trainable, and the classifier behind the image features where there
    is one and the method trains heads; nothing else is. It shares the memory of all frozen weights with the original,
    which is untouched. Raises NotApplicable, and WeightsError naming the part of a model that a plain ViT lacks.
    """
    if not _is_foreign(backbone):
        return surgery.adapt(backbone, method, seed)
    if method.breaks:
        raise NotApplicable(f"{type(method).__name__} reproduces defects of published code and needs our own ViT")
    try:
        ours = from_module(backbone, _ANY_INPUT)
    except WeightsError as error:
        return _without_slots(backbone, method, seed, error)
    copied = surgery.copy_sharing_weights(backbone)
    _Graft(copied, surgery.adapt(ours, method, seed)).all()
    if method.trains_head:
        _thaw_classifier(copied)
    return copied.to(next(backbone.parameters()).device)


def _without_slots(backbone: Module, method: Method, seed: int | None, reason: WeightsError) -> Module:
    """What is no plain ViT can still be adapted by methods that only choose among its own tensors."""
    try:
        return surgery.adapt(backbone, method, seed)
    except NotApplicable:
        raise reason from None


def merge(backbone: Module) -> Module:
    """Fold every delta into the weights, in place: the plain model of the library's own class, with other weights.

    Raises NotMergeable, with nothing folded yet, when a module was inserted or a bias has nowhere to go.
    """
    if not _is_foreign(backbone):
        return surgery.merge(backbone)
    if any(hasattr(module, "inserted") for module in backbone.modules()):
        raise NotMergeable("modules inserted between layers cannot be folded into the weights; keep the adapter")
    carriers = [module for module in backbone.modules() if isinstance(module, _CARRIERS)]
    for carrier in carriers:
        for name, delta in carrier.deltas.items():
            if delta.bias() is not None and carrier.part(name).bias is None:
                raise NotMergeable("the delta has a bias and the layer has none; use the method with bias=false")
    for carrier in carriers:
        carrier.fold()
    return backbone


def _is_foreign(module: nn.Module) -> bool:
    return any(
        kind.__module__.partition(".")[0] in ("timm", "open_clip", "transformers") for kind in type(module).__mro__
    )


@dataclass(frozen=True)
class _Part:
    """A weight and a bias of a carrier, and the names under which it holds them."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    names: tuple[str, str]
    owner: nn.Module


class _Carrier(nn.Module):
    """A layer of a library that carries deltas, each with the rows of its weight that it changes."""

    deltas: nn.ModuleDict
    rows: dict[str, tuple[int, int]]

    def part(self, name: str) -> _Part:
        """What the delta `name` changes."""
        raise NotImplementedError

    @torch.no_grad()
    def fold(self) -> None:
        """Add the deltas to the weights and become the library's class again."""
        for name, delta in self.deltas.items():
            part, (first, last) = self.part(name), self.rows[name]
            for key, own, change in zip(
                part.names, (part.weight, part.bias), (delta.matrix(), delta.bias()), strict=True
            ):
                if change is not None and own is not None:
                    tensor = own.detach().clone()  # never in place: the memory may be shared with other models
                    tensor[first:last] += change.to(tensor)
                    setattr(part.owner, key, nn.Parameter(tensor, requires_grad=False))
        del self.deltas, self.rows
        self.__class__ = type(self).__mro__[1]  # type: ignore[assignment]


class AdaptedLinear(nn.Linear, _Carrier):
    """A linear layer plus the branches of its deltas, (..., D_in) -> (..., D_out)."""

    def part(self, name: str) -> _Part:
        return _Part(self.weight, self.bias, ("weight", "bias"), self)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        for name, delta in self.deltas.items():
            first, last = self.rows[name]
            branch = _branch(cast(Delta, delta), x).to(y.dtype)
            y = y + (branch if last - first == y.shape[-1] else F.pad(branch, (first, y.shape[-1] - last)))
        return y


class AdaptedAttention(nn.MultiheadAttention, _Carrier):
    """torch's attention with deltas added to its packed q, k, v and to its output projection."""

    def part(self, name: str) -> _Part:
        if name == "o":
            return _Part(self.out_proj.weight, self.out_proj.bias, ("weight", "bias"), self.out_proj)
        return _Part(self.in_proj_weight, self.in_proj_bias, ("in_proj_weight", "in_proj_bias"), self)

    def forward(  # type: ignore[override]
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        turned = self.batch_first and query.dim() == 3
        if turned:  # (B, N, D) -> (N, B, D); one and the same tensor stays one
            turns = {id(x): x.transpose(0, 1) for x in (query, key, value)}
            query, key, value = (turns[id(x)] for x in (query, key, value))
        weight, bias = self._changed(("q", "k", "v"), self.in_proj_weight, self.in_proj_bias)
        out_weight, out_bias = self._changed(("o",), self.out_proj.weight, self.out_proj.bias)
        mixed, weights = F.multi_head_attention_forward(
            *(query, key, value, self.embed_dim, self.num_heads, weight, bias, self.bias_k, self.bias_v),
            *(self.add_zero_attn, self.dropout, out_weight, out_bias),
            training=self.training,
            key_padding_mask=key_padding_mask,
            need_weights=need_weights,
            attn_mask=attn_mask,
            average_attn_weights=average_attn_weights,
            is_causal=is_causal,
        )
        return (mixed.transpose(0, 1) if turned else mixed), weights

    def _changed(self, names: tuple[str, ...], weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The weight and the bias with the deltas of these names added to their rows."""
        for name in names:
            if name not in self.deltas:
                continue
            delta, (first, last) = cast(Delta, self.deltas[name]), self.rows[name]
            matrix, shift = delta.matrix().to(weight.dtype), delta.bias()
            weight = weight + F.pad(matrix, (0, 0, first, len(weight) - last))
            if shift is not None and bias is not None:
                bias = bias + F.pad(shift.to(bias.dtype), (first, len(bias) - last))
        return weight, bias


_CARRIERS = (AdaptedLinear, AdaptedAttention)


def _branch(delta: Delta, x: Tensor) -> Tensor:
    """The delta's branch in the precision of its own tensors, whatever that of the layer is."""
    kind = next(delta.parameters()).dtype
    return delta.branch(x if x.dtype == kind else x.to(kind))


def _through_inserted(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """Forward hook: a function of the module alone, so that copies of the model use their own inserted modules."""
    return cast(Tensor, cast(Any, module).inserted(output))


class _Graft:
    """Moves what a method made in our `adapted` ViT to the layers of `model` that hold the same weights."""

    def __init__(self, model: nn.Module, adapted: ViT) -> None:
        live, converted = understand(model, _ANY_INPUT)
        self.tower, self.prefix, self.adapted = live.tower, converted.prefix, adapted
        self.rules = CONVERTERS[converted.layout].rules_of(adapted.config.depth)

    def all(self) -> None:
        for number, block in enumerate(cast(Any, self.adapted.blocks)):
            for layer in block.modules():
                if isinstance(layer, SlotLinear):
                    for slot, delta in layer.deltas.items():
                        self._carry(number, cast(Slot, slot), layer, cast(Delta, delta))
            for place in PLACES:
                if place in block.inserted:
                    self._insert(number, place, block.inserted[place])
        for name, parameter in surgery.trainable(self.adapted).items():
            if name in self.rules:
                self._thaw(name, parameter)

    def _owners(self, ours: str) -> list[tuple[str, nn.Module]]:
        """Path and module of whatever holds the parts of our tensor; none where the library has no such part."""
        paths = [
            (self.prefix + name).rpartition(".")[0] for name in (self.rules[ours].theirs if ours in self.rules else ())
        ]
        known = dict(self.tower.named_modules())
        return [(path, known[path]) for path in paths if path in known]

    def _carry(self, number: int, slot: Slot, layer: SlotLinear, delta: Delta) -> None:
        """Put the delta on the layer that holds its rows: a packed one, or one of its own."""
        owners = self._owners(f"blocks.{number}.{_LAYERS[slot]}.weight")
        packed = len(owners) < len(layer.slots)
        path, owner = owners[0 if packed else layer.slots.index(slot)]
        parent = self.tower.get_submodule(path.rpartition(".")[0])
        if isinstance(parent, nn.MultiheadAttention):  # it passes its projection's weight to a function
            owner = parent
        rows = layer.rows(slot) if packed else slice(0, layer.out_features // len(layer.slots))
        carrier = _carrier(owner)
        carrier.deltas[slot] = delta.train(owner.training)
        carrier.rows[slot] = (rows.start, rows.stop)

    def _insert(self, number: int, place: Place, module: nn.Module) -> None:
        scale, last = _LAST[place]
        at = f"blocks.{number}"
        _, owner = (self._owners(f"{at}.{scale}.gamma") + self._owners(f"{at}.{last}.weight"))[0]
        cast(Any, owner).inserted = module.train(owner.training)
        owner.register_forward_hook(_through_inserted)

    def _thaw(self, ours: str, parameter: nn.Parameter) -> None:
        """Make the tensors that ours is made of trainable, holding what the method left in it."""
        for theirs, value in self.rules[ours].write(parameter.detach(), self.prefix).items():
            path, _, name = theirs.rpartition(".")
            owner = self.tower.get_submodule(path)
            own = getattr(owner, name)
            setattr(owner, name, nn.Parameter(value.to(own).reshape(own.shape).clone()))  # memory of its own


def _carrier(owner: nn.Module) -> Any:
    """`owner` as a layer that carries deltas. Raises NotApplicable for a class that is not known."""
    if isinstance(owner, _CARRIERS):
        return owner
    known: dict[type, type] = {nn.Linear: AdaptedLinear, nn.MultiheadAttention: AdaptedAttention}
    if type(owner) not in known:
        raise NotApplicable(f"a layer of class {type(owner).__name__} cannot carry an update; use a plain model")
    owner.__class__ = known[type(owner)]
    carrier: Any = owner
    carrier.deltas, carrier.rows = nn.ModuleDict(), {}
    return carrier


def _thaw_classifier(model: nn.Module) -> None:
    for name in _CLASSIFIERS:
        layer = getattr(model, name, None)
        for parameter in layer.parameters() if isinstance(layer, nn.Module) else ():
            parameter.data = parameter.data.clone()
            parameter.requires_grad_(True)
