"""Thresholds that keep a stated share of new images: scores of images that a model did not learn from, (n,), decide.

Split conformal prediction (Vovk, Gammerman & Shafer 2005): if images left out and new ones come from one source, a new
score is among the ceil((n + 1) s) smallest of n and itself with a probability of at least s. Sets of classes are those
of the least ambiguous set-valued classifiers (LAC: Sadinle, Lei & Wasserman 2019): every class y with 1 - p_y up to the
threshold. The scores come from cross-validation, so each is of a model that learnt from a little less than the one that
is used (cross-conformal: Vovk 2015): its guarantee is an approximation, and the coverage is measured beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MOST = 1000  # scores that are stored; of more, so many of their ranks


def threshold(scores: np.ndarray, share: float) -> float:
    """The value that at least `share` of new scores do not exceed; infinity where so few scores cannot tell.

    scores: (n,) ascending.
    """
    rank = math.ceil((len(scores) + 1) * share - 1e-9)
    return float(scores[max(rank, 1) - 1]) if rank <= len(scores) else math.inf


def typicality(scores: np.ndarray, new: np.ndarray) -> np.ndarray:
    """(m,) the share of images left out, and the new one, that are at least as unlike: a conformal p-value.

    scores: (n,) ascending; new: (m,). Of new images from the same source a share of at most s has a value up to s.
    """
    return np.asarray((1 + len(scores) - np.searchsorted(scores, new, side="left")) / (len(scores) + 1))


def least_rate(count: int) -> float:
    """The smallest share of ordinary images at which `count` images left out allow to refuse any."""
    return 1 / (count + 1)


def thinned(scores: np.ndarray, most: int = MOST) -> np.ndarray:
    """At most so many of the scores, ascending; their thresholds are never below those of all of them."""
    scores = np.sort(scores)
    if len(scores) <= most:
        return scores
    ranks = np.ceil((len(scores) + 1) * np.arange(1, most + 1) / (most + 1)).astype(int)
    return np.asarray(scores[ranks - 1])


def nonconformity(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(N,) 1 - probability of the label."""
    return np.asarray(1 - probabilities[np.arange(len(labels)), labels])


def class_sets(probabilities: np.ndarray, limit: float) -> np.ndarray:
    """(N, C) is the class in the set? The most probable one always is, so that no set is empty."""
    inside = 1 - probabilities <= limit
    inside[np.arange(len(probabilities)), probabilities.argmax(axis=1)] = True
    return np.asarray(inside)


@dataclass(frozen=True)
class Coverage:
    """Of sets asked to hold the label with probability `wanted`: how many of `count` did, and their mean size."""

    wanted: float
    right: int
    count: int
    size: float


def coverage(labels: np.ndarray, probabilities: np.ndarray, fold: np.ndarray, wanted: float) -> Coverage:
    """Measured on every fold with the threshold of the other folds' images; probabilities (N, C) are out of fold."""
    scores = nonconformity(labels, probabilities)
    inside = np.zeros(probabilities.shape, dtype=bool)
    for number in np.unique(fold):
        own = fold == number
        inside[own] = class_sets(probabilities[own], threshold(np.sort(scores[~own]), wanted))
    right = inside[np.arange(len(labels)), labels]
    return Coverage(wanted, int(right.sum()), len(labels), float(inside.sum(axis=1).mean()))
