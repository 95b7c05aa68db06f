"""Additive changes of some rows of a linear layer, and the fast way to train the thin ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .products import product


class Delta(nn.Module):
    """An additive change of some rows of a weight W (D_out x D_in) and of their bias."""

    def branch(self, x: Tensor) -> Tensor:
        """What the change adds to the layer's output: (B, N, D_in) -> (B, N, D_out). Equals x matrix()^T + bias()."""
        raise NotImplementedError

    def matrix(self) -> Tensor:
        """The change itself, (D_out, D_in); built only for merging."""
        raise NotImplementedError

    def bias(self) -> Tensor | None:
        """What is added to the bias, (D_out,), or None."""
        return None


class ThinDelta(Delta):
    """A delta P Q^T given by thin factors, so that no D_out x D_in matrix is built during training."""

    def factors(self) -> tuple[Tensor, Tensor]:
        """P (D_out, R) and Q (D_in, R), any scale included."""
        raise NotImplementedError

    def branch(self, x: Tensor) -> Tensor:
        p, q = self.factors()
        thin = x @ q  # (B, N, D_in) -> (B, N, R)
        bias = self.bias()
        return F.linear(thin, p, bias)

    def matrix(self) -> Tensor:
        p, q = self.factors()
        return p @ q.T


Placed = tuple[slice, ThinDelta]
"""A thin delta and the rows of the layer that it changes."""

_IN_PLACE = ContextVar("in_place", default=True)


@contextmanager
def separate_branches() -> Iterator[None]:
    """Within the block every delta goes through its `branch`: what `thin_linear` is held to."""
    token = _IN_PLACE.set(False)
    try:
        yield
    finally:
        _IN_PLACE.reset(token)


def is_thin(delta: nn.Module) -> bool:
    """May `thin_linear` compute this delta from its factors? Not when it has a branch of its own."""
    return isinstance(delta, ThinDelta) and type(delta).branch is ThinDelta.branch


def goes_in_place(x: Tensor, weight: Tensor) -> bool:
    """May `thin_linear` compute this layer? In one precision, and outside of any compiler or tracer."""
    return (
        x.dtype == weight.dtype
        and _IN_PLACE.get()
        and not torch.is_autocast_enabled(x.device.type)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


def thin_linear(x: Tensor, weight: Tensor, bias: Tensor | None, placed: Sequence[Placed]) -> Tensor:
    """x W^T + b plus the branches of thin deltas on their rows: (B, N, D_in) -> (B, N, D_out). If it `goes_in_place`.

    The branches are accumulated into the rows by the matrix products themselves, forward and backward, so that no
    second copy of those rows is made or kept: a sixth of the activations of a block where q and v are adapted.
    """
    factors = [part for _, delta in placed for part in (*delta.factors(), delta.bias())]
    return cast(Tensor, _ThinLinear.apply(x, weight, bias, tuple(rows for rows, _ in placed), *factors))


class _ThinLinear(torch.autograd.Function):
    """Y = X W^T + b, Y[:, rows] += (X Q) P^T + s for every (rows; P, Q, s)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, rows: tuple[slice, ...], *f: Any) -> Tensor:
        ps, qs, shifts = f[0::3], f[1::3], f[2::3]
        flat = x.reshape(-1, x.shape[-1])  # (B N, D_in)
        y = product(flat, weight, _shifted(weight, bias, rows, shifts))
        thins = [flat @ q for q in qs]
        for place, p, thin in zip(rows, ps, thins, strict=True):
            y[:, place].addmm_(thin, p.T)
        ctx.rows = rows
        needs_x = rows or ctx.needs_input_grad[1]
        ctx.save_for_backward(x if needs_x else None, weight, *ps, *qs, *thins)
        return y.unflatten(0, x.shape[:-1])

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *saved = ctx.saved_tensors
        count = len(ctx.rows)
        ps, qs, thins = saved[:count], saved[count : 2 * count], saved[2 * count :]
        g = grad.reshape(-1, grad.shape[-1])
        flat = None if x is None else x.reshape(-1, x.shape[-1])
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        g_x = product(g, weight.T) if needs_x else None
        found: list[Tensor | None] = []
        for i, (place, p, q, thin) in enumerate(zip(ctx.rows, ps, qs, thins, strict=True)):
            own = g[:, place]
            g_thin = own @ p  # (B N, R)
            if g_x is not None:
                g_x.addmm_(g_thin, q.T)
            found += [own.T @ thin, flat.T @ g_thin, own.sum(dim=0) if ctx.needs_input_grad[6 + 3 * i] else None]
        g_weight = product(g.T, flat.T) if needs_weight else None
        g_bias = g.sum(dim=0) if needs_bias else None
        return None if g_x is None else g_x.unflatten(0, grad.shape[:-1]), g_weight, g_bias, None, *found


def _shifted(
    weight: Tensor, bias: Tensor | None, rows: Sequence[slice], shifts: Sequence[Tensor | None]
) -> Tensor | None:
    """The layer's bias with those of the deltas added on their rows."""
    if all(shift is None for shift in shifts):
        return bias
    shifted = weight.new_zeros(len(weight)) if bias is None else bias.clone()
    for place, shift in zip(rows, shifts, strict=True):
        if shift is not None:
            shifted[place] += shift
    return shifted
