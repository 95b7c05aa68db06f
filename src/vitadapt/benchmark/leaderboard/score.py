"""The leaderboard's numbers, from a submission and the user's own copy of the test labels."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ...metrics.scores import RELEASED_METRICS, performance_efficiency
from ...utils.errors import DataError
from ..analysis.groups import OverSeeds
from .check import check_predictions
from .submission import SubmissionEntry, is_count
from .suite import Truths, required, suite


@dataclass(frozen=True)
class Score(OverSeeds):
    """What one data set gets. scores: percent, one per seed; empty when `problem` says why there is none.

    note: what to keep in mind about the number.
    """

    dataset: str
    metric: str
    scores: tuple[float, ...]
    trained: float | None
    problem: str = ""
    note: str = ""


@dataclass(frozen=True)
class Total:
    """The mean over the `count` data sets with a score, of those that an average needs; complete when all have one."""

    average: float | None
    trained: float | None
    pe: float | None
    count: int
    complete: bool


def score(entries: Iterable[SubmissionEntry], truths: Truths) -> Iterator[Score]:
    """The score of each entry, with what keeps it from having one. Raises DataError for a file that cannot be read."""
    for entry in entries:
        yield _score(entry, truths)


def _score(entry: SubmissionEntry, truths: Truths) -> Score:
    row = suite().get(entry.dataset)
    if row is None:
        return Score(entry.dataset or "?", "", (), None, "not a data set of the leaderboard")
    trained = entry.fields.get("num_trainable_params")
    known = float(trained) if is_count(trained) else None
    blank = Score(entry.dataset, row.metric, (), known)
    if wrong := check_predictions(entry, row):
        return replace(blank, problem="; ".join(wrong))
    try:
        truth = truths(row)
    except DataError as error:
        return replace(blank, problem=str(error))
    if truth is None:
        return replace(blank, problem=f"labels not found; give --data-root (to get them: {row.get})")
    if len(truth.labels) != row.sizes["test"]:
        reason = f"{truth.place} has {len(truth.labels):,} test images, the leaderboard {row.sizes['test']:,}"
        return replace(blank, problem=f"{reason}: another split")
    metric = RELEASED_METRICS[row.metric]
    scores = tuple(100 * metric(truth.labels, matrix) for matrix in entry.predictions if matrix is not None)
    note = f"labels from {truth.place}, whose images may be in another order than the leaderboard's"
    return replace(blank, scores=scores, note="" if truth.ordered else note)


def total(scores: Sequence[Score]) -> Total:
    """Average and PE over the data sets that an average needs."""
    means = {s.dataset: s.mean for s in scores if s.mean is not None and s.dataset in required()}
    trained = [s.trained for s in scores if s.dataset in means and s.trained is not None]
    average = statistics.fmean(means.values()) if means else None
    size = statistics.fmean(trained) if trained and len(trained) == len(means) else None
    pe = performance_efficiency(average, size) if average is not None and size is not None else None
    return Total(average, size, pe, len(means), len(means) == len(required()))
