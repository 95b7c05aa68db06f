"""Changes of some rows of a linear layer, and the fast way to train the thin ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .matmul import is_autocast, is_traced, product, switch_off


class Referring(nn.Module):
    """A module that may use a tensor or a module of another one: it is registered, counted and saved there alone."""

    def refer(self, name: str, owner: nn.Module, attribute: str = "") -> None:
        """From now on `self.name` is `owner.attribute`, or the owner itself, whatever stands there."""
        self.__dict__.setdefault("_references", {})[name] = (owner, attribute)

    def __getattr__(self, name: str) -> Any:
        if name in (references := self.__dict__.get("_references", {})):
            owner, attribute = references[name]
            return getattr(owner, attribute) if attribute else owner
        return super().__getattr__(name)


def references(module: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Name -> (owner, attribute) of what `module` itself refers to."""
    return cast(dict[str, tuple[nn.Module, str]], vars(module).get("_references", {}))


def tensor_places(module: nn.Module) -> Iterator[tuple[dict[str, Any], str]]:
    """Where the tensors stand with which `module` computes, those it refers to included: (mapping, key)."""
    for part in module.modules():
        for mapping in _tensors(part):
            yield from ((mapping, name) for name in mapping)
        for owner, attribute in references(part).values():
            thing = getattr(owner, attribute) if attribute else None
            if isinstance(thing, nn.Module):
                yield from tensor_places(thing)
                continue
            for mapping in _tensors(owner):
                yield from ((mapping, name) for name in mapping if attribute in (name, ""))


def _tensors(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    return cast(dict[str, Any], module._parameters), cast(dict[str, Any], module._buffers)


class Computed(Referring):
    """Stands in the place of a tensor while a method trains, and computes it of others: () -> the tensor.

    The tensor itself is what is saved (`surgery.learnt_state`).
    """

    def replace(self, owner: nn.Module, name: str) -> None:
        """From now on stand in the place of the parameter `owner.name`."""
        delattr(owner, name)
        setattr(owner, name, self)

    def forward(self) -> Tensor:
        raise NotImplementedError


def value_of(tensor: Tensor | Computed) -> Tensor:
    """The tensor, or what is computed in its place."""
    return cast(Tensor, tensor()) if isinstance(tensor, Computed) else tensor


class Delta(Referring):
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


class WeightTransform(Delta):
    """A change that is computed from the layer's own weight and bias, for example a scale of its outputs.

    One step costs a second product with the rows; after merging nothing is left of it.
    """

    def transform(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The new weight (D_out, D_in) and bias (D_out,) of the rows, from those of the layer."""
        raise NotImplementedError

    def attach(self, layer: nn.Module, slot: str) -> None:
        """Use the rows of `slot` of `layer`; `add_delta` does it."""
        self.refer("layer", layer)
        self.slot = slot

    def branch(self, x: Tensor) -> Tensor:
        return F.linear(x, self.matrix(), self.bias())

    def matrix(self) -> Tensor:
        weight, bias = self.layer.original(self.slot)
        return self.transform(weight, bias)[0] - cast(Tensor, weight)

    def bias(self) -> Tensor | None:
        weight, bias = self.layer.original(self.slot)
        changed = self.transform(weight, bias)[1]
        if changed is bias:
            return None
        return changed if bias is None or changed is None else changed - bias


class ScaleShift(WeightTransform):
    """y * scale + shift for every channel of a layer's output y (Lian et al. 2022, SSF); starts as the identity.

    Without `shifts` it is a scale alone.
    """

    def __init__(self, width: int, shifts: bool = True) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width)) if shifts else None

    def transform(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        scaled = None if bias is None else self.scale * bias
        shifted = scaled if self.shift is None else self.shift if scaled is None else scaled + self.shift
        return self.scale[:, None] * weight, shifted


class Affine(nn.Module):
    """A map of every token, x -> A x + c, (B, N, D) -> (B, N, D), which folds into the layer before or behind it."""

    tokenwise = True

    def matrix(self) -> Tensor:
        """A (D, D); or its diagonal (D,) when all else is zero."""
        raise NotImplementedError

    def shift(self) -> Tensor | None:
        """c (D,), or None."""
        return None


class ChannelScale(Affine):
    """x * scale + shift for every channel of the tokens x (B, N, D) (Lian et al. 2022, SSF); starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.offset = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.offset

    def matrix(self) -> Tensor:
        return self.scale

    def shift(self) -> Tensor:
        return self.offset


RowsAndDelta = tuple[slice, ThinDelta]
"""A thin delta and the rows of the layer that it changes."""

_IN_PLACE = ContextVar("in_place", default=True)


def separate_branches() -> AbstractContextManager[None]:
    """Within the block every delta goes through its `branch`: what `thin_linear` is held to."""
    return switch_off(_IN_PLACE)


def is_thin(delta: nn.Module) -> bool:
    """May `thin_linear` compute this delta from its factors? Not when it has a branch of its own."""
    return isinstance(delta, ThinDelta) and type(delta).branch is ThinDelta.branch


def goes_in_place(x: Tensor, weight: Tensor) -> bool:
    """May `thin_linear` compute this layer? In one precision, and outside of any compiler or tracer."""
    return x.dtype == weight.dtype and _IN_PLACE.get() and not is_autocast(x.device.type) and not is_traced()


def thin_linear(x: Tensor, weight: Tensor, bias: Tensor | None, placed: Sequence[RowsAndDelta]) -> Tensor:
    """x W^T + b plus the branches of thin deltas on their rows: (B, N, D_in) -> (B, N, D_out). If it `goes_in_place`.

    The branches are accumulated into the rows by the matrix products themselves, forward and backward, so that no
    second copy of those rows is made or kept: a sixth of the activations of a block where q and v are adapted.
    """
    rows = tuple(rows for rows, _ in placed)
    factors = [delta.factors() for _, delta in placed]
    q = torch.cat([q for _, q in factors], dim=1) if placed else None  # (D_in, sum of R): x is read once for all
    return cast(
        Tensor, _ThinLinear.apply(x, weight, bias, rows, q, *(p for p, _ in factors), *(d.bias() for _, d in placed))
    )


class _ThinLinear(torch.autograd.Function):
    """Y = X W^T + b, Y[:, rows] += T_i P_i^T + s_i for every i, with (T_1 T_2 ...) = X Q."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, rows: tuple[slice, ...], q: Tensor | None, *f: Any
    ) -> Tensor:
        ps, shifts = f[: len(rows)], f[len(rows) :]
        flat = x.reshape(-1, x.shape[-1])  # (B N, D_in)
        y = product(flat, weight, _bias_with_shifts(weight, bias, rows, shifts))
        thins = () if q is None else product(flat, q.T).split([p.shape[1] for p in ps], dim=1)
        for place, p, thin in zip(rows, ps, thins, strict=True):
            y[:, place].addmm_(thin, p.T)
        ctx.rows = rows
        ctx.save_for_backward(x if rows or ctx.needs_input_grad[1] else None, weight, q, *ps, *thins)
        return cast(Tensor, y.unflatten(0, x.shape[:-1]))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, q, *saved = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _, _, *needs = ctx.needs_input_grad
        ps, thins = saved[: len(ctx.rows)], saved[len(ctx.rows) :]
        g = grad.reshape(-1, grad.shape[-1])
        flat = cast(Tensor, x if x is None else x.reshape(-1, x.shape[-1]))
        g_x = product(g, weight.T) if needs_x else None
        g_weight = product(g.T, flat.T) if needs_weight else None
        g_bias = g.sum(dim=0) if needs_bias else None
        owns = [g[:, place] for place in ctx.rows]
        g_q = None
        if owns:
            parts = [product(own, p.T.contiguous()) for own, p in zip(owns, ps, strict=True)]
            g_thin = torch.cat(parts, dim=1)  # (B N, sum of R)
            g_q = product(g_thin.T, flat.T).T
            if g_x is not None:
                g_x.addmm_(g_thin, q.T)
        g_ps = [product(thin.T, own.T).T for own, thin in zip(owns, thins, strict=True)]
        g_shifts = [own.sum(dim=0) if need else None for own, need in zip(owns, needs[len(owns) :], strict=True)]
        g_x = None if g_x is None else g_x.unflatten(0, grad.shape[:-1])
        return g_x, g_weight, g_bias, None, g_q, *g_ps, *g_shifts


def _bias_with_shifts(
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
