"""Thin deltas of many adapters: their factors are made of a few numbers, and kept for the adapters in use."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...nn.deltas import ThinDelta, is_thin
from ...nn.vit import Slot, SlotLinear
from .calls import Call, Numbers, Tensors
from .layout import Layout


class Parts(nn.Module):
    """Q (D_in, R), P^T (R, D_out) and the bias (D_out,), if there is one, of a thin delta."""

    def __init__(self, delta: ThinDelta) -> None:
        super().__init__()
        self.delta = delta

    def forward(self) -> tuple[Tensor, ...]:
        p, q = self.delta.factors()
        bias = self.delta.bias()
        return (q, p.T) if bias is None else (q, p.T, bias)


class Merged(nn.Module):
    """Weight (D_out, D_in) and bias (D_out,), if there is one, of a layer with its thin deltas folded in."""

    def __init__(self, layer: SlotLinear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self) -> tuple[Tensor, ...]:
        layer, weights, shifts = self.layer, [], []
        for slot in layer.slots:
            rows, delta = layer.rows(slot), thin_of(layer).get(slot)
            weight, bias = layer.weight[rows], None if layer.bias is None else layer.bias[rows]
            shift = delta.bias() if delta else None
            weights.append(weight + delta.matrix() if delta else weight)
            both = [part for part in (bias, shift) if part is not None]
            shifts.append(torch.stack(both).sum(dim=0) if both else weight.new_zeros(len(weight)))
        return torch.cat(weights), torch.cat(shifts)


def thin_of(layer: SlotLinear) -> dict[Slot, ThinDelta]:
    """The deltas of a layer that are nothing but their factors."""
    return {cast(Slot, slot): cast(ThinDelta, delta) for slot, delta in layer.deltas.items() if is_thin(delta)}


def merging_pays(layer: SlotLinear) -> bool:
    """Is a layer of one's own no larger than the factors, so that the shared product is one too many?"""
    thin = thin_of(layer).values()
    factors = sum(p.numel() + q.numel() for p, q in (delta.factors() for delta in thin))
    return layer.weight.numel() <= factors


class Expansion(nn.Module):
    """What several modules make, behind one another, (X,)."""

    def __init__(self, makers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.makers = nn.ModuleList(makers)

    def forward(self) -> Tensor:
        return torch.cat([part.flatten() for maker in self.makers for part in maker()])


Made = Mapping[Call, Sequence[Tensor]]
"""What calls of `Parts` and `Merged` gave."""


@dataclass(frozen=True, eq=False)
class Makers:
    """All `Parts` and `Merged` of a family; `layout` is of the row (X,) that `expand` makes of an adapter's tensors."""

    calls: tuple[Call, ...]
    expand: Call
    layout: Layout

    @classmethod
    @torch.no_grad()
    def of(cls, calls: Sequence[Call], numbers: Numbers) -> Makers:
        parts = {f"{i} {j}": part for i, call in enumerate(calls) for j, part in enumerate(call.module())}
        return cls(tuple(calls), Call.of(Expansion(call.module for call in calls), numbers), Layout.of(parts))

    @property
    def bytes(self) -> int:
        """That all this takes for one adapter."""
        return self.layout.size * self.layout.dtype.itemsize

    def made(self, rows: Tensor) -> Made:
        """Rows (..., X) -> the parts of every call."""
        found: dict[Call, list[Tensor]] = {call: [] for call in self.calls}
        for name, part in self.layout.views(rows).items():
            found[self.calls[int(name.split()[0])]].append(part)
        return found


class Rows:
    """The numbers of the adapters of k neighbouring images, which are one row where all use the same.

    made: what they make of them, if it is known already.
    """

    def __init__(self, layout: Layout, packed: Sequence[Tensor], made: Made) -> None:
        self.single = all(row is packed[0] for row in packed)
        self._layout, self._packed, self._made = layout, packed, made

    @cached_property
    def tensors(self) -> Tensors:
        """Name -> (k, ...), or (...) of the single adapter; stacked when first needed."""
        return self._layout.views(stacked(self._packed))

    def run(self, call: Call, *inputs: Tensor, **options: Any) -> Any:
        return call(self.tensors, self.single, *inputs, **options)

    def parts(self, maker: Call) -> Sequence[Tensor]:
        return self._made.get(maker) or cast(Sequence[Tensor], self.run(maker))


def stacked(rows: Sequence[Tensor]) -> Tensor:
    """k rows (P,) -> (k, P), or (P,) when all are the same one."""
    return rows[0] if all(row is rows[0] for row in rows) else torch.stack(list(rows))


class Active:
    """What was made for the adapters that were used last, within `limit` bytes; nothing for those that are gone."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._bytes = 0
        self._held: OrderedDict[int, tuple[weakref.ref[Tensor], Tensor]] = OrderedDict()  # id of (P,) -> it, (X,)
        self._lock = threading.Lock()

    def made(self, makers: Makers, layout: Layout, packed: Sequence[Tensor]) -> Made:
        """For adapters given as rows (P,); nothing where it is too much and better made layer by layer."""
        distinct = {id(row): row for row in packed}
        if not makers.calls or makers.bytes * len(distinct) > self.limit:
            return {}
        known, missing = self._known(distinct)
        if missing:
            made = cast(Tensor, makers.expand(layout.views(torch.stack(missing)), False))
            fresh = {id(row): (row, own.clone()) for row, own in zip(missing, made, strict=True)}
            self._keep(fresh)
            known |= {key: own for key, (_, own) in fresh.items()}
        return makers.made(stacked([known[id(row)] for row in packed]))

    def _known(self, distinct: Mapping[int, Tensor]) -> tuple[dict[int, Tensor], list[Tensor]]:
        known, missing = {}, []
        with self._lock:
            for key, row in distinct.items():
                held = self._held.get(key)
                if held is not None and held[0]() is row:
                    self._held.move_to_end(key)
                    known[key] = held[1]
                else:
                    missing.append(row)
        return known, missing

    def _keep(self, fresh: Mapping[int, tuple[Tensor, Tensor]]) -> None:
        with self._lock:
            for key in [key for key, (row, _) in self._held.items() if row() is None]:
                self._bytes -= self._held.pop(key)[1].nbytes
            for key, (row, own) in fresh.items():
                if key not in self._held:
                    self._held[key] = weakref.ref(row), own
                    self._bytes += own.nbytes
            while self._bytes > self.limit:
                self._bytes -= self._held.popitem(last=False)[1][1].nbytes
