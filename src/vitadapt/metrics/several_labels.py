"""Images that may have several labels: labels multi-hot (N, C), probabilities (N, C) of each class on its own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .scores import LEVELS

RESAMPLES, ELEMENTS = 1000, 5_000_000  # resamples, and numbers in memory at once
SEED = 0


def best_thresholds(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, ...]:
    """(C,) for each class the threshold with the largest F1; of equal ones, the nearest to 1/2.

    Thresholds lie half-way between neighbouring probabilities; a class that no image has gets 1/2.
    """
    return tuple(_best(own > 0, p) for own, p in zip(labels.T, probabilities.T, strict=True))


def _best(positive: np.ndarray, probability: np.ndarray) -> float:
    if not positive.any():
        return 0.5
    order = np.argsort(-probability, kind="stable")
    ranked, hits = probability[order].astype(np.float64), np.cumsum(positive[order])
    last = np.flatnonzero(np.append(np.diff(ranked) != 0, True))  # the images at and above ranked[last] are answered
    f1 = 2 * hits[last] / (last + 1 + positive.sum())
    cuts = (ranked[last] + np.append(ranked[last[:-1] + 1], 0.0)) / 2
    equal = cuts[f1 == f1.max()]
    return float(equal[np.argmin(np.abs(equal - 0.5))])


def decided(probabilities: np.ndarray, thresholds: tuple[float, ...] | np.ndarray) -> np.ndarray:
    """(N, C) bool: which labels an image gets."""
    return np.asarray(probabilities >= np.asarray(thresholds))


def class_scores(labels: np.ndarray, answers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Recall, precision and F1 (C,) of the labels `answers` (N, C) bool; nan where there is nothing to divide by."""
    both = (labels > 0) & answers
    right, true, given = both.sum(axis=0), (labels > 0).sum(axis=0), answers.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return right / true, right / given, 2 * right / (true + given)


def map_interval(labels: np.ndarray, probabilities: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Interval of the mean average precision (`eleven_point_map`): percentiles over resampled images (Efron, 1979)."""
    found = np.concatenate([_maps(labels, probabilities, weights) for weights in _weights(len(labels))])
    low, high = np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _weights(count: int) -> Iterator[np.ndarray]:
    """(R, N) how often each image was drawn in each of R resamples, as many at a time as memory allows."""
    random, step = np.random.default_rng(SEED), max(1, ELEMENTS // max(count, 1))
    for start in range(0, RESAMPLES, step):
        many = min(step, RESAMPLES - start)
        yield random.multinomial(count, np.full(count, 1 / count), size=many)


def _maps(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(R,) mean over the classes that occur in a resample."""
    scores = np.stack(
        [_average_precisions(own > 0, p, weights) for own, p in zip(labels.T, probabilities.T, strict=True)]
    )
    known = ~np.isnan(scores)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, scores, 0).sum(axis=0) / known.sum(axis=0))


def _average_precisions(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(R,) eleven-point average precision where image n counts `weights[r, n]` times; nan without a positive."""
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    drawn = weights[:, order]
    answered = np.cumsum(drawn, axis=1)[:, last]
    hits = np.cumsum(drawn * positive[order], axis=1)[:, last]
    total = hits[:, -1:]
    with np.errstate(invalid="ignore"):
        recall, precision = hits / total, np.nan_to_num(hits / answered)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]  # at this recall or above
    reached = np.stack([np.argmax(recall >= level - 1e-12, axis=1) for level in LEVELS], axis=1)  # (R, 11)
    found = np.take_along_axis(best, reached, axis=1).mean(axis=1)
    return np.asarray(np.where(total[:, 0] > 0, found, np.nan))
