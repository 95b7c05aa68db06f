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

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..nn.head_spec import HeadSpec
from ..nn.support import Solution, Support
from ..nn.surgery import Method
from .class_statistics import Array, chunks, class_sums, principal_axes
from .left_out import judges, left_out_logits, losses, parts_of
from .registry import METHODS

Heads = Callable[[np.ndarray], Iterable[tuple[Array, Array]]]
"""Rows (n,) of images -> weight and bias for each of SHRINKAGES, made of these images."""
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
        if np.bincount(support.labels).max() < 2:
            return Solution(*single(support.features, support.labels, support.classes))
        found = chosen_for(support)
        ((weight, bias),) = discriminants(support, (found.shrinkage,))
        return Solution(weight / found.temperature, bias / found.temperature)


def single(x: np.ndarray, labels: np.ndarray, classes: int) -> tuple[Array, Array]:
    """Weight (C, E) and bias (C,) where no class has two images: nothing tells how images of one class differ."""
    weight, bias = np.zeros((classes, x.shape[1])), np.full(classes, FAR)
    weight[labels], bias[labels] = SINGLE * x.astype(np.float64), 0.0
    return weight, bias


def deviations(versions: np.ndarray) -> Array:
    """(n V, E) how each version (V, n, E) differs from the mean of its image, so that SPREAD S_v is the mean over n of
    their products with themselves.
    """
    count, wide = len(versions), versions.astype(np.float64)
    spread = (wide - wide.mean(axis=0)).swapaxes(0, 1) * np.sqrt(SPREAD / max(count - 1, 1))
    return np.asarray(spread.reshape(-1, versions.shape[2]))


def discriminants(
    support: Support, shrinkages: tuple[float, ...], rows: np.ndarray | None = None
) -> Iterator[tuple[Array, Array]]:
    """Weight (C, E) and bias (C,) for each shrinkage, at temperature 1; a class without images is never answered.

    Of the images `rows` (n,), or all, a chunk of them at a time.
    """
    rows = np.arange(len(support.labels)) if rows is None else rows
    counts = np.bincount(support.labels[rows], minlength=support.classes)
    means = class_sums(support.features, support.labels, support.classes, rows) / np.maximum(counts, 1)[:, None]
    scale = np.sqrt(max(len(rows) - np.count_nonzero(counts), 1))

    def inner() -> Iterator[Array]:
        for own in chunks(rows):
            block = (support.features[own] - means[support.labels[own]]) / scale
            if support.versions is None:
                yield block
            else:
                yield np.concatenate([block, deviations(support.versions[:, own]) / np.sqrt(len(rows))])

    return heads_of(inner(), means, counts, shrinkages)


def heads_of(
    inner: Iterable[Array], means: Array, counts: np.ndarray, shrinkages: tuple[float, ...]
) -> Iterator[tuple[Array, Array]]:
    """As `discriminants`, from blocks of rows (K, E) whose product with themselves is S, class means (C, E) and counts
    (C,). One decomposition serves all shrinkages.
    """
    values, axes = principal_axes(inner)
    mean_value = max(values.sum() / means.shape[1], 1e-12)
    along = means @ axes  # (C, K)
    for shrinkage in shrinkages:
        floor = shrinkage * mean_value
        weight = means / floor + along * (1 / ((1 - shrinkage) * values + floor) - 1 / floor) @ axes.T
        bias = -0.5 * (weight * means).sum(axis=1)
        bias[counts == 0] = FAR * abs(weight).max()
        yield weight, bias


@dataclass(frozen=True)
class Chosen:
    """The shrinkage and the temperature that predict images left out best; rows (n,) of these and their logits (n, C).

    Without these images a class mean is less sure, and the logits are smaller: the temperature is lowered for it.
    """

    shrinkage: float
    temperature: float
    rows: np.ndarray
    logits: np.ndarray


def chosen_for(support: Support) -> Chosen:
    """For the discriminant of `support`."""

    def heads(rows: np.ndarray) -> Iterator[tuple[Array, Array]]:
        return discriminants(support, SHRINKAGES, rows)

    return chosen(support.features, support.labels, support.classes, heads)


def chosen(x: np.ndarray, labels: np.ndarray, classes: int, heads: Heads) -> Chosen:
    """Of x (N, E) and labels (N,), one class of which has two images at least; heads: those of some images."""
    rows = judges(labels, classes)

    def solve(rest: np.ndarray, out: np.ndarray) -> np.ndarray:
        own = x[out].astype(np.float64)
        return np.stack([own @ weight.T + bias for weight, bias in heads(np.flatnonzero(rest))])

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
