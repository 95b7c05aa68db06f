"""CLIP-Adapter: a bottleneck behind the features of the image tower, blended with them.

Gao et al. 2021, "CLIP-Adapter: Better Vision-Language Models with Feature Adapters" (2110.04544; code:
gaopengcuhk/CLIP-Adapter). With features f (E,), A (E / reduction, E), B (E, E / reduction), texts T and the scale s,

    g = ratio relu(B relu(A f)) + (1 - ratio) f,    logits = s T g / |g|.

No biases, so that the length of f does not matter. SGD in batches of 32, cosine after one epoch at 1e-5, 300 epochs at
0.01, as in the comparison of LP++: the rate of the paper, 1e-5, leaves A and B at random. It starts disturbed and does
not merge. Trained: 2 E E / reduction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn.head_spec import HeadSpec
from ..nn.support import Solution, Support
from ..nn.surgery import insert, require_vit
from ..nn.vit import ViT
from ..utils.errors import ConfigError
from .registry import METHODS
from .text_prior import FIXED, TextPrior, cosines, descend


class FeatureAdapter(nn.Module):
    """ratio relu(B relu(A f)) + (1 - ratio) f, (B, E) -> (B, E)."""

    def __init__(self, width: int, reduction: int, ratio: float) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, width // reduction, False), nn.Linear(width // reduction, width, False)
        self.ratio = ratio

    def forward(self, f: Tensor) -> Tensor:
        change = self.up(self.down(f).relu()).relu()
        return cast(Tensor, self.ratio * change + (1 - self.ratio) * f)


@METHODS.register("clip-adapter")
@dataclass(frozen=True)
class CLIPAdapter(TextPrior):
    """ratio relu(B relu(A f)) + (1 - ratio) f behind the features f of the image tower; the head stays at the texts."""

    reduction: int = 4
    ratio: float = 0.2
    lr: float = 0.01
    epochs: int = 300
    batch: int = 32

    default_head: ClassVar[HeadSpec | None] = FIXED
    starts_as_identity: ClassVar[bool] = False

    def adapt(self, vit: ViT) -> None:
        width = require_vit(vit).features
        if not 1 <= self.reduction <= width:
            raise ConfigError(f"clip-adapter: reduction must be in 1..{width}, got {self.reduction}")
        insert(vit, "features", FeatureAdapter(width, self.reduction, self.ratio))

    def solve_head(self, support: Support) -> Solution:
        x, labels, text = self.tensors(support)
        adapter = FeatureAdapter(x.shape[1], self.reduction, self.ratio)
        adapter.load_state_dict({name.removeprefix(PLACE): torch.from_numpy(t) for name, t in support.start.items()})

        def loss(rows: Tensor, epoch: int) -> Tensor:
            return F.cross_entropy(cosines(text, F.normalize(adapter(x[rows]), dim=1), support.scale), labels[rows])

        optimizer = torch.optim.SGD(adapter.parameters(), self.lr)
        descend(loss, optimizer, len(x), self.epochs, support.seed, self.batch, warmup=1)
        learnt: dict[str, Any] = {f"{PLACE}{name}": t.numpy() for name, t in adapter.state_dict().items()}
        return Solution(backbone=learnt)


PLACE = "inserted.features."
