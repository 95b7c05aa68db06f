"""CLAP: a linear probe that starts at the texts and is held near them, class by class.

Silva-Rodríguez et al. 2024, "A Closer Look at the Few-Shot Adaptation of Large Vision-Language Models" (2312.12730;
code: jusiro/CLAP). With features f, texts t_c and the scale s,

    logits_c = s cos(f, w_c),    loss = cross-entropy + mean_c a_c ||w_c - t_c||^2,

where a_c is the mean probability that the texts alone give to the right class on the images of class c; the mean of the
others for a class without images. SGD with momentum 0.9, cosine after one epoch at 1e-5. No image is augmented (the
published code: 20 random versions of each). Trained: C E.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ..nn.support import Solution, Support
from .registry import METHODS
from .text_prior import TextPrior, cosines, descend


@METHODS.register("clap")
@dataclass(frozen=True)
class CLAP(TextPrior):
    """s cos(f, w_c), trained with a penalty a_c ||w_c - t_c||^2; a_c: how well the text alone knows class c."""

    lr: float = 0.1
    epochs: int = 300
    batch: int = 256

    def solve_head(self, support: Support) -> Solution:
        x, labels, text = self.tensors(support)
        penalty = multipliers(support.scale * x @ text.T, labels)
        weight = torch.nn.Parameter(text.clone())

        def loss(rows: torch.Tensor, epoch: int) -> torch.Tensor:
            held = (penalty * (weight - text).square().sum(dim=1)).mean()
            return F.cross_entropy(cosines(weight, x[rows], support.scale), labels[rows]) + held

        optimizer = torch.optim.SGD([weight], self.lr, momentum=0.9)
        descend(loss, optimizer, len(x), self.epochs, support.seed, self.batch, warmup=1)
        unit = F.normalize(weight.detach(), dim=1).numpy().astype(np.float64)
        return Solution(support.scale * unit, np.zeros(support.classes))


def multipliers(zero_shot: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(C,) the mean probability of the right class under logits (N, C), over the images of each class."""
    classes = zero_shot.shape[1]
    own = zero_shot.softmax(dim=1).gather(1, labels[:, None])[:, 0]
    counts = torch.bincount(labels, minlength=classes)
    mean = torch.zeros(classes).index_add_(0, labels, own) / counts.clamp(min=1)
    return torch.where(counts > 0, mean, mean[counts > 0].mean())
