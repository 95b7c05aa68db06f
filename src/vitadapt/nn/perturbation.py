"""What happens at random while a network trains: to what a method adds, and to whole sub-layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Perturbation:
    """Of a block in training mode; nothing in evaluation.

    dropout: share of the entries of a method's change that are zero (the others grow, so that the mean stays).
    noise: they are multiplied by N(1, noise^2) (Ni et al. 2024, PACE). drop_path: probability that a sub-layer is left
    out for an image (Huang et al. 2016, stochastic depth).
    """

    dropout: float = 0.0
    noise: float = 0.0
    drop_path: float = 0.0

    def change(self, y: Tensor) -> Tensor:
        """What a method adds, (B, N, D)."""
        y = F.dropout(y, self.dropout) if self.dropout else y
        return y * (1 + self.noise * torch.randn_like(y)) if self.noise else y

    def branch(self, y: Tensor) -> Tensor:
        """The output of a sub-layer, (B, N, D)."""
        if not self.drop_path:
            return y
        stays = torch.rand(len(y), 1, 1).to(y.device) >= self.drop_path  # drawn on the CPU: the same on every device
        return y * stays / (1 - self.drop_path)
