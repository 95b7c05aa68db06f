"""One module run for many adapters at once: its tensors are those of image i where image i is computed."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from torch import Tensor, nn
from torch.func import functional_call, vmap

from ..deltas import Delta, ThinDelta, separate_branches

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Rows:
    """The tensors of the adapters of k neighbouring images: name -> (k, ...), or (...) where all use the same one."""

    tensors: Tensors
    single: bool

    def image(self, i: int) -> Tensors:
        return self.tensors if self.single else {name: tensor[i] for name, tensor in self.tensors.items()}


class Factors(nn.Module):
    """`factors` and `bias` of a thin delta as a module."""

    def __init__(self, delta: ThinDelta) -> None:
        super().__init__()
        self.delta = delta

    def forward(self) -> tuple[Tensor, ...]:
        bias = self.delta.bias()
        return self.delta.factors() if bias is None else (*self.delta.factors(), bias)


class Branch(nn.Module):
    """`branch` of a delta as a module."""

    def __init__(self, delta: Delta) -> None:
        super().__init__()
        self.delta = delta

    def forward(self, x: Tensor) -> Tensor:
        return self.delta.branch(x)


@dataclass(frozen=True, eq=False)
class Call:
    """A module, and where its tensors stand among those of the adapter: its name for each -> the adapter's name.

    alone: does it look at more than one token, so that it must see one image at a time? The lock is there because a
    module that runs with other tensors holds them for as long as it runs.
    """

    module: nn.Module
    names: Mapping[str, str]
    alone: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, rows: Rows, *inputs: Tensor, **options: Any) -> Any:
        """Inputs (k, ...) -> outputs (k, ...), or what a module without inputs makes of every row."""
        own = self._own(rows.tensors)
        with self._lock:
            if rows.single and not (self.alone and inputs):
                return functional_call(self.module, own, inputs, options)
            one = functools.partial(self._one, options)
            with separate_branches():  # what works in place on a whole batch knows no images
                return vmap(one, in_dims=(None if rows.single else 0, 0))(own, inputs)

    def _own(self, tensors: Tensors) -> dict[str, Tensor]:
        return {mine: tensors[name] for mine, name in self.names.items()}

    def _one(self, options: dict[str, Any], own: dict[str, Tensor], inputs: tuple[Tensor, ...]) -> Any:
        found = functional_call(self.module, own, tuple(x.unsqueeze(0) for x in inputs), options)
        if not inputs:
            return found
        return tuple(y.squeeze(0) for y in found) if isinstance(found, tuple) else cast(Tensor, found).squeeze(0)
