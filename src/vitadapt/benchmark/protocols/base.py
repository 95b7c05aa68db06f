"""What a protocol is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar
from typing import Protocol as Interface

import numpy as np
from torch import Tensor

from ...metrics.scores import per_class
from ...training.task import Task, Trained
from ..config import RunConfig


@dataclass(frozen=True)
class Budget:
    """The most that a protocol does for one cell. Images count as often as they pass through the network."""

    trials: int  # trainings of the search
    trained: int  # images that pass forward and backward
    scored: int  # training images that only pass forward, to choose by them


class Protocol(Interface):
    """From a task to a trained classifier; what that costs; how many images per class it draws.

    sees_test: whether it uses the test images while it trains. Only then its task has them.
    """

    sees_test: ClassVar[bool] = False

    def __call__(self, task: Task, config: RunConfig) -> Trained: ...

    def budget(self, config: RunConfig, labels: Tensor) -> Budget: ...

    def draws(self, shots: int | None) -> int | None:
        return shots


@dataclass(frozen=True, kw_only=True)
class TrainedOnTest(Trained):
    """What a protocol that sees the test set gives: the classifier of its best epoch there, and its probabilities.

    score: in percent, as published. scores: that and others, by how they were arrived at.
    """

    probabilities: np.ndarray
    score: float
    scores: dict[str, float]

    def per_class(self, labels: np.ndarray) -> np.ndarray:
        """(C,) in 0..1, where an image whose probabilities are not numbers counts as class 0 (Q36)."""
        return per_class(labels, np.nan_to_num(self.probabilities))
