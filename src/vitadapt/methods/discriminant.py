"""Discriminant: a head in closed form on the features of the last blocks; the backbone stays as it is.

Linear discriminant analysis with a shrunk covariance (Friedman 1989, "Regularized Discriminant Analysis"; Wang et al.
2024, 2402.04087, for features of CLIP). With class means m_c (E,), the pooled covariance S_w (E, E) within classes, the
covariance S_v of the versions of an image (as it is, mirrored, zoomed and shifted) about their mean, S = S_w + 4 S_v,
and S_l = (1 - l) S + l tr(S) / E I,

    w_c = S_l^-1 m_c / T,    b_c = -m_c w_c / 2    (every class equally likely beforehand).

S_v says from each single image which directions tell nothing about its class. The shrinkage l and the temperature T are
those of the smallest negative log-likelihood of training images left out. What was tried: docs/experiments.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..nn.head_spec import HeadSpec
from ..nn.support import Solution, Support
from ..nn.surgery import Method
from .class_statistics import Array, principal_axes
from .left_out import judges, left_out_logits, losses, parts_of
from .registry import METHODS

Heads = Callable[[np.ndarray], list[tuple[Array, Array]]]
"""A mask (N,) of images -> weight and bias for each of SHRINKAGES, made of these images."""
SHRINKAGES = (0.003, 0.01, 0.03, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 0.95)
TEMPERATURES = np.geomspace(0.25, 2000, 90)
SPREAD = 4.0  # weight of the covariance of versions
SINGLE = 10.0  # factor of the cosine where every class has one image
FAR = -1e9  # bias of a class without images, which is then never answered


@METHODS.register("discriminant")
@dataclass(frozen=True)
class Discriminant(Method):
    """Regularised linear discriminant in closed form on the last blocks' features; nothing is trained by gradient."""

    default_head: ClassVar[HeadSpec | None] = HeadSpec(length="unit", blocks=3, mirror=True)
    reads_versions: ClassVar[bool] = True
    several_labels: ClassVar[bool] = False
    learns_prior: ClassVar[bool] = False

    def adapt(self, vit: object) -> None:
        return None

    def solve_head(self, support: Support) -> Solution:
        x, labels, classes = support.features.astype(np.float64), support.labels, support.classes
        if np.bincount(labels).max() < 2:
            return Solution(*single(x, labels, classes))
        spread = None if support.versions is None else deviations(support.versions.astype(np.float64))

        def heads(rest: np.ndarray) -> list[tuple[Array, Array]]:
            return discriminants(x[rest], labels[rest], classes, SHRINKAGES, None if spread is None else spread[rest])

        found = chosen(x, labels, classes, heads)
        ((weight, bias),) = discriminants(x, labels, classes, (found.shrinkage,), spread)
        return Solution(weight / found.temperature, bias / found.temperature)


def single(x: Array, labels: np.ndarray, classes: int) -> tuple[Array, Array]:
    """Weight (C, E) and bias (C,) where no class has two images: nothing tells how images of one class differ."""
    weight, bias = np.zeros((classes, x.shape[1])), np.full(classes, FAR)
    weight[labels], bias[labels] = SINGLE * x, 0.0
    return weight, bias


def deviations(versions: Array) -> Array:
    """(N, V, E) how each version differs from the mean of its image, so that SPREAD S_v is the mean square over N."""
    count = len(versions)
    return np.asarray((versions - versions.mean(axis=0)).swapaxes(0, 1) * np.sqrt(SPREAD / max(count - 1, 1)))


def discriminants(
    x: Array, labels: np.ndarray, classes: int, shrinkages: tuple[float, ...], spread: Array | None = None
) -> list[tuple[Array, Array]]:
    """Weight (C, E) and bias (C,) for each shrinkage, at temperature 1; a class without images is never answered.

    x (N, E), labels (N,), spread (N, V, E) of `deviations`, or None. One decomposition of the smaller of (K, K) and
    (E, E) serves all shrinkages; K = N + N V.
    """
    counts = np.bincount(labels, minlength=classes)
    means = np.zeros((classes, x.shape[1]))
    np.add.at(means, labels, x)
    means /= np.maximum(counts, 1)[:, None]
    inner = (x - means[labels]) / np.sqrt(max(len(x) - np.count_nonzero(counts), 1))
    if spread is not None:
        inner = np.concatenate([inner, spread.reshape(-1, x.shape[1]) / np.sqrt(len(x))])  # (K, E): S = inner^T inner
    return heads_of(inner, means, counts, shrinkages)


def heads_of(
    inner: Array, means: Array, counts: np.ndarray, shrinkages: tuple[float, ...]
) -> list[tuple[Array, Array]]:
    """As `discriminants`, from rows (K, E) whose product with themselves is S, class means (C, E) and counts (C,)."""
    values, axes = principal_axes(inner)
    mean_value = max(values.sum() / inner.shape[1], 1e-12)
    along = means @ axes  # (C, K)
    found = []
    for shrinkage in shrinkages:
        floor = shrinkage * mean_value
        weight = means / floor + along * (1 / ((1 - shrinkage) * values + floor) - 1 / floor) @ axes.T
        bias = -0.5 * (weight * means).sum(axis=1)
        bias[counts == 0] = FAR * abs(weight).max()
        found.append((weight, bias))
    return found


@dataclass(frozen=True)
class Chosen:
    """The shrinkage and the temperature that predict images left out best; rows (n,) of these and their logits (n, C).

    Without these images a class mean is less sure, and the logits are smaller: the temperature is lowered for it.
    """

    shrinkage: float
    temperature: float
    rows: np.ndarray
    logits: np.ndarray


def chosen(x: Array, labels: np.ndarray, classes: int, heads: Heads) -> Chosen:
    """Of x (N, E) and labels (N,), one class of which has two images at least; heads: those of some images, a mask."""
    rows = judges(labels, classes)

    def solve(rest: np.ndarray, out: np.ndarray) -> np.ndarray:
        return np.stack([x[out] @ weight.T + bias for weight, bias in heads(rest)])

    logits = left_out_logits(labels, classes, rows, solve)  # (S, n, C)
    table = np.stack([losses(own, labels[rows], TEMPERATURES) for own in logits])
    best, temperature = np.unravel_index(np.argmin(table), table.shape)
    # the share of a class that is not left out
    left = 1 - max(len(np.unique(labels)) / len(x), 1 / (parts_of(labels).max() + 1))
    return Chosen(
        SHRINKAGES[best],
        float(TEMPERATURES[temperature]) * left,
        rows,
        logits[best] / TEMPERATURES[temperature],
    )
