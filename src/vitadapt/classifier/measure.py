"""What candidates are compared by: accuracy, the accuracy to expect under a prior, or mean average precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..metrics.scores import METRICS
from ..nn.surgery import Method
from .prior import Prior


@dataclass(frozen=True, eq=False)
class Measure:
    """multilabel: may an image have several labels? prior: of the classes, None for that of the images."""

    multilabel: bool = False
    prior: Prior | None = None

    @property
    def metric(self) -> str:
        """The name of the metric of a task."""
        return "11-point-map" if self.multilabel else "accuracy"

    def adjusted(self, method: Method, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities (N, C) of a classifier that `method` made, as they are under the prior."""
        return probabilities if self.prior is None else self.prior.applied(method, probabilities)

    def score(self, labels: np.ndarray, probabilities: np.ndarray) -> float:
        """0..1"""
        return (
            METRICS[self.metric](labels, probabilities)
            if self.prior is None
            else self.prior.measure(labels, probabilities)
        )

    def mistakes(self, labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """(N,) 1 for every wrong answer, or its weight under the prior; of several labels the share that is wrong."""
        if self.multilabel:
            return np.asarray(((probabilities >= 0.5) != (labels > 0)).mean(axis=1))
        wrong = np.asarray(probabilities.argmax(axis=1) != labels, dtype=float)
        if self.prior is None:
            return wrong
        shares = np.bincount(labels, minlength=probabilities.shape[1]) / len(labels)
        return np.asarray(wrong * (self.prior.target / np.maximum(shares, 1e-12))[labels])

    def likelihood(self, labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """(N,) log of the probability of what is true, of a model that is never surer than one in a thousand."""
        if self.multilabel:
            return np.asarray(
                np.log(np.maximum(np.where(labels > 0, probabilities, 1 - probabilities), 1e-3)).mean(axis=1)
            )
        return np.asarray(np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-3)))


ONE_LABEL = Measure()
