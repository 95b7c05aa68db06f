"""Discriminant: a head in closed form on the features of the last blocks; the backbone stays as it is.

Linear discriminant analysis with a shrunk covariance (Friedman 1989, "Regularized Discriminant Analysis"; Wang et al.
2024, 2402.04087, for features of CLIP). With class means m_c (E,), the pooled covariance S (E, E) within classes, and
S_l = (1 - l) S + l tr(S) / E I,

    w_c = S_l^-1 m_c / T,    b_c = -m_c w_c / 2    (every class equally likely beforehand).

The shrinkage l and the temperature T are those of the smallest negative log-likelihood of training images left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax

from ..nn.head_spec import HeadSpec
from ..nn.surgery import Method
from ..utils.errors import ConfigError
from .registry import METHODS

Array = npt.NDArray[np.float64]
SHRINKAGES = (0.003, 0.01, 0.03, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 0.95)
TEMPERATURES = np.geomspace(0.25, 2000, 90)
ONE_BY_ONE, PARTS = 120, 5  # up to so many images each is left out alone, above that a fifth at a time
SINGLE = 10.0  # factor of the cosine where every class has one image
FAR = -1e9  # bias of a class without images, which is then never answered


@METHODS.register("discriminant")
@dataclass(frozen=True)
class Discriminant(Method):
    """Regularised linear discriminant in closed form on the last blocks' features; nothing is trained by gradient."""

    default_head: ClassVar[HeadSpec | None] = HeadSpec(length="unit", blocks=3, mirror=True)

    def adapt(self, vit: object) -> None:
        return None

    def solve_head(self, features: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
        """Weight (C, E) and bias (C,). Raises ConfigError for several labels per image."""
        if labels.ndim != 1:
            raise ConfigError("discriminant takes one label per image; use linear-probe for several")
        x = features.astype(np.float64)
        if np.bincount(labels).max() < 2:  # nothing tells how images of one class differ
            return SINGLE * x[np.argsort(labels)], np.zeros(classes)
        shrinkage, temperature = _chosen(x, labels, classes)
        ((weight, bias),) = discriminants(x, labels, classes, (shrinkage,))
        return weight / temperature, bias / temperature


def discriminants(
    x: Array, labels: np.ndarray, classes: int, shrinkages: tuple[float, ...]
) -> list[tuple[Array, Array]]:
    """Weight (C, E) and bias (C,) for each shrinkage, at temperature 1; a class without images is never answered.

    x (N, E), labels (N,). One decomposition of the smaller of (N, N) and (E, E) serves all shrinkages.
    """
    counts = np.bincount(labels, minlength=classes)
    means = np.zeros((classes, x.shape[1]))
    np.add.at(means, labels, x)
    means /= np.maximum(counts, 1)[:, None]
    inner = (x - means[labels]) / np.sqrt(max(len(x) - np.count_nonzero(counts), 1))  # (N, E): S = inner^T inner
    if len(x) < x.shape[1]:
        values, left = np.linalg.eigh(inner @ inner.T)
        large = values > 1e-10 * max(values[-1], 1e-12)
        values, axes = values[large], inner.T @ left[:, large] / np.sqrt(values[large])  # (E, K)
    else:
        values, axes = np.linalg.eigh(inner.T @ inner)
    mean_value = max(values.sum() / x.shape[1], 1e-12)
    along = means @ axes  # (C, K)
    found = []
    for shrinkage in shrinkages:
        floor = shrinkage * mean_value
        weight = means / floor + along * (1 / ((1 - shrinkage) * values + floor) - 1 / floor) @ axes.T
        bias = -0.5 * (weight * means).sum(axis=1)
        bias[counts == 0] = FAR * abs(weight).max()
        found.append((weight, bias))
    return found


def _chosen(x: Array, labels: np.ndarray, classes: int) -> tuple[float, float]:
    """The shrinkage and the temperature that predict images left out best."""
    logits = np.zeros((len(SHRINKAGES), len(x), classes))
    parts = len(x) if len(x) <= ONE_BY_ONE else PARTS
    part = np.empty(len(x), dtype=np.int64)
    part[np.argsort(labels, kind="stable")] = np.arange(len(x)) % parts  # every part has its share of every class
    for number in range(parts):
        rest, out = part != number, part == number
        for i, (weight, bias) in enumerate(discriminants(x[rest], labels[rest], classes, SHRINKAGES)):
            logits[i, out] = x[out] @ weight.T + bias
    rows = np.flatnonzero(np.bincount(labels)[labels] > 1)  # an image alone in its class cannot be known without it
    right, doubt = np.eye(classes)[labels[rows]], 1 / (len(rows) + 1)  # no more certain than so many images allow
    target = (1 - doubt) * right + doubt / classes
    losses = [[-(target * log_softmax(own / t, axis=1)).sum() for t in TEMPERATURES] for own in logits[:, rows]]
    best, temperature = np.unravel_index(np.argmin(losses), (len(SHRINKAGES), len(TEMPERATURES)))
    return SHRINKAGES[best], float(TEMPERATURES[temperature])
