"""Candidates, from the simplest classifier to the one with most work; cross-validation selects one of them.

A candidate whose backbone is trained takes part fold by fold and stops when it can no longer win: when more mistakes
were made than the leader makes in all folds, or when over the images of the folds so far its accuracy is not higher and
its likelihood is lower: by any amount, or with effort "best" by a one-sided paired t test at 5 %.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from ..methods import LinearProbe
from ..metrics.calibration import fit_temperature, with_temperature
from ..nn.surgery import Method, solves_head, trainable
from ..training.cross_validation import fold_answers
from ..training.task import Task
from ..utils.errors import Diverged
from ..utils.files import bytes_digest, read_cached, write_cached
from .effort import Schedule
from .measure import ONE_LABEL, Measure

Message = Callable[[str], None]  # shows one line to the user
Labels = np.ndarray
RESAMPLES = 2000


@dataclass(frozen=True)
class Candidate:
    """One classifier that cross-validation compares with others.

    parameters: how many numbers it trains. probabilities (N, C): of every training image, by a model that was trained
    without this image, at the `temperature` that suits them. features: for every fold those (N, E) of all images by the
    network that was trained without this fold; empty where nothing of it is trained. score and deviation (over the
    folds): percent, or None; then `note` says why.
    """

    name: str
    task: Task
    parameters: int
    probabilities: np.ndarray | None = None
    features: tuple[np.ndarray, ...] = ()
    score: float | None = None
    deviation: float | None = None
    seconds: float = 0.0
    diverged: bool = False
    note: str = ""
    temperature: float = 1.0
    trains_backbone: bool = False
    closed_form: bool = False

    @property
    def summary(self) -> str:
        """Its result in one line."""
        if self.score is None:
            return self.note
        spread = "" if self.deviation is None else f" ± {self.deviation:.1f}"
        return f"{self.score:.1f} %{spread} by cross-validation, {self.parameters:,} trained numbers"


def candidate_of(name: str, task: Task) -> Candidate:
    """The candidate of a task, not yet scored."""
    model = task.build(0)
    parameters = sum(p.numel() for p in trainable(model).values())
    trains = bool(trainable(model.backbone))
    closed = not trains and solves_head(task.config.method)
    return Candidate(name, task, parameters, trains_backbone=trains, closed_form=closed)


def scored(
    candidate: Candidate,
    others: Sequence[Candidate],
    fold: np.ndarray | None,
    work: Path,
    message: Message,
    schedule: Schedule,
    measure: Measure,
) -> Candidate:
    """`candidate` with its score over `fold` (N,), or a note why it has none. Finished folds are in `work`.

    others: the candidates before it, which it must beat. fold None: too few images.
    """
    if any(other.score == 100 for other in others):
        return replace(candidate, note="not tried: a simpler one makes no mistake")
    if fold is None:
        return replace(candidate, note="not compared: too few different images")
    start = time.perf_counter()
    labels = candidate.task.labels.numpy()
    leader = select(others) if others else None
    try:
        found, features, note = _out_of_fold(candidate, leader, fold, work, message, schedule, measure)
    except Diverged as error:
        return replace(candidate, diverged=True, note=f"diverged: {error}", seconds=time.perf_counter() - start)
    seconds = time.perf_counter() - start
    if found is None:
        return replace(candidate, note=note, seconds=seconds)
    trained = candidate.task.config.method.trains_head and not candidate.closed_form  # which has chosen its own
    temperature = fit_temperature(labels, found) if trained else 1.0
    found = with_temperature(found, temperature, measure.multilabel).astype(np.float32)
    found = measure.adjusted(candidate.task.config.method, found)
    by_fold = [measure.score(labels[fold == number], found[fold == number]) for number in np.unique(fold)]
    return replace(
        candidate,
        probabilities=found,
        features=features,
        score=100 * measure.score(labels, found),
        deviation=100 * float(np.std(by_fold, ddof=1)),
        seconds=seconds,
        temperature=temperature,
    )


def select(candidates: Sequence[Candidate]) -> Candidate:
    """The one with the highest score, the simplest of equals. Without any score: the simplest that trains."""
    if any(candidate.score is not None for candidate in candidates):
        return max(candidates, key=lambda candidate: -1.0 if candidate.score is None else candidate.score)
    able = [candidate for candidate in candidates if candidate.parameters and not candidate.diverged]
    return (able or list(candidates))[0]


def odds(selected: Candidate, other: Candidate, labels: Labels, measure: Measure = ONE_LABEL) -> float | None:
    """Share of bootstrap samples of the images in which `selected` is right more often than `other`; ties count half.

    None where one of them has no score.
    """
    if selected.probabilities is None or other.probabilities is None:
        return None
    ahead = measure.mistakes(labels, other.probabilities) - measure.mistakes(labels, selected.probabilities)  # (N,)
    drawn = np.random.default_rng(0).integers(0, len(ahead), (RESAMPLES, len(ahead)))
    lead = ahead[drawn].sum(axis=1)
    return float((lead > 0).mean() + (lead == 0).mean() / 2)


def cross_selected(
    candidates: Sequence[Candidate], labels: Labels, groups: np.ndarray, measure: Measure = ONE_LABEL
) -> np.ndarray:
    """(N, C) what the whole selection says of each image: by the candidate that is best on all images but its group.

    So neither the training nor the choice of the classifier that answers saw the image. groups: (N,), the same number
    for near-duplicates.
    """
    able = [candidate for candidate in candidates if candidate.probabilities is not None]
    answers = np.empty_like(_known(able[0]))
    for number in np.unique(groups):
        own = groups == number
        best = int(np.argmax([measure.score(labels[~own], _known(candidate)[~own]) for candidate in able]))
        answers[own] = _known(able[best])[own]
    return answers


def _known(candidate: Candidate) -> np.ndarray:
    assert candidate.probabilities is not None
    return candidate.probabilities


def _out_of_fold(
    candidate: Candidate,
    leader: Candidate | None,
    fold: np.ndarray,
    work: Path,
    message: Message,
    schedule: Schedule,
    measure: Measure,
) -> tuple[np.ndarray | None, tuple[np.ndarray, ...], str]:
    """(N, C) and the features of every fold, or None and the reason.

    A fold that was finished before, of the same images, is read from `work`.
    """
    task, pooled = candidate.task, np.zeros((len(fold), candidate.task.classes), dtype=np.float32)
    if not candidate.parameters:
        return np.asarray(task.probabilities(task.build(0)).numpy()), (), ""
    numbers, labels, features = np.unique(fold).tolist(), task.labels.numpy(), []
    for place, number in enumerate(numbers, start=1):
        schedule.begin()
        if candidate.trains_backbone and place > 1 and schedule.refusal(candidate.name):
            return None, (), f"stopped after {place - 1} of {len(numbers)} folds: the time is over"
        key = bytes_digest(f"{task.identity()} {number}".encode() + fold.tobytes())
        path, own = work / f"{key}.fold", fold == number
        stored = read_cached(path)
        if stored is None:
            label = f"{candidate.name}, fold {place} of {len(numbers)}"
            found = fold_answers(task, task.recipe, fold, number, label)
            parts = [np.ascontiguousarray(part.numpy(), dtype=np.float32) for part in found if part is not None]
            stored = b"".join(part.tobytes() for part in parts)
            write_cached(path, stored)
        values, count = np.frombuffer(stored, dtype=np.float32), int(own.sum()) * task.classes
        pooled[own] = values[:count].reshape(-1, task.classes)
        if len(values) > count:
            features.append(values[count:].reshape(len(fold), -1).copy())
        schedule.finished(candidate.name, place)
        if not candidate.trains_backbone or place == len(numbers):
            continue
        seen = np.isin(fold, numbers[:place])
        known, method = None if leader is None else leader.probabilities, task.config.method
        if (
            leader is not None
            and known is not None
            and _cannot_win(pooled, known, labels, seen, schedule.level, measure, method)
        ):
            return None, (), f"stopped after {place} of {len(numbers)} folds: no better than {leader.name}"
        message(f"{candidate.name}, {place} of {len(numbers)} folds: {schedule.text()}")
    return pooled, tuple(features), ""


def _cannot_win(
    found: np.ndarray,
    leader: np.ndarray,
    labels: Labels,
    seen: np.ndarray,
    level: float,
    measure: Measure = ONE_LABEL,
    method: Method = LinearProbe(),  # noqa: B008 - frozen
) -> bool:
    """Is the candidate that gave `found` for the images `seen` sure, or likely, to be no better than `leader`?

    level: of the one-sided test; at 0.5 a lower mean likelihood is enough.
    """
    some, tempered = labels[seen], found.copy()
    temperature = fit_temperature(some, found[seen])
    tempered[seen] = measure.adjusted(method, with_temperature(found[seen], temperature, measure.multilabel))
    own, other = measure.mistakes(labels, tempered)[seen], measure.mistakes(labels, leader)
    if own.sum() > other.sum() and not measure.multilabel:
        return True
    ahead = other[seen].sum() - own.sum()
    gain = measure.likelihood(some, tempered[seen]) - measure.likelihood(some, leader[seen])
    if ahead > 0 or len(gain) < 3:
        return False
    spread = gain.std(ddof=1) / np.sqrt(len(gain))
    return bool(gain.mean() < -student.ppf(1 - level, len(gain) - 1) * spread)
