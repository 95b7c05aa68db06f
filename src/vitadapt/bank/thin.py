"""Thin deltas of many adapters: their factors are made of a few numbers, and kept for the adapters in use."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..deltas import ThinDelta
from ..vit import Slot
from .calls import Call, Numbers, Tensors
from .layout import Layout


class Parts(nn.Module):
    """What a thin delta is applied with: Q and P^T, or their product where that is smaller; and its bias, if any."""

    def __init__(self, delta: ThinDelta) -> None:
        super().__init__()
        self.delta = delta

    def forward(self) -> tuple[Tensor, ...]:
        p, q = self.delta.factors()
        parts = (q, p.T) if q.numel() + p.numel() < len(q) * len(p) else (q @ p.T,)
        bias = self.delta.bias()
        return parts if bias is None else (*parts, bias)


class Expansion(nn.Module):
    """The parts of several thin deltas behind one another, (X,)."""

    def __init__(self, deltas: Iterable[nn.Module]) -> None:
        super().__init__()
        self.deltas = nn.ModuleList(deltas)

    def forward(self) -> Tensor:
        return torch.cat([part.flatten() for delta in self.deltas for part in delta()])


@dataclass(frozen=True, eq=False)
class Thin:
    """A thin delta of a slot; `call` gives its parts: Q (k, D_in, R) and P^T (k, R, D_out), or (k, D_in, D_out), and
    perhaps a bias (k, D_out)."""

    slot: Slot
    call: Call


Factors = Mapping[Thin, Sequence[Tensor]]


@dataclass(frozen=True, eq=False)
class Thins:
    """All thin deltas of a family; `layout` is of the row (X,) that `expand` makes of an adapter's tensors."""

    deltas: tuple[Thin, ...]
    expand: Call
    layout: Layout

    @classmethod
    @torch.no_grad()
    def of(cls, deltas: Sequence[Thin], numbers: Numbers) -> Thins:
        parts = {f"{i} {j}": part for i, thin in enumerate(deltas) for j, part in enumerate(thin.call.module())}
        return cls(tuple(deltas), Call.of(Expansion(thin.call.module for thin in deltas), numbers), Layout.of(parts))

    @property
    def bytes(self) -> int:
        """That the factors of one adapter take."""
        return self.layout.size * self.layout.dtype.itemsize

    def factors(self, rows: Tensor) -> Factors:
        """Rows (..., X) -> the parts of every delta."""
        found: dict[Thin, list[Tensor]] = {thin: [] for thin in self.deltas}
        for name, part in self.layout.views(rows).items():
            found[self.deltas[int(name.split()[0])]].append(part)
        return found


class Rows:
    """The numbers of the adapters of k neighbouring images, which are one row where all use the same.

    factors: those of their thin deltas, if they are known already.
    """

    def __init__(self, layout: Layout, packed: Sequence[Tensor], factors: Factors) -> None:
        self.single = all(row is packed[0] for row in packed)
        self._layout, self._packed, self._factors = layout, packed, factors

    @cached_property
    def tensors(self) -> Tensors:
        """Name -> (k, ...), or (...) of the single adapter; stacked when first needed."""
        return self._layout.views(stacked(self._packed))

    def run(self, call: Call, *inputs: Tensor, **options: Any) -> Any:
        return call(self.tensors, self.single, *inputs, **options)

    def parts(self, thin: Thin) -> Sequence[Tensor]:
        return self._factors.get(thin) or cast(Sequence[Tensor], self.run(thin.call))


def stacked(rows: Sequence[Tensor]) -> Tensor:
    """k rows (P,) -> (k, P), or (P,) when all are the same one."""
    return rows[0] if all(row is rows[0] for row in rows) else torch.stack(list(rows))


class Active:
    """The factors of the adapters that were used last, within `limit` bytes; made anew where these do not suffice."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._bytes = 0
        self._held: OrderedDict[Tensor, Tensor] = OrderedDict()  # numbers of an adapter, by identity -> its factors
        self._lock = threading.Lock()

    def factors(self, thins: Thins, layout: Layout, packed: Sequence[Tensor]) -> Factors:
        """Of adapters given as rows (P,); nothing when they are better made layer by layer."""
        distinct = dict.fromkeys(packed)
        if not thins.deltas or thins.bytes * len(distinct) > self.limit:
            return {}
        with self._lock:
            known = {row: self._held[row] for row in distinct if row in self._held}
            for row in known:
                self._held.move_to_end(row)
        missing = [row for row in distinct if row not in known]
        if missing:
            made = cast(Tensor, thins.expand(layout.views(torch.stack(missing)), False))
            fresh = {row: factors.clone() for row, factors in zip(missing, made, strict=True)}
            self._keep(fresh)
            known |= fresh
        return thins.factors(stacked([known[row] for row in packed]))

    def _keep(self, fresh: Mapping[Tensor, Tensor]) -> None:
        with self._lock:
            for row, factors in fresh.items():
                if row not in self._held:
                    self._held[row] = factors
                    self._bytes += factors.nbytes
            while self._bytes > self.limit:
                self._bytes -= self._held.popitem(last=False)[1].nbytes
