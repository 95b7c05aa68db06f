"""What is known of a fitted model, as plain values: from this its page and its card are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..data.examples import ImageRef
from ..metrics.learning_curve import Forecast
from ..metrics.scores import accuracy, eleven_point_map, mean_per_class, share_interval
from ..metrics.several_labels import map_interval

UNEVEN = 1.5  # times as many pictures of one class as of another


@dataclass(frozen=True)
class Answers:
    """Pictures with their labels (N,), or multi-hot (N, C), and what a model says of them (N, C)."""

    refs: Sequence[ImageRef]
    labels: np.ndarray
    probabilities: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def predicted(self) -> np.ndarray:
        """(N,) the most probable class."""
        return np.asarray(self.probabilities.argmax(axis=1)) if len(self) else np.zeros(0, dtype=np.int64)

    @cached_property
    def wrong(self) -> np.ndarray:
        """Rows that are answered wrongly, the most confident first."""
        rows = np.flatnonzero(self.predicted != self.labels)
        return rows[np.argsort(-self.probabilities.max(axis=1)[rows], kind="stable")]


@dataclass(frozen=True)
class Candidate:
    """One of the classifiers that cross-validation compares. Scores in percent; None for what was not measured."""

    name: str
    cross_validated: float | None = None
    deviation: float | None = None  # standard deviation over the folds
    held_out: float | None = None
    trained: int | None = None  # parameters
    seconds: float | None = None
    kept: bool = False
    note: str = ""  # why it has no score
    odds: float | None = None  # that the kept one is better, over bootstrap samples of the pictures

    def texts(self, unit: str = "") -> tuple[str, str, str, str]:
        """Scores (cross-validated, held out; with `unit`), trained parameters and seconds, as tables show them."""
        spread = "" if self.deviation is None else f" ± {self.deviation:.1f}"
        crossed = "–" if self.cross_validated is None else f"{self.cross_validated:.1f}{unit}"
        held = "–" if self.held_out is None else f"{self.held_out:.1f}{unit}"
        trained = "–" if self.trained is None else f"{self.trained:,}"
        return crossed + spread, held, trained, "–" if self.seconds is None else f"{self.seconds:.1f}"


@dataclass(frozen=True)
class Fitted:
    """A fitted model. thresholds: of the classes (C,), where a picture may have several labels; label_scores: recall,
    precision and F1 of the classes in percent there.

    held_out: what it says of pictures that took no part in anything; where cross_measured, what models made in the same
    way, from all folds but one, say of the pictures of that fold. refitted: was the model trained on the pictures that
    were held out, too, once it was measured? cross: what models trained on the other folds say
    of the training pictures. interval: 95 %, in percent; worked out by Wilson's formula when it is not given.
    counts: training pictures per class. size: bytes of the adapter file. licence: of the model; base_licence: of its
    backbone. folds: of the cross-validation. base_model: its name at the Hugging Face hub, if it has one. refuses: can
    it call pictures unknown? limits: sentences about how well it does, and about sets of classes and updates.
    """

    name: str
    classes: Sequence[str]
    backbone: str
    image_size: int
    method: str
    counts: Sequence[int]
    held_out: Answers
    candidates: Sequence[Candidate] = ()
    cross: Answers | None = None
    given_interval: tuple[float, float] | None = None
    forecast: Forecast | None = None
    losses: Sequence[float] = ()
    command: str = ""
    created: str = ""
    seed: int | None = None
    folds: int | None = None
    trained: int | None = None
    size: int | None = None
    licence: str = ""
    base_licence: str = ""
    base_model: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    cross_measured: bool = False
    refitted: bool = False
    thresholds: Sequence[float] = ()
    label_scores: Mapping[str, Sequence[float | None]] = field(default_factory=dict)

    refuses: bool = False
    limits: Sequence[str] = ()

    @property
    def metric(self) -> str:
        """What `score` is."""
        return "mean average precision" if self.thresholds else "accuracy"

    @property
    def pictures(self) -> int:
        """How many pictures it was trained on."""
        if not self.thresholds:
            return sum(self.counts)
        return (len(self.cross) if self.cross is not None else 0) + (len(self.held_out) if self.refitted else 0)

    @property
    def compared(self) -> bool:
        """Was the kept candidate chosen by its score?"""
        return any(candidate.cross_validated is not None for candidate in self.candidates)

    @property
    def tested(self) -> str:
        """What the pictures are called that it was measured with."""
        return "cross-validated pictures" if self.cross_measured else "held-out pictures"

    @property
    def measure(self) -> str:
        """What the accuracy stands for, in one to three sentences."""
        return self._how_measured + self._untested

    @property
    def _untested(self) -> str:
        """Tells of classes without any picture to measure with."""
        labels = self.held_out.labels
        found = labels.any(axis=0) if labels.ndim == 2 else np.isin(np.arange(len(self.classes)), labels)
        absent = int(len(self.classes) - found.sum())
        if not absent or not len(labels):
            return ""
        return f" Of {absent} of the {len(self.classes)} classes there was no picture to measure with."

    @property
    def _how_measured(self) -> str:
        if self.cross_measured:
            return (
                "Each picture was answered by a model that was trained without it, and the choice between candidates "
                "was made without it, too. The delivered model is trained on all pictures."
            )
        if self.refitted:
            return (
                "They took no part in training or in any choice when this was measured. The delivered model was then "
                f"trained on all {self.pictures:,} pictures, these included."
            )
        return "They took no part in training or in any choice."

    @cached_property
    def score(self) -> float | None:
        """Accuracy, or mean average precision, on the held-out pictures in percent; None when there are none."""
        held = self.held_out
        if self.thresholds:
            return 100 * eleven_point_map(held.labels, held.probabilities) if held.labels.any() else None
        return 100 * accuracy(held.labels, held.probabilities) if len(held) else None

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """A 95 % interval of `score` in percent."""
        held = self.held_out
        if self.given_interval is not None or self.score is None:
            return self.given_interval
        if self.thresholds:
            low, high = map_interval(held.labels, held.probabilities)
            return 100 * low, 100 * high
        low, high = share_interval(len(held) - len(held.wrong), len(held))
        return 100 * low, 100 * high

    @cached_property
    def balanced(self) -> float | None:
        """Mean over the classes of the share that is answered rightly, in percent, where they are uneven; else None."""
        held = self.held_out
        if self.thresholds or not len(held):
            return None
        counts = np.unique(held.labels, return_counts=True)[1]
        uneven = counts.max() >= UNEVEN * counts.min()
        return 100 * mean_per_class(held.labels, held.probabilities) if uneven else None

    @cached_property
    def confusion(self) -> np.ndarray:
        """(C, C) held-out pictures of each class (rows) by what they were taken for (columns)."""
        matrix = np.zeros((len(self.classes), len(self.classes)), dtype=np.int64)
        np.add.at(matrix, (self.held_out.labels, self.held_out.predicted), 1)
        return matrix
