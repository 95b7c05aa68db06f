"""ProKeR: the texts corrected by a kernel ridge regression on the images.

Bendou et al. 2025, "ProKeR: A Kernel Perspective on Few-Shot Adaptation of Large Vision-Language Models" (2501.11175;
code: omarnust/BReg-Adapter). With features f, those of the N images X, their labels Y in one-hot form, texts T and the
kernel k(x, y) = exp(-beta (1 - x y)),

    A = (K / strength + I)^-1 (Y - X T^T),    logits = c (T f + k(f, X) A).

beta and the strength are those that the authors chose on ImageNet for each number of shots, and nothing is tuned. The
factor c, which changes no answer, is the one under which images left out are most likely. With M = K / strength + I,
without image i the regression misses Y_i - T f_i there by A_i / (M^-1)_ii, so that no second solution is needed.
Stored: N E keys, N C values, C E texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.linalg import cho_factor, cho_solve, lapack

from ..nn.head_spec import HeadSpec
from ..nn.support import Solution, Support
from .left_out import judges, losses
from .registry import METHODS
from .text_prior import KEYS, TextPrior, one_hot, shots

BY_SHOTS = {1: (3.0, 0.05), 2: (2.6, 0.05), 4: (1.5, 0.05), 8: (1.66, 0.07), 16: (1.7, 0.1)}
"""Images per class -> beta and strength (of CLIP RN50 and ViT on ImageNet)."""
FACTORS = np.geomspace(1, 1000, 31)


@METHODS.register("proker")
@dataclass(frozen=True)
class ProKeR(TextPrior):
    """c (T f + k(f, X) A) with A = (K / strength + I)^-1 (Y - X T^T) and k(x, y) = exp(-beta (1 - x y)).

    beta and strength: 0 for the published ones of the nearest number of shots.
    """

    beta: float = 0.0
    strength: float = 0.0

    default_head: ClassVar[HeadSpec | None] = KEYS

    def solve_head(self, support: Support) -> Solution:
        text = self.texts(support).astype(np.float64)
        x, labels, classes = support.features.astype(np.float64), support.labels, support.classes
        nearest = min(BY_SHOTS, key=lambda known: abs(np.log(known / shots(support))))
        beta, strength = self.beta or BY_SHOTS[nearest][0], self.strength or BY_SHOTS[nearest][1]
        kernel = np.exp(beta * (x @ x.T - 1)) / strength
        kernel[np.diag_indices(len(x))] += 1
        right = one_hot(labels, classes)
        factor = cho_factor(kernel, lower=True, overwrite_a=True, check_finite=False)
        zero_shot = x @ text.T
        values = cho_solve(factor, right - zero_shot, check_finite=False)  # (N, C)
        inverse, _ = lapack.dpotri(factor[0], lower=1, overwrite_c=1)
        rows = judges(labels, classes)
        if not len(rows):
            rows = np.arange(len(labels))  # each of them is left out, and then known by its text alone
        known = right[rows] - zero_shot[rows] - values[rows] / np.diag(inverse)[rows, None]
        left_out = zero_shot[rows] + strength * known
        best = FACTORS[int(np.argmin(losses(left_out, labels[rows], 1 / FACTORS)))]
        return Solution(best * text, np.zeros(classes), x, best * values, beta)
