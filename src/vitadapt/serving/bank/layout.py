"""Many named tensors as one row of numbers, so that an adapter is one tensor and a batch of adapters one copy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Names, shapes and types of tensors that lie behind one another in a row of P numbers."""

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    dtypes: tuple[torch.dtype, ...]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Layout:
        parts = tensors.values()
        return cls(tuple(tensors), tuple(t.shape for t in parts), tuple(t.dtype for t in parts))

    @property
    def dtype(self) -> torch.dtype:
        """Of a row: the narrowest type that holds every part without loss."""
        return reduce(torch.promote_types, self.dtypes, torch.bfloat16 if self.dtypes else torch.float32)

    @property
    def size(self) -> int:
        """P, the length of a row."""
        return sum(shape.numel() for shape in self.shapes)

    def pack(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The row (P,) of `tensors`, on the CPU."""
        parts = [tensors[name].detach().cpu().to(self.dtype).flatten() for name in self.names]
        return torch.cat(parts) if parts else torch.zeros(0)

    def views(self, rows: Tensor) -> dict[str, Tensor]:
        """Rows (..., P) -> name -> tensors (..., *shape) that share their memory, unless their type is another."""
        sizes = [shape.numel() for shape in self.shapes]
        parts = (p.view(rows.shape[:-1] + s) for p, s in zip(rows.split(sizes, -1), self.shapes, strict=True))
        if set(self.dtypes) == {rows.dtype}:
            return dict(zip(self.names, parts, strict=True))
        return {name: part.to(t) for name, part, t in zip(self.names, parts, self.dtypes, strict=True)}
