"""ProKeR: the texts corrected by a kernel ridge regression on the images.

Bendou et al. 2025, "ProKeR: A Kernel Perspective on Few-Shot Adaptation of Large Vision-Language Models" (2501.11175;
code: omarnust/BReg-Adapter). With features f, those of the N images X, their labels Y in one-hot form, texts T and the
kernel k(x, y) = exp(-beta (1 - x y)),

    A = (K / strength + I)^-1 (Y - X T^T),    logits = c (T f + k(f, X) A).

beta and the strength are those that the authors chose on ImageNet for each number of shots, and nothing is tuned. The
factor c, which changes no answer, is the one under which images left out are most likely. With M = K / strength + I,
without image i the regression misses Y_i - T f_i there by A_i / (M^-1)_ii, so that no second solution is needed. With
the Cholesky factor L of M, (M^-1)_ii is the squared length of L^-1 e_i. Only the lower half of M is in memory.
Stored: N E keys, N C values, C E texts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.linalg import lapack

from ..nn.head_spec import HeadSpec
from ..nn.support import Solution, Support
from ..utils.errors import ConfigError
from .left_out import judges, losses
from .registry import METHODS
from .text_prior import KEYS, TextPrior, one_hot, shots

BY_SHOTS = {1: (3.0, 0.05), 2: (2.6, 0.05), 4: (1.5, 0.05), 8: (1.66, 0.07), 16: (1.7, 0.1)}
"""Images per class -> beta and strength (of CLIP RN50 and ViT on ImageNet)."""
FACTORS = np.geomspace(1, 1000, 31)
_COLUMNS = 256  # that are made or solved for at a time


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
        factor = cholesky(lambda a, b: np.exp(beta * (x[a] @ x[b].T - 1)) / strength, len(x))
        missing = -text @ x.T
        missing[labels, np.arange(len(x))] += 1
        values, _ = lapack.dpftrs(len(x), factor, missing.T, uplo="L", overwrite_b=1)  # (N, C)
        rows = judges(labels, classes)
        if not len(rows):
            rows = np.arange(len(labels))  # each of them is left out, and then known by its text alone
        zero_shot = x[rows] @ text.T
        moves = values[rows] / diagonal_of_inverse(factor, len(x), rows)[:, None]
        known = one_hot(labels[rows], classes) - zero_shot - moves
        left_out = zero_shot + strength * known
        best = FACTORS[int(np.argmin(losses(left_out, labels[rows], 1 / FACTORS)))]
        values *= best
        return Solution(best * text, np.zeros(classes), x, values, beta)


def cholesky(kernel: Callable[[slice, slice], np.ndarray], n: int) -> np.ndarray:
    """The factor L of kernel + I (n, n), as the n (n + 1) / 2 numbers of LAPACK's rectangular full packed format.

    kernel(rows, columns): a part of the symmetric matrix. Gustavson et al. 2010: with h = n / 2 rounded up, column j of
    the table holds column j of the matrix from its diagonal down, and above it column h + j (h + j - 1 if n is odd)
    from row h to its diagonal. Raises ConfigError when there is no factor.
    """
    odd, half = n % 2, n - n // 2
    even, flat = 1 - odd, np.empty(n * (n + 1) // 2)
    table = flat.reshape(n + even, half, order="F")
    for start in range(0, half, _COLUMNS):
        stop = min(start + _COLUMNS, half)
        columns, height = slice(start, stop), stop - odd
        table[start + even :, columns] = kernel(slice(start, n), columns)
        above = np.arange(height)[:, None] < np.arange(start, stop) + even
        upper = kernel(slice(half, half + height), slice(half + start - odd, half + stop - odd))
        np.copyto(table[:height, columns], upper, where=above)
    first, second = np.arange(half), np.arange(n - half)
    table[first + even, first] += 1
    table[second, second + odd] += 1
    factor, failed = lapack.dpftrf(n, flat, uplo="L", overwrite_a=1)
    if failed:
        raise ConfigError("proker: no kernel with these numbers; beta and strength must be positive, strength not tiny")
    return np.asarray(factor)


def diagonal_of_inverse(factor: np.ndarray, n: int, rows: np.ndarray) -> np.ndarray:
    """((L L^T)^-1)_ii of the `rows` i, of a factor L made by `cholesky`."""
    found = []
    for start in range(0, len(rows), _COLUMNS):
        part = rows[start : start + _COLUMNS]
        units = np.zeros((n, len(part)), order="F")
        units[part, np.arange(len(part))] = 1
        found.append(np.square(lapack.dtfsm(1.0, factor, units, uplo="L", overwrite_b=1)).sum(axis=0))
    return np.concatenate(found)
