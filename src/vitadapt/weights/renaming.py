"""Renaming rules: which tensor of ours is made of which tensors of theirs, and how, in both directions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..utils.errors import WeightsError

State = dict[str, Tensor]
Form = Literal["same", "stacked", "lead1", "lead2", "transposed"]
Missing = Literal["error", "absent", "zeros"]

_READ: dict[Form, Callable[[list[Tensor]], Tensor]] = {
    "same": lambda parts: parts[0],
    "stacked": torch.cat,
    "lead1": lambda parts: parts[0].flatten(0, 1),
    "lead2": lambda parts: parts[0].flatten(),
    "transposed": lambda parts: parts[0].T.contiguous(),
}
_WRITE: dict[Form, Callable[[Tensor, int], list[Tensor]]] = {
    "same": lambda tensor, count: [tensor],
    "stacked": lambda tensor, count: [part.clone() for part in tensor.chunk(count)],
    "lead1": lambda tensor, count: [tensor.unsqueeze(0)],
    "lead2": lambda tensor, count: [tensor.view(1, 1, -1)],
    "transposed": lambda tensor, count: [tensor.T.contiguous()],
}
_DIMENSIONS: dict[Form, int] = {"lead1": 3, "lead2": 3, "transposed": 2}


@dataclass(frozen=True)
class Rule:
    """One tensor of ours and the tensors of theirs that it is made of ("{i}" stands for the block number).

    `missing` says what happens when theirs has no such tensor: an error, nothing ("absent": the part is optional), or
    zeros ("zeros": their module always has it, and zeros are what it must hold when ours lacks it).
    """

    ours: str
    theirs: tuple[str, ...]
    form: Form = "same"
    missing: Missing = "error"

    def at(self, block: int) -> Rule:
        """The rule for one block."""
        i = str(block)
        return replace(self, ours=self.ours.replace("{i}", i), theirs=tuple(t.replace("{i}", i) for t in self.theirs))

    def read(self, parts: list[Tensor]) -> Tensor:
        """Their tensors -> ours. Raises WeightsError when they do not fit together."""
        wanted = _DIMENSIONS.get(self.form, parts[0].ndim)
        lead = parts[0].shape[: {"lead1": 1, "lead2": 2}.get(self.form, 0)]
        if parts[0].ndim != wanted or any(size != 1 for size in lead) or len({p.shape[1:] for p in parts}) > 1:
            shapes = ", ".join(f"{name} {tuple(p.shape)}" for name, p in zip(self.theirs, parts, strict=True))
            raise WeightsError(f"tensors of unexpected shape: {shapes}")
        return _READ[self.form](parts)

    def write(self, tensor: Tensor, prefix: str) -> State:
        """Our tensor -> theirs, bit for bit."""
        parts = _WRITE[self.form](tensor, len(self.theirs))
        return {prefix + name: part for name, part in zip(self.theirs, parts, strict=True)}


def pair(ours: str, *theirs: str, form: Form = "same", missing: Missing = "error") -> tuple[Rule, Rule]:
    """The rules for a weight and its bias."""
    weight, bias = (
        Rule(f"{ours}.{kind}", tuple(f"{t}.{kind}" for t in theirs), form, missing) for kind in ("weight", "bias")
    )
    return weight, bias
