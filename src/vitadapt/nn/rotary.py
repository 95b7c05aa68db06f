"""Rotary positions in two dimensions: queries and keys of a patch are turned by angles that its place gives.

Su et al. 2021 (RoFormer); the forms of DINOv3 (Siméoni et al. 2025), EVA-02 (Fang et al. 2023) and the Perception
Encoder (Bolya et al. 2025). Half of a head's channels belong to the rows of the grid and half to its columns.

    place p, channel pair i of d/4:  angle = c(p) T^(-4 i / d),  (a, b) -> (a cos - b sin, a sin + b cos)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rotary:
    """Which angles the places of a grid of h x w patches give.

    temperature: T above.
    scale: "relative": c = 2 pi (2 (p + 1/2) / h - 1), whatever the size of the grid; "patches": c = p + offset.
    reference: with scale "patches", c is multiplied by reference / h, so that other sizes span the same angles;
      0 leaves it.
    order: which half of the channels belongs to the rows: "yx" the first, "xy" the second.
    pairs: which channels are turned together: "halves" (i, i + d/2), "neighbours" (2 i, 2 i + 1).
    """

    temperature: float = 100.0
    scale: Literal["relative", "patches"] = "relative"
    reference: int = 0
    offset: float = 0.0
    order: Literal["yx", "xy"] = "yx"
    pairs: Literal["halves", "neighbours"] = "halves"

    def rotation(self, size: tuple[int, int], prefix: int, width: int, like: Tensor) -> Tensor:
        """Cosines and sines (2, prefix + h w, d) for heads of `width` d, on the device and in the precision of `like`.

        The tokens of the prefix stay as they are: their cosine is 1 and their sine 0.
        """
        h, w = size
        speed = self.temperature ** -(torch.arange(width // 4, device=like.device) / (width // 4))  # (d/4,)
        rows, columns = self._places(h, like), self._places(w, like)
        grid = (rows[:, None].expand(h, w), columns[None].expand(h, w))
        places = torch.stack(grid if self.order == "yx" else grid[::-1], dim=-1)  # (h, w, 2)
        angles = (places[..., None] * speed).flatten(2).flatten(0, 1)  # (h, w, 2, d/4) -> (h w, d/2)
        both = angles.tile(2) if self.pairs == "halves" else angles.repeat_interleave(2, dim=-1)
        both = torch.cat([both.new_zeros(prefix, width), both])
        return torch.stack([both.cos(), both.sin()]).to(like.dtype)

    def _places(self, count: int, like: Tensor) -> Tensor:
        """c(p) of `count` places, (count,)."""
        places = torch.arange(count, dtype=torch.float32, device=like.device)
        if self.scale == "relative":
            return 2 * math.pi * (2 * ((places + 0.5) / count) - 1)
        places = places + self.offset
        return places / count * self.reference if self.reference else places

    def turn(self, x: Tensor, rotation: Tensor) -> Tensor:
        """Queries or keys (B, H, N, d), turned by a rotation (2, M, d); tokens behind the first M stay as they are."""
        known = x[:, :, : rotation.shape[1]]
        cos, sin = rotation[:, : known.shape[2]]
        if self.pairs == "halves":
            a, b = known.chunk(2, dim=-1)
            crossed = torch.cat([-b, a], dim=-1)
        else:
            crossed = torch.stack([-known[..., 1::2], known[..., ::2]], dim=-1).flatten(-2)
        turned = known * cos + crossed * sin
        return turned if known.shape[2] == x.shape[2] else torch.cat([turned, x[:, :, known.shape[2] :]], dim=2)
