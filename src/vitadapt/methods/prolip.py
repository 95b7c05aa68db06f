"""ProLIP: the output projection of the image tower trained, and held near what it was.

Fahes et al. 2024, "CLIP's Visual Embedding Projector is a Few-shot Cornucopia" (2410.05270; code: astra-vision/ProLIP).
With the features x (F,) before the projection P (E, F), which starts at P_0, texts T and the scale s,

    logits = s T g,  g = P x / |P x|,    loss = cross-entropy + shots^-power ||P - P_0||^2.

Adam with eps 1e-4 on all images at once, cosine, 300 epochs, each on the next version of every image. (The published
code: 300 random versions; here there are five.) No validation images. It merges. Trained: F E, which is 393,216 on
CLIP ViT-B/16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from ..nn.head_spec import HeadSpec
from ..nn.support import Solution, Support
from ..nn.surgery import require_vit, thaw
from ..nn.vit import ViT
from ..utils.errors import NotApplicable
from .registry import METHODS
from .text_prior import FIXED, TextPrior, descend, shots


@METHODS.register("prolip")
@dataclass(frozen=True)
class ProLIP(TextPrior):
    """s T P x / |P x| with a trained projection P and the penalty shots^-power ||P - P_0||^2."""

    lr: float = 1e-5
    epochs: int = 300
    power: int = 2

    default_head: ClassVar[HeadSpec | None] = FIXED
    reads_versions: ClassVar[bool] = True
    reads_pooled: ClassVar[bool] = True

    def adapt(self, vit: ViT) -> None:
        if not require_vit(vit).config.projection:
            raise NotApplicable("prolip trains the output projection, and this backbone has none; choose a CLIP")
        thaw(vit.projection.parameters())

    def solve_head(self, support: Support) -> Solution:
        _, labels, text = self.tensors(support)
        assert support.pooled is not None
        pooled, start = torch.from_numpy(support.pooled).float(), torch.from_numpy(support.start[NAME])
        projection, strength = torch.nn.Parameter(start.clone()), shots(support) ** -self.power

        def loss(rows: torch.Tensor, epoch: int) -> torch.Tensor:
            g = F.normalize(pooled[epoch % len(pooled)] @ projection.T, dim=1)
            held = (projection - start).square().sum()
            return F.cross_entropy(support.scale * g @ text.T, labels) + strength * held

        optimizer = torch.optim.Adam([projection], self.lr, eps=1e-4)
        descend(loss, optimizer, len(labels), self.epochs, support.seed)
        return Solution(backbone={NAME: projection.detach().numpy()})


NAME = "projection.weight"
