"""One module run for many adapters at once: its tensors are those of image i where image i is computed."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from torch.func import vmap

from ...nn.deltas import Delta, separate_branches

Tensors = Mapping[str, Tensor]


class Branch(nn.Module):
    """`branch` of a delta as a module."""

    def __init__(self, delta: Delta) -> None:
        super().__init__()
        self.delta = delta

    def forward(self, x: Tensor) -> Tensor:
        return self.delta.branch(x)


class Numbers:
    """Which tensors of a template stand for those of the adapter: identity -> name.

    Who borrows them, or copies the template, holds the lock.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        self.names = names
        self.lock = threading.Lock()


Place = tuple[dict[str, Any], str, str]
"""Parameters or buffers of a module, the name of one of them, and its name among those of the adapter."""


@dataclass(frozen=True, eq=False)
class Call:
    """A module of a template, run with other tensors in its places.

    alone: does it look at more than one token, so that it must see one image at a time? `torch.func.functional_call`
    would leave its tensors behind in a module that is reached by two paths.
    """

    module: nn.Module
    places: tuple[Place, ...]
    numbers: Numbers
    alone: bool = False

    @classmethod
    def of(cls, module: nn.Module, numbers: Numbers, alone: bool = False) -> Call:
        places = (
            (tensors, mine, numbers.names[id(tensor)])
            for owner in module.modules()
            for tensors in (owner._parameters, owner._buffers)
            for mine, tensor in cast(dict[str, Any], tensors).items()
            if id(tensor) in numbers.names
        )
        return cls(module, tuple(cast(Iterable[Place], places)), numbers, alone)

    def __call__(self, tensors: Tensors, single: bool, *inputs: Tensor, **options: Any) -> Any:
        """Inputs (k, ...) and tensors (k, ...) -> outputs (k, ...); tensors (...) where a `single` adapter is meant."""
        own = {name: tensors[name] for _, _, name in self.places}
        with self.numbers.lock:
            if single and not (self.alone and inputs):
                return self._run(own, inputs, options)
            one = functools.partial(self._one, options)
            with separate_branches():  # what works in place on a whole batch knows no images
                return vmap(one, in_dims=(None if single else 0, 0))(own, inputs)

    def _one(self, options: dict[str, Any], own: Tensors, inputs: tuple[Tensor, ...]) -> Any:
        found = self._run(own, tuple(x.unsqueeze(0) for x in inputs), options)
        if not inputs:
            return found
        return tuple(y.squeeze(0) for y in found) if isinstance(found, tuple) else cast(Tensor, found).squeeze(0)

    def _run(self, own: Tensors, inputs: tuple[Tensor, ...], options: dict[str, Any]) -> Any:
        before = [tensors[mine] for tensors, mine, _ in self.places]
        try:
            for tensors, mine, name in self.places:
                tensors[mine] = own[name]
            return self.module(*inputs, **options)
        finally:
            for (tensors, mine, _), tensor in zip(self.places, before, strict=True):
                tensors[mine] = tensor
