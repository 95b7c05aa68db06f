"""Tip-Adapter: the images as keys of a cache beside the texts; and Tip-Adapter-F, whose keys are trained.

Zhang et al. 2022 (2207.09519; code: gaopengcuhk/Tip-Adapter). With features f, the keys k_i (the features of the N
images), their labels y_i in one-hot form, texts T and the scale s of the logits,

    logits = s T f + alpha sum_i y_i exp(-beta (1 - k_i f)).

The published code chooses alpha and beta on validation images, and Tip-Adapter-F the best epoch on the test images.
Here both numbers are chosen by leaving each image out, the last epoch counts, and at one shot they are 3 and 1.
Stored: N E keys and N C values; trained (F): the N E keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from ..nn.head_spec import HeadSpec
from ..nn.support import Solution, Support
from .left_out import judges, losses
from .registry import METHODS
from .text_prior import KEYS, TextPrior, descend, one_hot

ALPHAS, BETAS = (0.1, 0.3, 1.0, 3.0, 10.0), (0.5, 1.0, 2.0, 4.0, 8.0, 13.0)
ALPHA, BETA = 3.0, 1.0  # at one shot: where the published searches begin


@METHODS.register("tip-adapter")
@dataclass(frozen=True)
class TipAdapter(TextPrior):
    """s T f + alpha sum of y_i exp(-beta (1 - k_i f)) over the images, whose features k_i are keys; not trained.

    alpha and beta: 0 for what predicts images left out best.
    """

    alpha: float = 0.0
    beta: float = 0.0

    default_head: ClassVar[HeadSpec | None] = KEYS

    def solve_head(self, support: Support) -> Solution:
        alpha, beta = self.mix(support)
        return Solution(keys=support.features, values=alpha * one_hot(support.labels, support.classes), sharpness=beta)

    def mix(self, support: Support) -> tuple[float, float]:
        """alpha and beta. Without an image, the other ones of its class count as much as all of them."""
        x, labels, classes, text = support.features, support.labels, support.classes, self.texts(support)
        rows = judges(labels, classes)
        alphas, betas = ((given,) if given else grid for given, grid in ((self.alpha, ALPHAS), (self.beta, BETAS)))
        if not len(rows) or len(alphas) * len(betas) == 1:
            return self.alpha or ALPHA, self.beta or BETA
        zero_shot, near = support.scale * x[rows] @ text.T, x[rows] @ x.T
        counts, own = np.bincount(labels), (np.arange(len(rows)), labels[rows])
        best = (np.inf, 0.0, 0.0)
        for beta in betas:
            affinity = np.exp(beta * (near - 1))
            affinity[np.arange(len(rows)), rows] = 0
            cache = affinity @ one_hot(labels, classes)
            cache[own] *= counts[labels[rows]] / (counts[labels[rows]] - 1)
            for alpha in alphas:
                loss = float(losses(zero_shot + alpha * cache, labels[rows], np.ones(1))[0])
                best = min(best, (loss, alpha, beta))
        return best[1:]


@METHODS.register("tip-adapter-f")
@dataclass(frozen=True)
class TipAdapterF(TipAdapter):
    """As tip-adapter, and the keys are then trained: AdamW with eps 1e-4, cosine, the last epoch counts."""

    lr: float = 1e-3
    epochs: int = 20
    batch: int = 256

    def solve_head(self, support: Support) -> Solution:
        start = super().solve_head(support)
        x, labels, text = self.tensors(support)
        keys = torch.nn.Parameter(torch.from_numpy(support.features.astype(np.float32)))
        values = torch.from_numpy(start.values).float()
        zero_shot = support.scale * x @ text.T

        def loss(rows: torch.Tensor, epoch: int) -> torch.Tensor:
            cache = (start.sharpness * (x[rows] @ keys.T - 1)).exp() @ values
            return F.cross_entropy(zero_shot[rows] + cache, labels[rows])

        optimizer = torch.optim.AdamW([keys], lr=self.lr, eps=1e-4)
        descend(loss, optimizer, len(x), self.epochs, support.seed, self.batch)
        return Solution(keys=keys.detach().numpy(), values=start.values, sharpness=start.sharpness)
