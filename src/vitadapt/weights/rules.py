"""How one tensor of ours is made of tensors of another library, in both directions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isqrt
from typing import Literal

import torch
from torch import Tensor

from ..nn.surgery import State
from ..utils.errors import WeightsError

Form = Literal[
    "same",
    "shared",
    "stacked",
    "lead1",
    "lead2",
    "transposed",
    "without key",
    "pixels",
    "last pixels",
    "places",
    "first third",
    "other thirds",
    "first row",
    "other rows",
]
Missing = Literal["error", "absent", "zeros"]

_READ: dict[Form, Callable[[list[Tensor]], Tensor]] = {
    "same": lambda parts: parts[0],
    "shared": lambda parts: parts[0],
    "stacked": torch.cat,
    "lead1": lambda parts: parts[0].flatten(0, 1),
    "lead2": lambda parts: parts[0].flatten(),
    "transposed": lambda parts: parts[0].T.contiguous(),
    "without key": lambda parts: torch.cat([parts[0], torch.zeros_like(parts[0]), parts[1]]),
    "pixels": lambda parts: _kernel(parts[0]),
    "last pixels": lambda parts: _kernel(parts[0], channels_last=True),
    "places": lambda parts: parts[0].flatten(0, 2),
    "first third": lambda parts: parts[0][: len(parts[0]) // 3].clone(),
    "other thirds": lambda parts: parts[0][len(parts[0]) // 3 :].clone(),
    "first row": lambda parts: parts[0][0].clone(),
    "other rows": lambda parts: parts[0][1:].clone(),
}
_WRITE: dict[Form, Callable[[Tensor, int], list[Tensor]]] = {
    "same": lambda tensor, count: [tensor],
    "shared": lambda tensor, count: [tensor],
    "stacked": lambda tensor, count: [part.clone() for part in tensor.chunk(count)],
    "lead1": lambda tensor, count: [tensor.unsqueeze(0)],
    "lead2": lambda tensor, count: [tensor.view(1, 1, -1)],
    "transposed": lambda tensor, count: [tensor.T.contiguous()],
    "without key": lambda tensor, count: _without_key(tensor),
    "pixels": lambda tensor, count: [tensor.flatten(1)],
    "last pixels": lambda tensor, count: [tensor.permute(0, 2, 3, 1).flatten(1)],
    "places": lambda tensor, count: [tensor.view(1, isqrt(len(tensor)), isqrt(len(tensor)), -1)],
    "first third": lambda tensor, count: [tensor.clone()],
    "other thirds": lambda tensor, count: [tensor.clone()],
    "first row": lambda tensor, count: [tensor.unsqueeze(0)],
    "other rows": lambda tensor, count: [tensor.clone()],
}
PARTS: tuple[Form, ...] = ("first third", "other thirds", "first row", "other rows")
"""Two of our tensors are neighbouring rows of one of theirs."""
_DIMENSIONS: dict[Form, int] = {"lead1": 3, "lead2": 3, "transposed": 2, "pixels": 2, "last pixels": 2, "places": 4}


@dataclass(frozen=True)
class Rule:
    """One tensor of ours and the tensors of theirs that it is made of ("{i}" stands for the block number).

    One of theirs may be the same tensor of every block of ours ("shared").
    Two of ours may be parts of one of theirs (`PARTS`); the rule of the first rows comes first.

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
        lead = parts[0].shape[: {"lead1": 1, "lead2": 2, "places": 1}.get(self.form, 0)]
        if parts[0].ndim != wanted or any(size != 1 for size in lead) or len({p.shape[1:] for p in parts}) > 1:
            shapes = ", ".join(f"{name} {tuple(p.shape)}" for name, p in zip(self.theirs, parts, strict=True))
            raise WeightsError(f"tensors of unexpected shape: {shapes}")
        return _READ[self.form](parts)

    def write(self, tensor: Tensor, prefix: str) -> State:
        """Our tensor -> theirs, bit for bit."""
        parts = _WRITE[self.form](tensor, len(self.theirs))
        return {prefix + name: part for name, part in zip(self.theirs, parts, strict=True)}


def _kernel(weight: Tensor, channels_last: bool = False) -> Tensor:
    """A linear layer of flattened RGB patches (D, C P P), or (D, P P C) -> a convolution's kernel (D, C, P, P)."""
    side = isqrt(weight.shape[1] // 3)
    if weight.shape[1] != 3 * side * side:
        raise WeightsError(f"a patch embedding of shape {tuple(weight.shape)} is not of square RGB patches")
    if channels_last:
        return weight.view(-1, side, side, 3).permute(0, 3, 1, 2).contiguous()
    return weight.view(-1, 3, side, side)


def _without_key(bias: Tensor) -> list[Tensor]:
    """The biases of queries and values of a packed one, where the library has none for keys."""
    q, k, v = bias.chunk(3)
    if bool(k.any()):
        raise WeightsError("the keys have a bias that is not zero, for which this layout has no place")
    return [q.clone(), v.clone()]


def pair(ours: str, *theirs: str, form: Form = "same", missing: Missing = "error") -> tuple[Rule, Rule]:
    """The rules for a weight and its bias."""
    weight, bias = (
        Rule(f"{ours}.{kind}", tuple(f"{t}.{kind}" for t in theirs), form, missing) for kind in ("weight", "bias")
    )
    return weight, bias
