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
from scipy.special import log_softmax

from ..nn.head_spec import HeadSpec
from ..nn.surgery import Method
from ..utils.errors import ConfigError
from .class_statistics import Array, principal_axes
from .registry import METHODS

Heads = Callable[[np.ndarray], list[tuple[Array, Array]]]
"""A mask (N,) of images -> weight and bias for each of SHRINKAGES, made of these images."""
SHRINKAGES = (0.003, 0.01, 0.03, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 0.95)
TEMPERATURES = np.geomspace(0.25, 2000, 90)
PARTS = 10  # a tenth of the images is left out at a time
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

    def solve_head(
        self, features: np.ndarray, labels: np.ndarray, classes: int, versions: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Weight (C, E) and bias (C,). Raises ConfigError for several labels per image."""
        if labels.ndim != 1:
            raise ConfigError("discriminant takes one label per image; use linear-probe for several")
        x = features.astype(np.float64)
        if np.bincount(labels).max() < 2:  # nothing tells how images of one class differ
            weight, bias = np.zeros((classes, x.shape[1])), np.full(classes, FAR)
            weight[labels], bias[labels] = SINGLE * x, 0.0
            return weight, bias
        spread = None if versions is None else deviations(versions.astype(np.float64))

        def heads(rest: np.ndarray) -> list[tuple[Array, Array]]:
            return discriminants(x[rest], labels[rest], classes, SHRINKAGES, None if spread is None else spread[rest])

        shrinkage, temperature = chosen(x, labels, classes, heads)
        ((weight, bias),) = discriminants(x, labels, classes, (shrinkage,), spread)
        return weight / temperature, bias / temperature


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


def parts_of(labels: np.ndarray) -> np.ndarray:
    """(N,) the number of the part with which each image is left out; every part has its share of every class."""
    part = np.empty(len(labels), dtype=np.int64)
    part[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % min(len(labels), PARTS)
    return part


def chosen(x: Array, labels: np.ndarray, classes: int, heads: Heads) -> tuple[float, float]:
    """The shrinkage and the temperature that predict images left out best; heads: those made of some images, a mask.

    Without these images a class mean is less sure, and the logits are smaller: the temperature is lowered for it.
    """
    logits = np.zeros((len(SHRINKAGES), len(x), classes))
    part = parts_of(labels)
    for number in np.unique(part):
        out = part == number
        for i, (weight, bias) in enumerate(heads(~out)):
            logits[i, out] = x[out] @ weight.T + bias
    rows = np.flatnonzero(np.bincount(labels)[labels] > 1)  # an image alone in its class cannot be known without it
    right, doubt = np.eye(classes)[labels[rows]], 1 / (len(rows) + 1)  # no more certain than so many images allow
    target = (1 - doubt) * right + doubt / classes
    losses = [[-(target * log_softmax(own / t, axis=1)).sum() for t in TEMPERATURES] for own in logits[:, rows]]
    best, temperature = np.unravel_index(np.argmin(losses), (len(SHRINKAGES), len(TEMPERATURES)))
    left = 1 - max(len(np.unique(labels)) / len(x), 1 / (part.max() + 1))  # share of a class that is not left out
    return SHRINKAGES[best], float(TEMPERATURES[temperature]) * left
