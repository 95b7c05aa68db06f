"""GDA-CLIP: a Gaussian discriminant of the images added to the logits of the texts.

Wang et al. 2024, "A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation" (2402.04087; code: mrflogs/ICLR24).
With the features of all versions of all images, n in number and of width E, class means m_c, and the covariance S of
the features about the mean of their class,

    P = E ((n - 1) S + tr(S) I)^+,    W = M P,    b_c = ln(1 / C) - m_c P m_c / 2,
    logits = s T f + alpha (W f + b).

The published code reads ten random versions of each image and chooses alpha, a power of ten from 1e-4 to 100, on
validation images. Here there are five versions (as it is, mirrored, three zoomed and shifted), and alpha is the one
that predicts images left out best; at one shot, where none can be left out, the middle one, 0.1. Stored: C (E + 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..nn.support import Solution, Support
from .class_statistics import Array, chunks, class_sums, product
from .left_out import judges, left_out_logits, losses
from .registry import METHODS
from .text_prior import TextPrior

ALPHAS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
ALPHA = 0.1  # at one shot


@METHODS.register("gda-clip")
@dataclass(frozen=True)
class GDAClip(TextPrior):
    """s T f + alpha (W f + b), where W and b are a Gaussian discriminant of the images; nothing is trained.

    alpha: 0 for what predicts images left out best.
    """

    alpha: float = 0.0

    reads_versions: ClassVar[bool] = True
    learns_prior: ClassVar[bool] = False

    def solve_head(self, support: Support) -> Solution:
        text = support.scale * self.texts(support).astype(np.float64)
        alpha = self.alpha or self.mix(support, text)
        weight, bias = gaussian(support)
        return Solution(text + alpha * weight, alpha * bias)

    def mix(self, support: Support, text: np.ndarray) -> float:
        """alpha; text: (C, E), the scale included."""
        x, rows = support.features, judges(support.labels, support.classes)
        if not len(rows):
            return ALPHA

        def solve(rest: np.ndarray, out: np.ndarray) -> np.ndarray:
            weight, bias = gaussian(support.take(rest))
            return np.asarray(x[out] @ weight.T + bias)

        logits = left_out_logits(support.labels, support.classes, rows, solve)
        zero_shot, labels = x[rows] @ text.T, support.labels[rows]
        found = [losses(zero_shot + alpha * logits, labels, np.ones(1))[0] for alpha in ALPHAS]
        return ALPHAS[int(np.argmin(found))]


def gaussian(support: Support) -> tuple[Array, Array]:
    """W (C, E) and b (C,); zero for a class without images, and everywhere where all features of a class are equal."""
    read = support.features[None] if support.versions is None else support.versions
    x, labels = read.reshape(-1, read.shape[-1]), np.tile(support.labels, len(read))
    rows, counts = np.arange(len(x)), np.bincount(labels, minlength=support.classes)
    means = class_sums(x, labels, support.classes, rows) / np.maximum(counts, 1)[:, None]
    covariance = product(x[own] - means[labels[own]] for own in chunks(rows)) / max(len(x) - 1, 1)
    if np.trace(covariance) < 1e-9:
        return np.zeros_like(means), np.full(support.classes, -np.log(support.classes))
    whole = (len(x) - 1) * covariance + np.trace(covariance) * np.eye(x.shape[1])
    weight = x.shape[1] * np.linalg.solve(whole, means.T).T  # the sum is positive definite
    bias = -np.log(support.classes) - 0.5 * (weight * means).sum(axis=1)
    return weight, bias
