"""What a head in closed form is made of: how many images a class has, their mean, and how images of one class differ.

Images can be added and classes added or removed without the others' images. With class means m_c (E,) and the features
x_i of the N images, the scatter within classes is the sum over i of (x_i - m_y) (x_i - m_y)^T.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import reduce
from itertools import chain

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
CHUNK = 4096  # images whose features are in float64 at a time


@dataclass(frozen=True)
class Axes:
    """The covariance within classes, (E, E), as axes (E, K) with their values (K,), and its mean value over E axes."""

    values: Array
    axes: Array
    mean_value: float


@dataclass(frozen=True)
class ClassStatistics:
    """Features of C classes. Each image is kept by itself, or was summed up with others of its class.

    x: (N, E) of the images kept by themselves, in any precision; labels: (N,). Of the others: how many there are of
    each class (C,), their means (C, E), and a factor (K, E) whose product with itself is their scatter within classes.
    """

    x: np.ndarray
    labels: npt.NDArray[np.int64]
    summed: npt.NDArray[np.int64]
    summed_means: Array
    factor: Array
    versions: Array

    @classmethod
    def of(cls, x: np.ndarray, labels: np.ndarray, classes: int, versions: np.ndarray | None = None) -> ClassStatistics:
        """All images (N, E) by themselves."""
        none, nothing = np.zeros((classes, x.shape[1])), np.zeros((0, x.shape[1]))
        more = nothing if versions is None else versions.astype(np.float64)
        return cls(x, labels.astype(np.int64), np.zeros(classes, dtype=np.int64), none, nothing, more)

    @property
    def classes(self) -> int:
        return len(self.summed)

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """(C,) images of each class."""
        return self.summed + np.bincount(self.labels, minlength=self.classes)

    @property
    def means(self) -> Array:
        """(C, E); zeros for a class without images."""
        sums = self.summed[:, None] * self.summed_means
        sums += class_sums(self.x, self.labels, self.classes, np.arange(len(self.x)))
        return np.asarray(sums / np.maximum(self.counts, 1)[:, None])

    def inner(self) -> Iterator[Array]:
        """Blocks of rows (K, E) whose product with themselves is the covariance."""
        means, counts = self.means, self.counts
        moved = np.sqrt(self.summed)[:, None] * (self.summed_means - means)
        scale = np.sqrt(max(counts.sum() - np.count_nonzero(counts), 1))
        for rows in chunks(np.arange(len(self.x))):
            yield (self.x[rows] - means[self.labels[rows]]) / scale
        yield np.concatenate([self.factor / scale, moved[self.summed > 0] / scale, self.versions])

    def axes(self) -> Axes:
        """The covariance."""
        values, axes = principal_axes(self.inner())
        return Axes(values, axes, max(values.sum() / self.x.shape[1], 1e-12))

    def with_images(self, x: np.ndarray, labels: np.ndarray, classes: int) -> ClassStatistics:
        """With more images (M, E); labels may name new classes, behind the old ones, up to `classes`."""
        more = classes - self.classes
        return replace(
            self,
            x=np.concatenate([self.x, x.astype(np.float64)]),
            labels=np.concatenate([self.labels, labels.astype(np.int64)]),
            summed=np.pad(self.summed, (0, more)),
            summed_means=np.pad(self.summed_means, ((0, more), (0, 0))),
        )

    def merged(self) -> ClassStatistics:
        """All images as those of one class."""
        count = max(int(self.summed.sum()), 1)
        mean = self.summed @ self.summed_means / count
        between = np.sqrt(self.summed)[:, None] * (self.summed_means - mean)
        factor = np.concatenate([self.factor, between[self.summed > 0]])
        summed = np.array([self.summed.sum()])
        nothing = self.versions[:0]
        return ClassStatistics(self.x, np.zeros_like(self.labels), summed, mean[None], factor, nothing)

    def take(self, rows: np.ndarray) -> ClassStatistics:
        """Of the images kept by themselves only `rows`, a mask (N,) or numbers; and all that were summed up."""
        return replace(self, x=self.x[rows], labels=self.labels[rows])

    def without(self, removed: int) -> ClassStatistics:
        """Without one class; the later ones move up. The factor keeps what was summed up of how its images differed."""
        own = self.labels != removed
        labels = self.labels[own]
        return replace(
            self,
            x=self.x[own],
            labels=labels - (labels > removed),
            summed=np.delete(self.summed, removed),
            summed_means=np.delete(self.summed_means, removed, axis=0),
        )

    def summed_up(self) -> ClassStatistics:
        """The same statistics, of which no image can be told any more: C E + 2 E E numbers at most."""
        nothing, counts = np.zeros((0, self.x.shape[1])), self.counts
        found = replace(self, versions=nothing).axes()
        scale = np.sqrt(found.values.clip(0) * max(counts.sum() - np.count_nonzero(counts), 1))
        factor = (found.axes * scale).T
        return ClassStatistics(nothing, self.labels[:0], counts, self.means, factor, self.versions)


def chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Rows (N,) in pieces of CHUNK."""
    return (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))


def class_sums(x: np.ndarray, labels: np.ndarray, classes: int, rows: np.ndarray) -> Array:
    """(C, E) sums of the features x (N, E) of those images `rows` (n,) that are of each class."""
    sums = np.zeros((classes, x.shape[1]))
    for own in chunks(rows):
        np.add.at(sums, labels[own], x[own].astype(np.float64))
    return sums


def principal_axes(blocks: Iterable[Array]) -> tuple[Array, Array]:
    """Blocks of rows, (K, E) in all -> the eigenvalues (L,) and eigenvectors (E, L) of their product with themselves
    that matter.

    By one decomposition of the smaller of (K, K) and (E, E).
    """
    inner, product = added_up(blocks)
    if product is not None:
        values, axes = np.linalg.eigh(product)
        return values, axes
    values, left = np.linalg.eigh(inner @ inner.T)
    large = values > 1e-10 * max(values[-1], 1e-12) if len(values) else np.zeros(0, dtype=bool)
    return values[large], inner.T @ left[:, large] / np.sqrt(values[large])


def compact(blocks: Iterable[Array]) -> Array:
    """(min(K, E), E) rows with the same product with themselves."""
    inner, product = added_up(blocks)
    if product is None:
        return inner
    values, axes = np.linalg.eigh(product)
    return np.asarray((axes * np.sqrt(values.clip(0))).T)


def added_up(blocks: Iterable[Array]) -> tuple[Array, Array | None]:
    """The rows (K, E), and None; of E rows and more only their product with themselves (E, E) counts."""
    blocks = iter(blocks)
    inner = next(blocks)
    for block in blocks:
        if len(inner) >= inner.shape[1]:
            return inner[:0], product(chain([inner, block], blocks))
        inner = np.concatenate([inner, block])
    return (inner[:0], product([inner])) if len(inner) >= inner.shape[1] else (inner, None)


def product(blocks: Iterable[Array]) -> Array:
    """(E, E) of the rows of all blocks with themselves."""
    return reduce(np.add, (block.T @ block for block in blocks))
