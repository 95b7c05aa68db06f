"""What more labels would bring: a power law through the accuracy at growing numbers of labelled images.

The error falls as e(n) = e_inf + b n^-c (Hestness et al. 2017), n labels per class. The scores are those of a linear
probe on the frozen features, cross-validated at subsets of the labels, so that it takes seconds. By hand, because
scikit-learn's learning_curve counts images and not images per class. Few points say little about the curve far away
from them, so the interval is that of curves through resampled folds, each with an exponent that fits it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from ..data.sampling.folds import grouped_folds
from ..utils.errors import ConfigError
from ..utils.progress import Progress

EXPONENTS = np.geomspace(0.1, 2.0, 40)
RESAMPLES = 200
LEVEL = 0.9
FOLDS, SEEDS, SIZES = 5, 4, 6
_RIDGE = 0.3  # of the probe, times the number of features


@dataclass(frozen=True)
class Forecast:
    """The learning curve and where it goes. Scores in percent, sizes in labels per class.

    sizes (S,) and scores (R, S): accuracy of each repetition. The error at n is floor + factor n^-exponent; in
    curves (B, 3) are these three numbers for every resampling.
    """

    sizes: np.ndarray
    scores: np.ndarray
    floor: float
    factor: float
    exponent: float
    curves: np.ndarray

    @property
    def now(self) -> float:
        """Labels per class at the end of the measured curve."""
        return float(self.sizes[-1])

    def accuracy(self, n: np.ndarray | float) -> np.ndarray:
        """The curve at n labels per class, in percent."""
        return np.asarray(100 - self.floor - self.factor * np.asarray(n, dtype=float) ** -self.exponent)

    def band(self, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper end, at each n, of nine tenths of the resampled curves."""
        floor, factor, exponent = (column[:, None] for column in self.curves.T)
        values = np.clip(100 - floor - factor * np.asarray(n, dtype=float)[None] ** -exponent, 0, 100)
        low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        return low, high

    def gain(self, more: float) -> tuple[float, float, float]:
        """(gain, low, high) in points of accuracy that `more` labels per class would bring."""
        now, then = self.now, self.now + more
        floor, factor, exponent = self.curves.T
        left = np.maximum(floor + factor * now**-exponent, 0)  # errors that there are to lose
        gains = np.minimum(factor * (now**-exponent - then**-exponent), left)
        low, high = np.quantile(gains, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        gain = self.factor * (now**-self.exponent - then**-self.exponent)
        return gain, min(float(low), gain), max(float(high), gain)

    def sentence(self, more: int) -> str:
        """ "20 more labels per class: about +1.8 ± 0.9 points"."""
        gain, low, high = self.gain(more)
        return f"{more} more labels per class: about +{gain:.1f} ± {(high - low) / 2:.1f} points"


def fit_curve(sizes: Sequence[float] | np.ndarray, scores: np.ndarray, folds: int = FOLDS, seed: int = 0) -> Forecast:
    """The forecast from accuracies (R, S) in percent of R repetitions at S sizes.

    A resampling draws only as many repetitions as there are `folds`: repetitions with other seeds see the same images
    again, and say less than new images would. Raises ConfigError for less than three sizes or two repetitions.
    """
    n, scores = np.asarray(sizes, dtype=float), np.asarray(scores, dtype=float)
    if len(n) < 3 or scores.ndim != 2 or scores.shape[0] < 2 or scores.shape[1] != len(n):
        raise ConfigError(f"a forecast needs three sizes and two repetitions, got scores {scores.shape} at {len(n)}")
    order = np.argsort(n)
    n, scores = n[order], scores[:, order]
    spread, rng = _spread(scores), np.random.default_rng(seed)
    fits, costs = _power_laws(n, scores.mean(axis=0)[None], spread)
    floor, factor, exponent = fits[0, costs[0].argmin()].tolist()
    drawn = rng.integers(len(scores), size=(RESAMPLES, min(folds, len(scores))))
    fits, costs = _power_laws(n, scores[drawn].mean(axis=1), spread, lowest=-np.inf)
    likely = np.exp(-0.5 * (costs - costs.min(axis=1, keepdims=True)))
    chosen = (likely.cumsum(axis=1) < rng.random((RESAMPLES, 1)) * likely.sum(axis=1, keepdims=True)).sum(axis=1)
    return Forecast(n, scores, floor, factor, exponent, fits[np.arange(RESAMPLES), chosen])


def _spread(scores: np.ndarray) -> np.ndarray:
    """(S,) how far a mean over repetitions may be off at each size; never quite nothing."""
    deviation = scores.std(axis=0, ddof=1)
    return np.asarray(np.sqrt(deviation**2 + deviation.mean() ** 2 + 0.01) / np.sqrt(2 * len(scores)))


def _power_laws(
    n: np.ndarray, scores: np.ndarray, spread: np.ndarray, lowest: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """For curves (B, S) and every exponent: the error's (floor, factor, exponent) with least squares, the floor not
    below `lowest` and the factor not below 0, as (B, exponents, 3), and the squares themselves (B, exponents).

    Resampled curves may have any floor: were their luck cut off at 0, slow laws would hardly be among them.
    """
    shape, weight, error = n[:, None] ** -EXPONENTS, spread**-2, 100 - scores  # (S, exponents), (S,), (B, S)
    total, first, second = weight.sum(), weight @ shape, weight @ shape**2
    level, slope = error @ weight, (error * weight) @ shape  # (B,), (B, exponents)
    factor = (total * slope - first * level[:, None]) / (total * second - first**2)
    floor = (level[:, None] - factor * first) / total
    flat, sunk = factor < 0, (factor >= 0) & (floor < lowest)  # the least squares are then on the border
    factor = np.where(flat, 0.0, np.where(sunk, slope / second, factor))
    floor = np.where(flat, level[:, None] / total, np.where(sunk, 0.0, floor))
    rest = error[:, :, None] - floor[:, None] - factor[:, None] * shape
    return np.stack([floor, factor, np.broadcast_to(EXPONENTS, floor.shape)], axis=2), weight @ rest**2


def forecast(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Forecast:
    """The forecast from frozen features (N, E) of labelled images, labels (N,).

    `groups` (N,) are images that show the same: they are never on both sides of a fold. Raises ConfigError when there
    are too few images: it takes two classes and eight images of a class on average.
    """
    classes, labels = np.unique(labels, return_inverse=True)
    groups = np.arange(len(labels)) if groups is None else groups
    largest = len(labels) * (FOLDS - 1) / FOLDS / max(len(classes), 1)
    sizes = np.unique(np.geomspace(2, max(largest, 2), SIZES).astype(int))
    if len(classes) < 2 or len(sizes) < 3:
        raise ConfigError("a forecast needs two classes and eight images of a class on average; add labelled images")
    if (different := len(np.unique(groups))) < FOLDS:
        raise ConfigError(f"a forecast needs {FOLDS} groups of images that differ, got {different}; add images")
    centred = features - features.mean(axis=0)
    centred = centred / max(float(np.sqrt(np.square(centred).mean())), 1e-12)
    scores = []
    for repetition in range(SEEDS):
        rng = np.random.default_rng([seed, repetition])
        fold = grouped_folds(labels, groups, FOLDS, int(rng.integers(2**31)))
        for held in range(FOLDS):
            scores.append(_learning_curve(centred, labels, fold == held, sizes, rng))
            if progress is not None:
                progress("forecasting", len(scores), SEEDS * FOLDS)
    return fit_curve(_reached(labels, sizes), np.array(scores), FOLDS, seed)


def _reached(labels: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Labels per class at each size, on average: a class with fewer gives all it has to a fold's training part."""
    counts = np.bincount(labels) * (FOLDS - 1) / FOLDS
    return np.array([np.minimum(counts, size).mean() for size in sizes])


def _learning_curve(
    features: np.ndarray, labels: np.ndarray, held: np.ndarray, sizes: np.ndarray, rng: np.random.Generator
) -> list[float]:
    """Accuracy in percent on the images held out, of probes trained on the first k of each class of the others."""
    order = rng.permutation(np.flatnonzero(~held))
    rank = np.empty(len(order), dtype=np.int64)
    for c in np.unique(labels[order]):
        members = labels[order] == c
        rank[members] = np.arange(members.sum())
    curve = []
    for size in sizes:
        rows = order[rank < size]
        curve.append(100 * _probe(features[rows], labels[rows], features[held], labels[held]))
    return curve


def _probe(features: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray) -> float:
    """Accuracy of a linear classifier in closed form (ridge regression on the classes)."""
    from sklearn.linear_model import RidgeClassifier

    if len(np.unique(labels)) < 2:
        return float((truth == labels[0]).mean())
    probe = RidgeClassifier(alpha=_RIDGE * features.shape[1])
    return cast(float, probe.fit(features, labels).score(test, truth))
