"""Scores of predictions: labels (N,) or multi-hot (N, C), probabilities (N, C) -> a number in 0..1."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .registry import Registry

Metric = Callable[[np.ndarray, np.ndarray], float]
METRICS: Registry[Metric] = Registry("metric")


@METRICS.register("accuracy")
def accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Share of images whose most probable class is the label; ties go to the lowest index."""
    return float((probabilities.argmax(axis=1) == labels).mean())


@METRICS.register("mean-per-class")
def mean_per_class(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean recall over the classes that occur (balanced accuracy)."""
    recalls = per_class(labels, probabilities)
    return float(np.nanmean(recalls))


@METRICS.register("roc-auc")
def roc_auc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Area under the ROC curve of class 1; for more classes one-versus-rest, averaged."""
    from sklearn.metrics import roc_auc_score

    scores = probabilities[:, 1] if probabilities.shape[1] == 2 else probabilities
    return float(roc_auc_score(labels, scores, multi_class="ovr"))


@METRICS.register("11-point-map")
def eleven_point_map(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """VOC 2007 mean average precision of multi-hot labels (N, C), over classes with a positive (Everingham 2010).

    Average precision is the mean, over recall levels 0, 0.1 .. 1, of the best precision at that recall or above.
    """
    present = labels.any(axis=0)
    scores = [_eleven_point_ap(labels[:, c], probabilities[:, c]) for c in np.flatnonzero(present)]
    return float(np.mean(scores)) if scores else math.nan


def _eleven_point_ap(positive: np.ndarray, score: np.ndarray) -> float:
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(positive, score)
    precision, recall = precision[:-1], recall[:-1]  # the end point (1, 0) is a convention of the curve, not a result
    levels = np.linspace(0, 1, 11)
    return float(np.mean([precision[recall >= level - 1e-12].max(initial=0.0) for level in levels]))


def per_class(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(C,) recall of each class, or average precision for multi-hot labels; nan for a class that does not occur."""
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


def performance_efficiency(score: float, parameters: float) -> float:
    """PE = score * exp(-log10(parameters / 1e8 + 1)) (Li et al. 2022, ELEVATER); same unit as `score`."""
    return score * math.exp(-math.log10(parameters / 1e8 + 1))
