"""Adapting a live open_clip, timm or Hugging Face model in place of our own ViT, so that training loops keep working.

The model is understood by the converters of `weights`: a copy of it in our words is adapted, and what the method made
there is moved to the layers of the model that hold the same weights. Those layers (`live_layers`) keep
their names in the state dict and their class's interface; the model's own code runs everything else.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

from torch import nn

from ..nn import surgery
from ..nn.block import PLACES, Place, Slot, SlotLinear
from ..nn.deltas import Delta
from ..nn.surgery import Method
from ..nn.vit import Preprocess, ViT
from ..utils.errors import NotApplicable, NotMergeable, WeightsError
from .external_layers import CARRIERS, as_carrier, through_inserted
from .layouts import CONVERTERS, from_module, understand

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
    carriers = [module for module in backbone.modules() if isinstance(module, CARRIERS)]
    for carrier in carriers:
        for name, delta in cast(Any, carrier.deltas).items():
            if delta.bias() is not None and carrier.part(name).bias is None:
                raise NotMergeable("the delta has a bias and the layer has none; use the method with bias=false")
    for carrier in carriers:
        carrier.fold()
    return backbone


def _is_foreign(module: nn.Module) -> bool:
    return any(
        kind.__module__.partition(".")[0] in ("timm", "open_clip", "transformers") for kind in type(module).__mro__
    )


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
        carrier = as_carrier(owner)
        carrier.deltas[slot] = delta.train(owner.training)
        carrier.rows[slot] = (rows.start, rows.stop)

    def _insert(self, number: int, place: Place, module: nn.Module) -> None:
        scale, last = _LAST[place]
        at = f"blocks.{number}"
        _, owner = (self._owners(f"{at}.{scale}.gamma") + self._owners(f"{at}.{last}.weight"))[0]
        cast(Any, owner).inserted = module.train(owner.training)
        owner.register_forward_hook(through_inserted)

    def _thaw(self, ours: str, parameter: nn.Parameter) -> None:
        """Make the tensors that ours is made of trainable, holding what the method left in it."""
        for theirs, value in self.rules[ours].write(parameter.detach(), self.prefix).items():
            path, _, name = theirs.rpartition(".")
            owner = self.tower.get_submodule(path)
            own = getattr(owner, name)
            setattr(owner, name, nn.Parameter(value.to(own).reshape(own.shape).clone()))  # memory of its own


def _thaw_classifier(model: nn.Module) -> None:
    for name in _CLASSIFIERS:
        layer = getattr(model, name, None)
        for parameter in layer.parameters() if isinstance(layer, nn.Module) else ():
            parameter.data = parameter.data.clone()
            parameter.requires_grad_(True)
