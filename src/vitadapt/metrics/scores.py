"""Scores of predictions: labels (N,) or multi-hot (N, C), probabilities (N, C) -> a number in 0..1.

METRICS are the definitions of the literature. RELEASED_METRICS, under the same names, are what the published benchmark
computes: they differ in what is written beside each, and only a protocol that repeats published numbers may use them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..utils.errors import DataError, Diverged
from ..utils.registry import Registry

Metric = Callable[[np.ndarray, np.ndarray], float]
METRICS: Registry[Metric] = Registry("metric")
RELEASED_METRICS: Registry[Metric] = Registry("released metric")

PE_PARAMETERS = 1e8  # the constant of PE: ELEVATER (Li et al. 2022)
PPT_PARAMETERS = 1e7  # the constant of PPT: V-PETL Bench (Xin et al. 2024)
LEVELS = np.linspace(1, 0, 11)  # recall 1.0, 0.9 .. 0.0


@METRICS.register("accuracy")
def accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Share of images whose most probable class is the label; ties go to the lowest index.

    Like every metric here, raises Diverged when a probability is not a number.
    """
    _require_numbers(probabilities)
    return float((probabilities.argmax(axis=1) == labels).mean())


@METRICS.register("mean-per-class")
def mean_per_class(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean recall over the classes that occur (balanced accuracy); the prediction may be any class."""
    recalls = per_class(labels, probabilities)
    return _mean(recalls)


@METRICS.register("roc-auc")
def roc_auc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Area under the ROC curve of class 1 of two; of more, one against the rest, averaged over those that occur.

    Raises DataError when no class has both images that belong to it and images that do not.
    """
    from sklearn.metrics import roc_auc_score

    _require_numbers(probabilities)
    classes = [1] if probabilities.shape[1] == 2 and labels.ndim == 1 else range(probabilities.shape[1])
    members = {c: _members(labels, c) for c in classes}
    areas = [roc_auc_score(hits, probabilities[:, c]) for c, hits in members.items() if 0 < hits.sum() < len(hits)]
    if not areas:
        raise DataError("ROC-AUC needs images of at least two classes; add images of the missing one")
    return float(np.mean(areas))


@METRICS.register("11-point-map")
def eleven_point_map(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """VOC 2007 mean average precision of multi-hot labels (N, C), over classes with a positive (Everingham 2010).

    Average precision is the mean, over recall levels 0, 0.1 .. 1, of the best precision at that recall or above.
    """
    return _mean(per_class(labels, probabilities))


def per_class(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(C,) recall of each class, or average precision for multi-hot labels; nan for a class that does not occur."""
    _require_numbers(probabilities)
    classes = probabilities.shape[1]
    scores = np.full(classes, np.nan)
    if labels.ndim == 2:
        for c in np.flatnonzero(labels.any(axis=0)):
            scores[c] = _eleven_point_ap(labels[:, c], probabilities[:, c])
        return scores
    predicted = probabilities.argmax(axis=1)
    for c in np.unique(labels):
        scores[c] = (predicted[labels == c] == c).mean()
    return scores


def share_interval(right: int, count: int) -> tuple[float, float]:
    """A 95 % interval of a share of which `right` of `count` were seen (Wilson 1927). Raises ValueError for none."""
    from scipy.stats import binomtest

    found = binomtest(right, count).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def _eleven_point_ap(positive: np.ndarray, score: np.ndarray) -> float:
    """Reached recalls are multiples of one part in the number of positives; 1e-12 forgives their rounding."""
    precision, recall = _precision_recall(positive, score)
    return float(np.mean([precision[:-1][recall[:-1] >= level - 1e-12].max(initial=0.0) for level in LEVELS]))


def _precision_recall(positive: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points of the curve; the last one (1, 0) is a convention of the library, not a result."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(positive, score)
    return precision, recall


def _members(labels: np.ndarray, c: int) -> np.ndarray:
    """(N,) does the image belong to class `c`?"""
    return np.asarray(labels[:, c] > 0 if labels.ndim == 2 else labels == c)


def _mean(scores: np.ndarray) -> float:
    """Mean over what has a score; nan when nothing has."""
    known = scores[~np.isnan(scores)]
    return float(known.mean()) if len(known) else math.nan


def _require_numbers(probabilities: np.ndarray) -> None:
    if np.isnan(probabilities).any():
        raise Diverged("the predictions are not numbers; lower the learning rate, or use precision fp32")


@RELEASED_METRICS.register("accuracy")
def released_accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """`accuracy`, where an image whose probabilities are not numbers counts as class 0 (Q36)."""
    return float((probabilities.argmax(axis=1) == labels).mean())


@RELEASED_METRICS.register("mean-per-class")
def released_mean_per_class(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean recall, where a class without images can not be predicted either: its column is dropped (Q35, Q36)."""
    present, member = np.unique(labels, return_inverse=True)
    predicted = probabilities[:, present].argmax(axis=1)
    return float(np.mean([(predicted[member == c] == c).mean() for c in range(len(present))]))


@RELEASED_METRICS.register("roc-auc")
def released_roc_auc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """`roc_auc` of two classes; 0 for another number, for images of one class, and for what is not a number (Q36)."""
    if probabilities.shape[1] != 2 or len(np.unique(labels)) != 2 or np.isnan(probabilities).any():
        return 0.0
    return roc_auc(labels, probabilities)


@RELEASED_METRICS.register("11-point-map")
def released_eleven_point_map(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """`eleven_point_map` with the curve's end point as a result, so that precision at recall 0 is always 1 (Q34).

    Recall levels are compared as they are rounded. 0 for what is not a number (Q36).
    """
    present = np.flatnonzero(labels.any(axis=0))
    if not len(present) or np.isnan(probabilities).any():
        return 0.0
    curves = [_precision_recall(labels[:, c], probabilities[:, c]) for c in present]
    return float(np.mean([[precision[recall >= t].max() for t in LEVELS] for precision, recall in curves]))


def performance_efficiency(score: float, parameters: float, scale: float = PE_PARAMETERS) -> float:
    """PE = score * exp(-log10(parameters / scale + 1)), scale = 1e8 (Li et al. 2022, ELEVATER); in the unit of `score`.

    `parameters` are all trained ones, the head's included.
    """
    return score * math.exp(-math.log10(parameters / scale + 1))


def performance_per_tuned(score: float, parameters: float) -> float:
    """PPT: PE with the constant 1e7 (Xin et al. 2024, V-PETL Bench), which asks more of methods beyond 100,000."""
    return performance_efficiency(score, parameters, PPT_PARAMETERS)
