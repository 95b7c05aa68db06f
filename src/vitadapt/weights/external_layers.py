"""Layers of other libraries that carry deltas, and the hooks that apply inserted modules and added tokens.

A layer keeps its names in the state dict and becomes a subclass of its own class. A delta's branch is computed beside a
linear layer; where a library hands its weights to a function (the attention of open_clip), the matrix itself is added.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn.block import append_tokens
from ..nn.deltas import Delta
from ..utils.errors import NotApplicable


@dataclass(frozen=True)
class Part:
    """A weight and a bias of a carrier, and the names under which it holds them."""

    weight: Tensor
    bias: Tensor | None
    names: tuple[str, str]
    owner: nn.Module


class Carrier(nn.Module):
    """A layer of a library that carries deltas, each with the rows of its weight that it changes."""

    deltas: nn.ModuleDict
    rows: dict[str, tuple[int, int]]

    def part(self, name: str) -> Part:
        """What the delta `name` changes."""
        raise NotImplementedError

    def original(self, slot: str) -> tuple[Tensor, Tensor | None]:
        """The rows of the weight and of the bias that `slot` changes, without the change."""
        part, (first, last) = self.part(slot), self.rows[slot]
        return part.weight[first:last], None if part.bias is None else part.bias[first:last]

    @torch.no_grad()
    def fold(self) -> None:
        """Add the deltas to the weights and become the library's class again."""
        for name, delta in cast(Any, self.deltas).items():
            part, (first, last) = self.part(name), self.rows[name]
            for key, own, change in zip(
                part.names, (part.weight, part.bias), (delta.matrix(), delta.bias()), strict=True
            ):
                if change is not None and own is not None:
                    tensor = own.detach().clone()  # never in place: the memory may be shared with other models
                    tensor[first:last] += change.to(tensor)
                    setattr(part.owner, key, nn.Parameter(tensor, requires_grad=False))
        del self.deltas, self.rows
        self.__class__ = type(self).__mro__[1]


class AdaptedLinear(nn.Linear, Carrier):
    """A linear layer plus the branches of its deltas, (..., D_in) -> (..., D_out)."""

    def part(self, name: str) -> Part:
        return Part(self.weight, self.bias, ("weight", "bias"), self)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        for name, delta in self.deltas.items():
            first, last = self.rows[name]
            branch = _branch(cast(Delta, delta), x).to(y.dtype)
            y = y + (branch if last - first == y.shape[-1] else F.pad(branch, (first, y.shape[-1] - last)))
        return y


class AdaptedAttention(nn.MultiheadAttention, Carrier):
    """torch's attention with deltas added to its packed q, k, v and to its output projection."""

    def part(self, name: str) -> Part:
        if name == "o":
            return Part(self.out_proj.weight, self.out_proj.bias, ("weight", "bias"), self.out_proj)
        return Part(self.in_proj_weight, self.in_proj_bias, ("in_proj_weight", "in_proj_bias"), self)

    def forward(
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


CARRIERS = (AdaptedLinear, AdaptedAttention)


def _branch(delta: Delta, x: Tensor) -> Tensor:
    """The delta's branch in the precision of its own tensors, whatever that of the layer is."""
    return delta.branch(x.to(next(delta.parameters(), x).dtype))


ADDED = ("inserted", "inserted_input", "inserted_parallel", "inserted_residual", "added_tokens")
"""The names under which modules of a live model hold what is no delta."""


class Handover(threading.local):
    """What the norm before a layer computed for the hook behind the layer, in this thread."""

    value: Tensor | None = None

    def __reduce__(self) -> tuple[type[Handover], tuple[()]]:
        return Handover, ()  # a copy of the model holds an empty one


# Hooks are functions of the module alone, so that copies of a model use what they hold themselves.
def apply_inserted(module: nn.Module, inputs: Any, output: Any) -> Any:
    """Forward hook: the module behind a layer."""
    return _with_first(output, cast(Any, module).inserted)


def apply_input(module: nn.Module, inputs: Any, output: Tensor) -> Any:
    """Forward hook of a norm: the module between it and the layer behind it."""
    return cast(Any, module).inserted_input(output)


def apply_parallel(module: nn.Module, inputs: Any, output: Tensor) -> None:
    """Forward hook of a norm: the module beside the layer behind it."""
    cast(Any, module).handover_parallel.value = cast(Any, module).inserted_parallel(output)


def apply_residual(module: nn.Module, inputs: Any, output: Tensor) -> None:
    """Forward hook of a norm: the module beside it and the layer behind it."""
    cast(Any, module).handover_residual.value = cast(Any, module).inserted_residual(inputs[0])


def add_parallel(module: nn.Module, inputs: Any, output: Any) -> Any:
    """Forward hook of the layer: what `apply_parallel` computed is added."""
    return _with_handover(output, cast(Any, module).handover_parallel)


def add_residual(module: nn.Module, inputs: Any, output: Any) -> Any:
    """Forward hook of the layer: what `apply_residual` computed is added."""
    return _with_handover(output, cast(Any, module).handover_residual)


def _with_handover(output: Any, handover: Any) -> Any:
    change, handover.value = handover.value, None
    return _with_first(output, lambda y: y + change)


BESIDE = {"parallel": (apply_parallel, add_parallel), "residual": (apply_residual, add_residual)}
"""The hooks of a norm and of the layer behind it for a module beside them."""


def append_added_tokens(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Forward pre-hook of a block: learnt tokens behind the others."""
    return append_tokens(inputs[0], cast(Tensor, module.added_tokens)), *inputs[1:]


def drop_added_tokens(module: nn.Module, inputs: Any, output: Any) -> Any:
    """Forward hook of a block: the learnt tokens are taken away."""
    return _with_first(output, lambda x: x[:, : -cast(Any, module).dropped_tokens])


def _with_first(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`output` with its tensor, or the first of a tuple, changed."""
    return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)


def as_carrier(owner: nn.Module) -> Any:
    """`owner` as a layer that carries deltas. Raises NotApplicable for a class that is not known."""
    if isinstance(owner, CARRIERS):
        return owner
    known: dict[type, type] = {nn.Linear: AdaptedLinear, nn.MultiheadAttention: AdaptedAttention}
    if type(owner) not in known:
        raise NotApplicable(f"a layer of class {type(owner).__name__} cannot carry an update; use a plain model")
    owner.__class__ = known[type(owner)]
    carrier: Any = owner
    carrier.deltas, carrier.rows = nn.ModuleDict(), {}
    return carrier
