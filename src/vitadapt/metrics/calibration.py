"""How far probabilities can be trusted: labels (N,) or multi-hot (N, C), probabilities (N, C) as they are stored.

An image with one label is one event: "the most probable class is right". With several labels every pair of image and
class is one: "the class is there", with confidence max(p, 1 - p) in the likelier answer. Nothing depends on the order
of the images: those with the same confidence stay together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

BINS = 15
FLOOR = 1e-7  # probabilities are stored in single precision, which cannot tell 1 - 1e-8 from 1
RANGE = (1e-2, 1e2)  # of temperatures


@dataclass(frozen=True)
class Bins:
    """A reliability diagram, (K,) each: images in a bin, their mean confidence, and the share that is right."""

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def reliability(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """The measures of this module by name: nll, ece, brier, aurc."""
    return {name: measure(labels, probabilities) for name, measure in MEASURES.items()}


def nll(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean negative log-likelihood in nats, per image, or per image and class when there are several labels.

    Probabilities below 1e-7 count as 1e-7, so that one image cannot decide everything.
    """
    from sklearn.metrics import log_loss

    p = np.asarray(probabilities, dtype=np.float64).clip(FLOOR, 1 - FLOOR)
    if labels.ndim == 2:
        return float(log_loss(labels.ravel() > 0, p.ravel()))
    return float(log_loss(labels, p / p.sum(axis=1, keepdims=True), labels=np.arange(p.shape[1])))


def brier(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Brier score (Brier 1950): mean over images of the sum over classes of (p - y)^2, in 0..2.

    With several labels the mean over images and classes, in 0..1.
    """
    if labels.ndim == 2:
        return float(np.square(probabilities - labels).mean())
    truth = np.eye(probabilities.shape[1])[labels]
    return float(np.square(probabilities - truth).sum(axis=1).mean())


def ece(labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error: mean |share right - confidence| over bins of equal mass (Nixon et al. 2019)."""
    parts = calibration_bins(labels, probabilities, bins)
    return float(np.average(np.abs(parts.accuracy - parts.confidence), weights=parts.count))


def calibration_bins(labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> Bins:
    """Events in the order of confidence, in at most `bins` bins of equal size; equal confidences share a bin."""
    confidence, right = _events(labels, probabilities)
    order = np.argsort(confidence)
    confidence, right = confidence[order], right[order]
    wanted = np.linspace(0, len(order), min(bins, len(order)), endpoint=False).round().astype(int)
    starts = np.unique(np.searchsorted(confidence, confidence[wanted]))
    count = np.diff(np.append(starts, len(order)))
    return Bins(count, np.add.reduceat(confidence, starts) / count, np.add.reduceat(right, starts) / count)


def aurc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Area under the risk-coverage curve (Geifman & El-Yaniv 2017): the mean over k of the share wrong among the k
    most confident events, in 0..1. Where confidences are equal, the mean over all their orders."""
    confidence, right = _events(labels, probabilities)
    _, group, size = np.unique(-confidence, return_inverse=True, return_counts=True)  # the most confident first
    wrong = np.bincount(group, weights=1 - right) / size
    errors = np.cumsum(np.repeat(wrong, size))
    return float(np.mean(errors / np.arange(1, len(errors) + 1)))


MEASURES = {"nll": nll, "ece": ece, "brier": brier, "aurc": aurc}


def _events(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(confidence, 1.0 where right) of every event."""
    p = np.asarray(probabilities, dtype=np.float64)
    if labels.ndim == 2:
        return np.maximum(p, 1 - p).ravel(), ((p >= 0.5) == (labels > 0)).ravel().astype(float)
    return p.max(axis=1), (p.argmax(axis=1) == labels).astype(float)


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The T > 0 that makes probabilities of HELD-OUT images likeliest after division of their logits by T (Guo et al.
    2017). Labels and probabilities must be of images that the model was neither trained on nor is judged by.

    The labels enter as Platt (1999) softens them, as if one more image had been right and one wrong: of ten images
    that all are right nobody can learn that everything always will be.
    """
    from scipy.optimize import minimize_scalar

    logits, targets = _logits(probabilities, labels.ndim == 2), _softened(labels, probabilities.shape[1])

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float(_cross_entropy(targets, scaled, labels.ndim == 2))

    found = minimize_scalar(loss, bounds=tuple(np.log(RANGE)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def with_temperature(probabilities: np.ndarray, temperature: float, multilabel: bool = False) -> np.ndarray:
    """Probabilities (N, C) whose logits are divided by `temperature`; 1 changes nothing, order never changes."""
    from scipy.special import expit, softmax

    scaled = _logits(probabilities, multilabel) / temperature
    return np.asarray(expit(scaled) if multilabel else softmax(scaled, axis=1))


def _logits(probabilities: np.ndarray, multilabel: bool) -> np.ndarray:
    from scipy.special import logit

    p = np.asarray(probabilities, dtype=np.float64)
    if multilabel:
        return np.asarray(logit(p.clip(FLOOR, 1 - FLOOR)))
    return np.asarray(np.log(p.clip(np.finfo(np.float32).tiny)))


def _softened(labels: np.ndarray, classes: int) -> np.ndarray:
    """(N, C) targets: (n + 1) / (n + 2) for what is true of n, and the rest for what is not."""
    if labels.ndim == 2:
        present = int((labels > 0).sum())
        absent = labels.size - present
        return np.where(labels > 0, (present + 1) / (present + 2), 1 / (absent + 2))
    wrong = 1 / (len(labels) + 2)
    targets = np.full((len(labels), classes), wrong / max(classes - 1, 1))
    targets[np.arange(len(labels)), labels] = 1 - wrong
    return targets


def _cross_entropy(targets: np.ndarray, logits: np.ndarray, multilabel: bool) -> float:
    from scipy.special import log_expit, log_softmax

    if multilabel:
        return float(-np.mean(targets * log_expit(logits) + (1 - targets) * log_expit(-logits)))
    return float(-np.mean((targets * log_softmax(logits, axis=1)).sum(axis=1)))


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Share of images (N) for which two classifiers' probabilities (N, C) name the same class."""
    return float((first.argmax(axis=1) == second.argmax(axis=1)).mean())


def measures_at(labels: np.ndarray, probabilities: np.ndarray, temperature: float) -> Mapping[str, float]:
    """What a temperature can change, nll, ece and brier, after `with_temperature`."""
    scaled = with_temperature(probabilities, temperature, labels.ndim == 2)
    return {name: MEASURES[name](labels, scaled) for name in ("nll", "ece", "brier")}
