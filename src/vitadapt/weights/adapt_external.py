"""Adapting a live open_clip, timm or Hugging Face model in place of our own ViT, so that training loops keep working.

The model is understood by the converters of `weights`: a copy of it in our words is adapted, and what the method made
there is moved to the layers of the model that hold the same weights. Those layers (`live_layers`) keep
their names in the state dict and their class's interface; the model's own code runs everything else.
"""

from __future__ import annotations

from itertools import chain
from typing import Any, TypeVar, cast

import torch
from torch import nn

from ..nn import surgery
from ..nn.block import PLACES, Block, Place, Slot, SlotLinear
from ..nn.deltas import Delta, WeightTransform
from ..nn.surgery import Method, towers_of
from ..nn.vit import Preprocess, ViT
from ..utils.errors import NotApplicable, NotMergeable, WeightsError
from . import swin
from .external_layers import (
    ADDED,
    BESIDE,
    CARRIERS,
    Handover,
    append_added_tokens,
    apply_input,
    apply_inserted,
    as_carrier,
    drop_added_tokens,
)
from .layouts import CONVERTERS, from_module, understand
from .rules import Rule

Module = TypeVar("Module", bound=nn.Module)

_ANY_INPUT = Preprocess()  # a live model is given images that its own code has normalised
_CLASSIFIERS = ("head", "classifier")
"""What timm and Hugging Face call the layer behind the features."""
_LAYERS: dict[str, str] = {
    **dict.fromkeys("qkv", "attention.qkv"),
    "o": "attention.out",
    "gate": "mlp.fc1",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
"""Slot -> the layer of a block that holds it."""
_LAST: dict[str, tuple[str, str]] = {"attention": ("scale1", "attention.out"), "mlp": ("scale2", "mlp.fc2")}
"""Behind which part of a block a module is inserted: its layer scale where it has one, else its last linear layer."""
_NORMS = {"attention": "norm1", "mlp": "norm2"}
_SHARED = "vitadapt_shared"
"""The module of a tower that holds what several of its layers use."""
_QUANTISED = {"quantized", "bitsandbytes", "torchao", "auto_gptq", "gptqmodel", "awq", "quanto", "optimum"}
"""Parts of the names of the modules whose classes hold quantised weights."""


def adapt(backbone: Module, method: Method, seed: int | None = 0) -> Module:
    """An adapted copy of `backbone`, which is one of ours or a live open_clip, timm or Hugging Face model.

    The copy of a live model has the same class interface: same forward, same outputs, the same names in its state dict
    besides the new ones. What the method trains is trainable, and the classifier behind the image features where there
    is one and the method trains heads; nothing else is. It shares the memory of all frozen weights with the original,
    which is untouched. Raises NotApplicable, also for what a method created and a live model cannot take, and
    WeightsError naming the part of a model that a plain ViT lacks.
    """
    _check_adaptable(backbone)
    if not _is_foreign(backbone):
        return surgery.adapt(backbone, method, seed)
    if method.breaks:
        raise NotApplicable(f"{type(method).__name__} reproduces defects of published code and needs our own ViT")
    if towers_of(method) == "text":
        raise NotApplicable(
            f"{type(method).__name__} acts on the text tower alone, and of a live model the image tower is adapted; "
            "train it by va.run, which has both towers"
        )
    try:
        ours = from_module(backbone, _ANY_INPUT)
    except WeightsError as error:
        return _without_slots(backbone, method, seed, error)
    copied = surgery.copy_sharing_weights(backbone)
    live, converted = understand(copied, _ANY_INPUT)
    rules = CONVERTERS[converted.layout].rules_of(ours.config.depth)
    _Transplant(live.tower, converted.prefix, rules, ours, surgery.adapt(ours, method, seed)).run()
    return _finished(copied, backbone, method)


def _finished(copied: Module, backbone: nn.Module, method: Method) -> Module:
    if method.trains_head:
        _thaw_classifier(copied)
    return copied.to(next(backbone.parameters()).device)


def _check_adaptable(backbone: nn.Module) -> None:
    """Raises NotApplicable, with the remedy, for models that are wrapped, quantised, empty or adapted already."""
    if isinstance(backbone, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise NotApplicable(f"the model is wrapped in {type(backbone).__name__}; adapt model.module, then wrap that")
    for module in backbone.modules():
        packages = set(type(module).__module__.split("."))
        if "_orig_mod" in module._modules:
            raise NotApplicable("the model is compiled; adapt model._orig_mod and compile the result")
        if "peft" in packages:
            raise NotApplicable("the model carries an adapter of PEFT; call its merge_and_unload() first")
        if packages & _QUANTISED or any(not p.is_floating_point() for p in module.parameters(recurse=False)):
            raise NotApplicable("the model is quantised; adapt it in fp32, fp16 or bf16, then merge and quantise")
        if any(isinstance(value, torch.Tensor) and not value.is_leaf for value in vars(module).values()):
            raise NotApplicable("a weight is computed from others, as in pruning; make it permanent first")
    if any(p.is_meta for p in backbone.parameters()):
        raise NotApplicable("the model is on the meta device and holds no weights; load them first")
    if not _is_foreign(backbone):
        return
    if any(isinstance(m, CARRIERS) or any(hasattr(m, name) for name in ADDED) for m in backbone.modules()):
        raise NotApplicable(surgery.ADAPTED)


def _without_slots(backbone: Module, method: Method, seed: int | None, reason: WeightsError) -> Module:
    """What is no plain ViT can still be adapted by methods that only choose among its own tensors; a Swin by deltas."""
    try:
        return surgery.adapt(backbone, method, seed)
    except NotApplicable:
        copied = surgery.copy_sharing_weights(backbone)
        if (found := swin.stand_in(copied)) is None:
            raise reason from None
    ours, rules = found
    adapted = surgery.adapt(ours, method, seed)
    swin.check_movable(adapted)
    _Transplant(copied, "", rules, ours, adapted).run()
    return _finished(copied, backbone, method)


def merge(backbone: Module) -> Module:
    """Fold every delta into the weights, in place: the plain model of the library's own class, with other weights.

    Raises NotMergeable, with nothing folded yet, when a method left more than deltas, a bias has nowhere to go, or the
    model is compiled.
    """
    if any("_orig_mod" in module._modules for module in backbone.modules()):
        raise NotMergeable("the model is compiled; merge model._orig_mod and compile the result")
    if not any(_is_foreign(module) for module in backbone.modules()):
        return surgery.merge(backbone)
    if any(hasattr(module, name) for module in backbone.modules() for name in ADDED):
        raise NotMergeable("modules inserted between layers and tokens cannot be folded into the weights")
    carriers = [module for module in backbone.modules() if isinstance(module, CARRIERS)]
    for carrier in carriers:
        for name, delta in cast(Any, carrier.deltas).items():
            if delta.bias() is not None and carrier.part(name).bias is None:
                raise NotMergeable("the delta has a bias and the layer has none; use the method with bias=false")
    for carrier in carriers:
        carrier.fold()
    for module in list(backbone.modules()):
        if hasattr(module, _SHARED):
            delattr(module, _SHARED)
    return backbone


def _is_foreign(module: nn.Module) -> bool:
    return any(
        kind.__module__.partition(".")[0] in ("timm", "open_clip", "transformers") for kind in type(module).__mro__
    )


class _Transplant:
    """Moves what a method made in our `adapted` ViT to the layers of `tower` that hold the same weights."""

    def __init__(self, tower: nn.Module, prefix: str, rules: dict[str, Rule], ours: ViT, adapted: ViT) -> None:
        self.tower, self.prefix, self.rules, self.ours, self.adapted = tower, prefix, rules, ours, adapted

    def run(self) -> None:
        """Raises NotApplicable when something that the method made has no place in the model."""
        base = dict(self.ours.named_parameters()) | dict(self.ours.named_buffers())
        made = {n: t for n, t in chain(self.adapted.named_parameters(), self.adapted.named_buffers()) if n not in base}
        surgery.match_base(made.values(), next(self.tower.parameters()))
        if len(self.adapted.shared):
            setattr(self.tower, _SHARED, self.adapted.shared)
        for number, block in enumerate(surgery.blocks(self.adapted)):
            self._move_block(number, block)
        if isinstance(self.adapted.tokens, nn.Parameter):
            self._add_tokens(0, self.adapted.config.depth - 1, self.adapted.tokens)
        for name, parameter in surgery.trainable(self.adapted).items():
            if name in self.rules:
                self._thaw(name, parameter)
        self._check_complete(made)

    def _move_block(self, number: int, block: Block) -> None:
        for layer in [module for module in block.modules() if isinstance(module, SlotLinear)]:
            for slot, delta in layer.deltas.items():
                self._carry(number, cast(Slot, slot), layer, cast(Delta, delta))
        for place in PLACES:
            if place in block.inserted:
                self._insert(number, place, block.inserted[place])
        if block.tokens is not None:
            self._add_tokens(number, number, block.tokens)

    def _check_complete(self, made: dict[str, torch.Tensor]) -> None:
        """Everything that the method made is in the model now, or it is named."""
        modules = set(self.tower.modules())
        tensors = {id(t) for t in chain(self.tower.parameters(), self.tower.buffers())}
        lost = list(self.adapted.other_changes)
        lost += [name for name, tensor in made.items() if id(tensor) not in tensors]
        lost += [n for n in surgery.trainable(self.adapted) if n not in made and n not in self.rules]
        created = {"deltas", "inserted", "shared"}
        for name, module in self.adapted.named_modules():
            if created.intersection(name.split(".")[:-1]) and module not in modules:
                lost.append(name)
        if self.adapted.config != self.ours.config:
            lost.append("the configuration")
        if lost:
            raise NotApplicable(
                f"the method made or changed {lost[0]}, which cannot be moved to a live model; "
                "load the weights with load_backbone, or write the method with the functions of vitadapt.methods"
            )

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
        rows = layer.rows(slot) if packed else slice(0, layer.out_features // len(layer.slots))
        carrier = as_carrier(self._caller(path, owner))
        carrier.deltas[slot] = delta.train(carrier.training)
        carrier.rows[slot] = (rows.start, rows.stop)
        if isinstance(delta, WeightTransform):
            delta.attach(carrier, slot)

    def _caller(self, path: str, owner: nn.Module) -> nn.Module:
        """The module whose forward uses the weight: torch's attention passes that of its projection to a function."""
        parent: Any = self.tower.get_submodule(path.rpartition(".")[0])
        if hasattr(parent, "qkv_bias_separate"):
            parent.qkv_bias_separate = True  # so that timm's Eva calls the layer and passes its weight to no function
        return parent if isinstance(parent, nn.MultiheadAttention) else owner

    def _insert(self, number: int, place: Place, module: nn.Module) -> None:
        if not getattr(module, "tokenwise", False):
            self._check_batch_first(f"blocks.{number}.inserted.{place}")
        layer, _, kind = place.partition("-")
        target = self._end_of(number, layer)
        module.train(target.training)
        if not kind:
            target.inserted = module
            target.register_forward_hook(apply_inserted)
            return
        norm: Any = self._owners(f"blocks.{number}.{_NORMS[layer]}.weight")[0][1]
        setattr(norm, f"inserted_{kind}", module)
        if kind == "input":
            norm.register_forward_hook(apply_input)
            return
        compute, add = BESIDE[kind]
        handover = Handover()
        for part, hook in ((norm, compute), (target, add)):
            setattr(part, f"handover_{kind}", handover)
            part.register_forward_hook(hook)

    def _end_of(self, number: int, layer: str) -> Any:
        """The module whose output is that of the attention or the MLP before the residual sum, or of the block."""
        if layer == "block":
            return self._block(number)
        scale, last = (f"blocks.{number}.{part}" for part in _LAST[layer])
        path, owner = (self._owners(f"{scale}.gamma") + self._owners(f"{last}.weight"))[0]
        if owner is self._block(number):  # it holds the layer scale itself, as timm's Eva does
            end = getattr(owner, {"attention": "drop_path1", "mlp": "drop_path2"}[layer], None)
            if end is None:
                kind = type(owner).__name__
                raise NotApplicable(
                    f"the method made a module behind the {layer}, where a {kind} has no module of its own; "
                    "use load_backbone for the weights, or a method that changes linear layers"
                )
            return end
        return self._caller(path, owner)

    def _add_tokens(self, first: int, last: int, tokens: nn.Parameter) -> None:
        """Tokens that are appended before the block `first` and dropped behind the block `last`."""
        self._check_batch_first("tokens")
        if self.ours.config.rotary is not None or self.ours.config.relative_grid:
            raise NotApplicable(
                "the method added tokens, and the model would turn them like patches; use load_backbone for its weights"
            )
        start, end = (cast(Any, self._block(number)) for number in (first, last))
        start.added_tokens, end.dropped_tokens = tokens, len(tokens)
        start.register_forward_pre_hook(append_added_tokens)
        end.register_forward_hook(drop_added_tokens)

    def _block(self, number: int) -> nn.Module:
        path, _ = self._owners(f"blocks.{number}.norm1.weight")[0]
        return self.tower.get_submodule(path.rpartition(".")[0])

    def _check_batch_first(self, what: str) -> None:
        if any(isinstance(m, nn.MultiheadAttention) and not m.batch_first for m in self.tower.modules()):
            raise NotApplicable(f"the method made {what}, and the model's tensors are tokens first; use load_backbone")

    def _thaw(self, ours: str, parameter: nn.Parameter) -> None:
        """Make the tensors that ours is made of trainable, holding what the method left in it."""
        for theirs, value in self.rules[ours].write(parameter.detach(), self.prefix).items():
            path, _, name = theirs.rpartition(".")
            owner = self.tower.get_submodule(path)
            own = getattr(owner, name)
            value = value if value.numel() == own.numel() else own.detach()  # two of ours are parts of one of theirs
            setattr(owner, name, nn.Parameter(value.to(own).reshape(own.shape).clone()))  # memory of its own


def _thaw_classifier(model: nn.Module) -> None:
    for name in _CLASSIFIERS:
        layer = getattr(model, name, None)
        for parameter in layer.parameters() if isinstance(layer, nn.Module) else ():
            parameter.data = parameter.data.clone()
            parameter.requires_grad_(True)
