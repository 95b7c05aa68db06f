"""TaskRes: a trained residual added to the texts.

Yu et al. 2023, "Task Residual for Tuning Vision-Language Models" (2211.10277; code: geekyutao/TaskRes). With features
f, texts T, a residual R (C, E) that starts at zero and the scale s,

    logits_c = s cos(f, t_c + alpha r_c).

Adam with the weight decay 5e-4 of the published code, cosine after one epoch at 1e-5, 100 epochs up to four images per
class and 200 above. No image is augmented. Trained: C E.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ..nn.support import Solution, Support
from .registry import METHODS
from .text_prior import TextPrior, cosines, descend, shots


@METHODS.register("taskres")
@dataclass(frozen=True)
class TaskRes(TextPrior):
    """s cos(f, t_c + alpha r_c) with a trained residual R that starts at zero.

    epochs: 0 for 100 up to four images per class and 200 above.
    """

    alpha: float = 0.5
    lr: float = 2e-3
    weight_decay: float = 5e-4
    epochs: int = 0
    batch: int = 256

    def solve_head(self, support: Support) -> Solution:
        x, labels, text = self.tensors(support)
        residual = torch.nn.Parameter(torch.zeros_like(text))

        def loss(rows: torch.Tensor, epoch: int) -> torch.Tensor:
            return F.cross_entropy(cosines(text + self.alpha * residual, x[rows], support.scale), labels[rows])

        optimizer = torch.optim.Adam([residual], self.lr, weight_decay=self.weight_decay)
        epochs = self.epochs or (100 if shots(support) <= 4 else 200)
        descend(loss, optimizer, len(x), epochs, support.seed, self.batch, warmup=1)
        unit = F.normalize(text + self.alpha * residual.detach(), dim=1).numpy().astype(np.float64)
        return Solution(support.scale * unit, np.zeros(support.classes))
