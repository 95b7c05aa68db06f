"""Relative positions: a bias of the attention for every difference of two places (Bao et al. 2022, BEiT).

    weights = softmax(q k^T / sqrt(d) + b),  b[h, i, j] = table[place(i) - place(j), h]

Three more rows of the table are for the class token: from it, to it, and of it to itself.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Places = Tensor | tuple[int, int]
"""What blocks are told of the places of the patches: a rotation (see `rotary`), or the grid (h, w)."""


class RelativeBias(nn.Module):
    """The biases of `heads` heads for grids of any size; the table is of a grid of `grid` x `grid` patches."""

    def __init__(self, grid: int, heads: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros((2 * grid - 1) ** 2 + 3, heads))

    def forward(self, size: tuple[int, int], tokens: int) -> Tensor:
        """b (H, N, N) for a class token, h x w patches and further tokens, which have none, N `tokens` in all."""
        table = resample_table(self.table, size)
        bias = table[torch.from_numpy(_rows(size)).to(table.device)].permute(2, 0, 1)  # (M, M, H) -> (H, M, M)
        more = tokens - bias.shape[-1]
        return F.pad(bias, (0, more, 0, more)) if more else bias


def resample_table(table: Tensor, size: tuple[int, int]) -> Tensor:
    """A table (T, H) of a square grid -> that of a grid of h x w patches, bilinear; the last three rows are kept."""
    side, wanted = round((len(table) - 3) ** 0.5), (2 * size[0] - 1, 2 * size[1] - 1)
    if wanted == (side, side):
        return table
    square = table[:-3].T.unflatten(1, (side, side)).unsqueeze(0)  # (T - 3, H) -> (1, H, 2g - 1, 2g - 1)
    resized = F.interpolate(square, size=wanted, mode="bilinear", align_corners=False)
    return torch.cat([resized[0].flatten(1).T, table[-3:]])


@lru_cache(maxsize=32)
def _rows(size: tuple[int, int]) -> np.ndarray:
    """The row of the table for every pair of tokens (1 + h w, 1 + h w). No tensor: a tracer's own must not be kept."""
    h, w = size
    last = (2 * h - 1) * (2 * w - 1)
    y, x = np.indices((h, w)).reshape(2, -1)
    rows = np.full((1 + h * w, 1 + h * w), last + 1)  # to the class token
    rows[1:, 1:] = (y[:, None] - y + h - 1) * (2 * w - 1) + x[:, None] - x + w - 1
    rows[0], rows[0, 0] = last, last + 2
    return rows
