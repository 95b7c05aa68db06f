"""The one backbone that computes for all: its modules ask the call in progress what the adapters want of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..surgery import copy_sharing_weights
from ..vit import PLACES, Block, Slot, SlotLinear, ViT
from .calls import Call
from .family import Family, Piece, SlotPiece
from .thin import Rows


@dataclass(frozen=True)
class Share:
    """The images start..stop-1 of a batch, which belong to adapters of one family, and the tensors of these."""

    family: Family
    images: slice
    rows: Rows


Part = tuple[slice, Piece, Rows]


@dataclass(frozen=True)
class Plan:
    """Who wants what where: path -> parts of the batch in rising order; the rest is the plain backbone's."""

    size: int
    parts: Mapping[str, Sequence[Part]] = field(default_factory=dict)
    whole: frozenset[str] = frozenset()

    @classmethod
    def of(cls, size: int, shares: Sequence[Share]) -> Plan:
        parts: dict[str, list[Part]] = {}
        for share in shares:
            for path, piece in share.family.pieces.items():
                parts.setdefault(path, []).append((share.images, piece, share.rows))
        return cls(size, parts, frozenset().union(*(share.family.whole for share in shares)))


_NOTHING = Plan(0)
_PLAN = ContextVar("plan", default=_NOTHING)


@contextmanager
def following(plan: Plan) -> Iterator[None]:
    """Within the block, and this thread, hosts compute what `plan` says."""
    token = _PLAN.set(plan)
    try:
        yield
    finally:
        _PLAN.reset(token)


class Site(nn.Module):
    """A module of the backbone, replaced for the images whose adapters have their own."""

    def __init__(self, base: nn.Module, path: str) -> None:
        super().__init__()
        self.base, self.path = base, path

    def forward(self, x: Tensor) -> Tensor:
        plan = _PLAN.get()
        parts = plan.parts.get(self.path)
        return cast(Tensor, self.base(x)) if not parts else _spliced(self.base, x, plan.size, parts)


def _spliced(base: Callable[[Tensor], Tensor], x: Tensor, size: int, parts: Sequence[Part]) -> Tensor:
    """Every image computed once, by its adapter's module or by the `base`."""
    found, done = [], 0
    for images, piece, rows in parts:
        if images.start > done:
            found.append(base(x[done : images.start]))
        found.append(cast(Tensor, rows.run(cast(Call, piece), x[images])))
        done = images.stop
    if done < size:
        found.append(base(x[done:]))
    return found[0] if len(found) == 1 else torch.cat(found)


class InsertedSite(Site):
    """Where modules may stand behind the attention or the MLP."""

    def __init__(self, path: str, block: str) -> None:
        super().__init__(nn.Identity(), path)
        self.block = block

    @property
    def tokenwise(self) -> bool:
        """May this batch be computed for the tokens that are read alone?"""
        return self.block not in _PLAN.get().whole


class SlotSite(nn.Module):
    """A `SlotLinear` of the backbone: one product for all images, and what their adapters add to it."""

    def __init__(self, base: SlotLinear, path: str) -> None:
        super().__init__()
        self.base, self.path = base, path

    def forward(self, x: Tensor, slots: tuple[Slot, ...] | None = None) -> tuple[Tensor, ...]:
        base, parts = self.base, _PLAN.get().parts.get(self.path, ())
        if not parts:
            return base(x, slots)  # type: ignore[no-any-return]
        slots = slots or base.slots
        outputs: tuple[Tensor, ...] = base(x, slots)  # of a plain layer: fresh memory, that may be changed in place
        for images, piece, own in parts:
            here = dict(zip(slots, (output[images] for output in outputs), strict=True))
            self._add(cast(SlotPiece, piece), own, x[images], here)
        return outputs

    def _add(self, piece: SlotPiece, own: Rows, x: Tensor, here: Mapping[Slot, Tensor]) -> None:
        """Change the outputs `here`, slot -> (k, N, D_out / slots), in place to those of the adapters."""
        if piece.whole is not None:
            for y, whole in zip(here.values(), own.run(piece.whole, x, slots=tuple(here)), strict=True):
                y.copy_(whole)
            return
        if piece.bias:
            change = own.tensors[piece.bias] - self.base.bias
            for slot, y in here.items():
                y += change[..., self.base.rows(slot)].unsqueeze(-2)
        for thin in piece.thin:
            if thin.slot in here:
                _add_thin(here[thin.slot], x, own.parts(thin), own.single)
        for slot, branch in piece.branches:
            if slot in here:
                here[slot].add_(own.run(branch, x))


def _add_thin(y: Tensor, x: Tensor, parts: Sequence[Tensor], single: bool) -> None:
    """y += x Q P^T + s: matrices (k, D, R) to multiply with, one after the other, and a vector (k, D) to add."""
    change = x
    for part in parts:
        if part.ndim == 2 + (not single):
            change = change @ part.to(x.dtype)
        else:
            y += part.unsqueeze(-2)
    y += change


def host_of(plain: ViT) -> ViT:
    """A copy of `plain`, sharing its weights, that follows plans. Its output projection is left to the caller."""
    host = copy_sharing_weights(plain).eval()
    host.projection = nn.Identity()
    for path, module in list(host.named_modules()):
        if isinstance(module, Block):
            for place in PLACES:
                module.inserted[place] = InsertedSite(f"{path}.inserted.{place}", path)
        elif isinstance(module, SlotLinear):
            _replace(host, path, SlotSite(module, path))
        elif not isinstance(module, ViT) and any(True for _ in module.parameters(recurse=False)):
            _replace(host, path, Site(module, path))
    return host


def _replace(host: ViT, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    cast(Any, host.get_submodule(parent))._modules[name] = module
