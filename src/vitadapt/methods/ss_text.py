"""SS-Text: the text of a class moved towards its images, in closed form.

Silva-Rodríguez et al. 2025, "A Few-Shot Learning Solver for Vision-Language Models" (2506.17500, 2506.06076; code:
jusiro/SS-Text). With features f_i of N images, n_c of them of class c, texts t_c and the scale s of the logits,

    w_c = t_c + (1 / N) (1 / lambda_c) sum_{i in c} s f_i,    logits = s cos(f, w_c),

where lambda_c = 1 / n_c, or 1 / N if `balanced`, and at least 0.001. Nothing is chosen. Stored: C E.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..nn.support import Solution, Support
from .registry import METHODS
from .text_prior import TextPrior, one_hot

LEAST = 1e-3  # of lambda, as in the published code


@METHODS.register("ss-text")
@dataclass(frozen=True)
class SSText(TextPrior):
    """w_c = t_c + (1 / (N lambda_c)) sum of s f_i over the images of class c; logits s cos(f, w_c)."""

    balanced: bool = False

    learns_prior: ClassVar[bool] = False

    def solve_head(self, support: Support) -> Solution:
        text, labels, classes = self.texts(support).astype(np.float64), support.labels, support.classes
        counts, count = np.bincount(labels, minlength=classes), len(labels)
        regularisation = np.full(classes, 1 / count) if self.balanced else 1 / np.maximum(counts, 1)
        sums = one_hot(labels, classes).T @ support.features  # (C, N) (N, E)
        weight = text + support.scale * sums / (count * np.maximum(regularisation, LEAST))[:, None]
        weight /= np.linalg.norm(weight, axis=1, keepdims=True)
        return Solution(support.scale * weight, np.zeros(classes))
