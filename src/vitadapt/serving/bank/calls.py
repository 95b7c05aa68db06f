"""Tensors of many adapters, and a module that is run for all of them at once."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

from ...nn.deltas import separate_branches, tensor_places

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """Names, shapes and types of tensors that lie behind one another in a row of P numbers.

    So an adapter is one tensor, and stacking those of a batch is one copy.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    dtypes: tuple[torch.dtype, ...]

    @classmethod
    def of(cls, tensors: Tensors) -> Layout:
        parts = tensors.values()
        return cls(tuple(tensors), tuple(t.shape for t in parts), tuple(t.dtype for t in parts))

    @property
    def dtype(self) -> torch.dtype:
        """Of a row: the narrowest type that holds every part without loss."""
        return functools.reduce(torch.promote_types, self.dtypes, torch.bfloat16 if self.dtypes else torch.float32)

    @property
    def size(self) -> int:
        """P, the length of a row."""
        return sum(shape.numel() for shape in self.shapes)

    def pack(self, tensors: Tensors) -> Tensor:
        """The row (P,) of `tensors`, on the CPU."""
        parts = [tensors[name].detach().cpu().to(self.dtype).flatten() for name in self.names]
        return torch.cat(parts) if parts else torch.zeros(0)

    def views(self, rows: Tensor) -> dict[str, Tensor]:
        """Rows (..., P) -> name -> tensors (..., *shape) that share their memory, unless their type is another."""
        parts = rows.split([shape.numel() for shape in self.shapes], -1)
        return {
            name: part.view(rows.shape[:-1] + shape).to(dtype)
            for name, part, shape, dtype in zip(self.names, parts, self.shapes, self.dtypes, strict=True)
        }


def stack_rows(rows: Sequence[Tensor]) -> Tensor:
    """k rows (P,) -> (k, P), or (P,) when all are the same one."""
    return rows[0] if all(row is rows[0] for row in rows) else torch.stack(list(rows))


@dataclass(frozen=True, eq=False)
class Packed:
    """All numbers of an adapter: the row of those in the backbone, and the row of its head."""

    body: Tensor
    head: Tensor

    def to(self, device: torch.device) -> Packed:
        return Packed(self.body.to(device), self.head.to(device))


class TensorNames:
    """Which tensors of a template stand for those of the adapter: identity -> name.

    Whoever replaces them for a while, or copies the template, holds the lock.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        self.names = names
        self.lock = threading.Lock()


Place = tuple[dict[str, Any], str, str]
"""The parameters or buffers of a module, the name of one of them, and its name among those of the adapter."""


@dataclass(frozen=True, eq=False)
class Call:
    """A function of modules of a template, run with other tensors in their places.

    alone: does it look at more than one token, so that it must see one image at a time? `torch.func.functional_call`
    would leave its tensors behind in a module that is reached by two paths.
    """

    function: Callable[..., Any]
    places: tuple[Place, ...]
    names: TensorNames
    alone: bool = False

    @classmethod
    def of(
        cls, module: nn.Module, names: TensorNames, alone: bool = False, function: Callable[..., Any] | None = None
    ) -> Call:
        """Of a function of `module`; None: calling it."""
        places = (
            (tensors, local, names.names[id(tensors[local])])
            for tensors, local in tensor_places(module)
            if id(tensors[local]) in names.names
        )
        return cls(function or module, tuple(places), names, alone)

    def __call__(self, tensors: Tensors, single: bool, *inputs: Tensor) -> Any:
        """Inputs (k, ...) and tensors (k, ...) -> outputs (k, ...); tensors (...) where a `single` adapter is meant."""
        own = {name: tensors[name] for _, _, name in self.places}
        with self.names.lock:
            if single and not (self.alone and inputs):
                return self._run(own, inputs)
            with separate_branches():  # what works in place on a whole batch knows no images
                return vmap(self._run_one, in_dims=(None if single else 0, 0))(own, inputs)

    def _run_one(self, own: Tensors, inputs: tuple[Tensor, ...]) -> Any:
        found = self._run(own, tuple(x.unsqueeze(0) for x in inputs))
        return found.squeeze(0) if inputs else found

    def _run(self, own: Tensors, inputs: tuple[Tensor, ...]) -> Any:
        before = [tensors[local] for tensors, local, _ in self.places]
        try:
            for tensors, local, name in self.places:
                tensors[local] = own[name]
            return self.function(*inputs)
        finally:
            for (tensors, local, _), tensor in zip(self.places, before, strict=True):
                tensors[local] = tensor
