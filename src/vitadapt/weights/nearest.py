"""Which supported backbone a refused checkpoint is most like: a name to try instead."""

from __future__ import annotations

from typing import Any

from ..nn.surgery import State
from .catalog import architectures, backbones

_TELLING = (("ln_pre", "ln_pre.weight"), ("layer_scale", "blocks.0.scale1.gamma"), ("registers", "registers"))
"""A field of an architecture, and the tensor that only networks with it have."""


def nearest_backbone(ours: State, depth: int) -> str:
    """The named backbone whose architecture is nearest to these tensors: in its sizes first, then in its parts."""
    width, _, patch, _ = ours["patches.weight"].shape

    def distance(row: dict[str, Any]) -> tuple[float, ...]:
        parts = sum(bool(row.get(field)) != (tensor in ours) for field, tensor in _TELLING)
        return abs(row["width"] - width), abs(row["depth"] - depth), parts, abs(row["patch"] - patch)

    known = {name: row for name, row in architectures().items() if name in backbones()}
    return min(known, key=lambda name: distance(known[name]))
