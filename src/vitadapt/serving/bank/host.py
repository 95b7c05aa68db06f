"""The one backbone that computes for all adapters: its modules ask the plan of the call in progress what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...nn.block import BEHIND, Block, Slot, SlotLinear
from ...nn.relative import RelativeBias
from ...nn.surgery import copy_sharing_weights
from ...nn.vit import ViT
from .calls import Call
from .factors import Rows
from .family import Family, Piece, SlotPiece

Compute = Callable[[Tensor], Tensor]
Part = tuple[slice, Piece, Rows]


class Plan:
    """What to compute for a batch of `size` images.

    parts: path of a module -> what stands there for images start..stop-1, in rising order; the rest is the backbone's.
    whole: the paths of blocks that must compute every token.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.parts: dict[str, list[Part]] = {}
        self.whole: set[str] = set()

    def add(self, images: slice, family: Family, rows: Rows) -> None:
        """Compute these images with adapters of one family."""
        for path, piece in family.pieces.items():
            self.parts.setdefault(path, []).append((images, piece, rows))
        self.whole |= family.whole


_NOTHING = Plan(0)
_PLAN = ContextVar("plan", default=_NOTHING)


@contextmanager
def following(plan: Plan) -> Iterator[None]:
    """Within the block, and in this thread, hosts compute by `plan`."""
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
        if not parts:
            return cast(Tensor, self.base(x))
        own = [(images, partial(rows.run, cast(Call, piece))) for images, piece, rows in parts]
        return _spliced(x, self.base, own, plan.size)


def _spliced(x: Tensor, base: Compute, parts: Sequence[tuple[slice, Compute]], size: int) -> Tensor:
    """Every image (B, ...) computed once: by the one of the `parts` that it belongs to, or by the `base`."""
    found, done = [], 0
    for images, compute in parts:
        if images.start > done:
            found.append(base(x[done : images.start]))
        found.append(compute(x[images]))
        done = images.stop
    if done < size:
        found.append(base(x[done:]))
    return found[0] if len(found) == 1 else torch.cat(found)


class InsertedSite(Site):
    """Where modules may stand behind the attention or the MLP; what stands beside them is refused (`family_of`)."""

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
        plan, base = _PLAN.get(), self.base
        parts = cast(Sequence[tuple[slice, SlotPiece, Rows]], plan.parts.get(self.path, ()))
        if not parts:
            return cast(tuple[Tensor, ...], base(x, slots))
        slots = slots or base.slots
        own = [(i, partial(self._merged, rows, piece.merged, slots)) for i, piece, rows in parts if piece.merged]
        if own:
            y = _spliced(x, lambda rest: torch.cat(base(rest, slots), dim=-1), own, plan.size)
            outputs = y.chunk(len(slots), dim=-1)
        else:
            outputs = base(x, slots)  # of a plain layer, and so in fresh memory that may be changed
        for images, piece, rows in parts:
            here = dict(zip(slots, (output[images] for output in outputs), strict=True))
            self._add(piece, rows, x[images], here)
        return outputs

    def _merged(self, rows: Rows, call: Call, slots: tuple[Slot, ...], x: Tensor) -> Tensor:
        """x W^T + b with the adapters' own W and b: (k, N, D_in) -> (k, N, D_out of these slots)."""
        weight, bias = (part.to(x.dtype) for part in rows.factors(call))
        here = slice(self.base.rows(slots[0]).start, self.base.rows(slots[-1]).stop)
        if rows.single:
            return F.linear(x, weight[here], bias[here])
        return torch.baddbmm(bias[:, None, here], x, weight[:, here].mT)

    def _add(self, piece: SlotPiece, rows: Rows, x: Tensor, here: Mapping[Slot, Tensor]) -> None:
        """Change the outputs `here`, slot -> (k, N, D_out / slots), in place to those of the adapters."""
        if piece.bias:
            change = rows.tensors[piece.bias] - self.base.bias
            for slot, y in here.items():
                y += change[..., self.base.rows(slot)].unsqueeze(-2)
        for slot, call in piece.thin:
            if slot in here:
                _add_thin(here[slot], x, *rows.factors(call))
        for slot, call in piece.branches:
            if slot in here:
                here[slot].add_(rows.run(call, x))


def _add_thin(y: Tensor, x: Tensor, q: Tensor, p: Tensor, shift: Tensor | None = None) -> None:
    """y += x Q P^T + s with Q (k, D_in, R), P^T (k, R, D_out) and s (k, D_out), or all without k."""
    y += x @ q.to(x.dtype) @ p.to(x.dtype)
    if shift is not None:
        y += shift.unsqueeze(-2)


def host_of(plain: ViT) -> ViT:
    """A copy of `plain`, sharing its weights, that follows plans. Its output projection is left to the caller."""
    host = copy_sharing_weights(plain).eval()
    host.projection = nn.Identity()
    for path, module in list(host.named_modules()):
        if isinstance(module, Block):
            for place in BEHIND:
                module.inserted[place] = InsertedSite(f"{path}.inserted.{place}", path)
        elif isinstance(module, SlotLinear):
            _replace(host, path, SlotSite(module, path))
        elif not isinstance(module, (ViT, RelativeBias)) and any(True for _ in module.parameters(recurse=False)):
            _replace(host, path, Site(module, path))
    return host


def _replace(host: ViT, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    cast(Any, host.get_submodule(parent))._modules[name] = module
