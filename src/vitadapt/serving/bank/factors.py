"""Thin deltas of many adapters: their factors are computed from a few numbers, and cached for the adapters in use."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ...nn.block import Slot, SlotLinear
from ...nn.deltas import ThinDelta, is_thin
from .calls import Call, Layout, Packed, TensorNames, Tensors, stack_rows


def delta_factors(delta: ThinDelta) -> tuple[Tensor, ...]:
    """Q (D_in, R), P^T (R, D_out) and the bias (D_out,), if there is one, of a thin delta."""
    p, q = delta.factors()
    bias = delta.bias()
    return (q, p.T) if bias is None else (q, p.T, bias)


def merged_layer(layer: SlotLinear) -> tuple[Tensor, Tensor]:
    """Weight (D_out, D_in) and bias (D_out,) of a layer with its thin deltas folded in."""
    weights, biases = [], []
    for slot in layer.slots:
        rows, delta = layer.rows(slot), thin_deltas(layer).get(slot)
        weight, shift = layer.weight[rows], delta.bias() if delta else None
        weights.append(weight + delta.matrix() if delta else weight)
        bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias[rows]
        biases.append(bias if shift is None else bias + shift)
    return torch.cat(weights), torch.cat(biases)


def thin_deltas(layer: SlotLinear) -> dict[Slot, ThinDelta]:
    """The deltas of a layer that are nothing but their factors."""
    return {cast(Slot, slot): cast(ThinDelta, delta) for slot, delta in layer.deltas.items() if is_thin(delta)}


def merging_pays(layer: SlotLinear) -> bool:
    """Is a merged layer no larger than the factors, so that the shared product is one too many?"""
    pairs = [delta.factors() for delta in thin_deltas(layer).values()]
    return layer.weight.numel() <= sum(p.numel() + q.numel() for p, q in pairs)


Results = Mapping[Call, Sequence[Tensor]]
"""What calls of `delta_factors` and `merged_layer` gave."""


@dataclass(frozen=True, eq=False)
class FactorCalls:
    """All calls of `delta_factors` and `merged_layer` of a family.

    `layout` is of the row (X,) that `together` computes from the tensors of one adapter.
    """

    calls: tuple[Call, ...]
    together: Call
    layout: Layout

    @classmethod
    @torch.no_grad()
    def of(cls, calls: Sequence[Call], names: TensorNames) -> FactorCalls:
        parts = {f"{i} {j}": part for i, call in enumerate(calls) for j, part in enumerate(call.function())}
        places = tuple(place for call in calls for place in call.places)
        return cls(tuple(calls), Call(partial(_concatenated, calls), places, names), Layout.of(parts))

    @property
    def bytes(self) -> int:
        """What the results take for one adapter."""
        return self.layout.size * self.layout.dtype.itemsize

    def results(self, rows: Tensor) -> Results:
        """Rows (..., X) -> the parts of every call."""
        found: dict[Call, list[Tensor]] = {call: [] for call in self.calls}
        for name, part in self.layout.views(rows).items():
            found[self.calls[int(name.split()[0])]].append(part)
        return found


def _concatenated(calls: Sequence[Call]) -> Tensor:
    return torch.cat([part.flatten() for call in calls for part in call.function()])


class Rows:
    """The numbers of the adapters of k neighbouring images, which are one row where all use the same.

    results: what was computed from them already.
    """

    def __init__(self, layout: Layout, packed: Sequence[Packed], results: Results) -> None:
        self.single = all(one is packed[0] for one in packed)
        self._layout, self._packed, self._results = layout, packed, results

    @cached_property
    def tensors(self) -> Tensors:
        """Name -> (k, ...), or (...) of the single adapter; stacked when first needed."""
        return self._layout.views(stack_rows([one.body for one in self._packed]))

    def run(self, call: Call, *inputs: Tensor) -> Any:
        return call(self.tensors, self.single, *inputs)

    def factors(self, call: Call) -> Sequence[Tensor]:
        return self._results.get(call) or cast(Sequence[Tensor], self.run(call))


class FactorCache:
    """Results for the adapters that were used last, within `limit` bytes; they go with their adapters."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._rows: WeakKeyDictionary[Packed, Tensor] = WeakKeyDictionary()  # (X,); the least recently used first
        self._lock = threading.Lock()

    def results(self, factors: FactorCalls, layout: Layout, packed: Sequence[Packed]) -> Results:
        """Nothing where it is too much for the cache and better computed layer by layer."""
        distinct = dict.fromkeys(packed)
        if not factors.calls or factors.bytes * len(distinct) > self.limit:
            return {}
        with self._lock:
            rows = {one: row for one in distinct if (row := self._rows.pop(one, None)) is not None}
        missing = [one for one in distinct if one not in rows]
        if missing:
            made = cast(Tensor, factors.together(layout.views(torch.stack([one.body for one in missing])), False))
            rows |= {one: row.clone() for one, row in zip(missing, made, strict=True)}
        with self._lock:
            self._rows.update(rows)
            while sum(row.nbytes for row in self._rows.values()) > self.limit:
                del self._rows[next(iter(self._rows))]
        return factors.results(stack_rows([rows[one] for one in packed]))
