"""Searches over learning rate and weight decay, as pure functions: they ask for scores and know nothing of training.

A score is a number of which more is better, or None for a trial that diverged. Every search prefers a later trial only
when its score is strictly larger, so that the order in which points are listed breaks ties.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ...utils.errors import Diverged

Point = tuple[float, float]
"""(learning rate, weight decay)."""
Score = Callable[[float, float], float | None]
Probe = tuple[int, int]
"""(index of the weight decay to try, index for which the score counts)."""
Refine = Callable[[int, int, int], Sequence[Probe]]
"""(peak, span, last index) -> what is tried at this span."""

SPANS = (8, 4, 2, 1)


@dataclass(frozen=True)
class Grid:
    """Learning rates and weight decays, both ascending; every `stride`-th weight decay is tried at first.

    The default is the published one (Li et al. 2022, ELEVATER): 1e-6 .. 1e-1, and 10^(-6 + i/8) for i = 0 .. 96.
    """

    lrs: tuple[float, ...] = tuple(float(f"1e{e}") for e in range(-6, 0))
    decays: tuple[float, ...] = tuple(10 ** (-6 + i / 8) for i in range(97))
    stride: int = 16

    @property
    def coarse(self) -> range:
        """Indices of the weight decays that are tried first."""
        return range(0, len(self.decays), self.stride)

    @property
    def most_trials(self) -> int:
        """No coarse-to-fine search of this grid runs more trials than this."""
        return len(self.lrs) * (len(self.coarse) + 2 * len(SPANS))


@dataclass(frozen=True)
class Trial:
    """One score that a search asked for. `credited`: the weight decay for which it counted, `weight_decay` as a rule.

    epochs: how long the trial had trained, where the search decides that. tie: a number that orders equal scores.
    """

    lr: float
    weight_decay: float
    score: float | None
    stage: str
    credited: float
    epochs: int | None = None
    tie: float = 0.0

    @property
    def rank(self) -> tuple[float, float]:
        """More is better; a diverged trial is below all others."""
        return (-math.inf, 0.0) if self.score is None else (self.score, self.tie)


@dataclass(frozen=True)
class Choice:
    """The point that a search chose, its score there, and all trials in the order in which they were asked for."""

    lr: float
    weight_decay: float
    score: float
    trials: tuple[Trial, ...]

    @property
    def runs(self) -> int:
        """Trials that differ: what a search asks for twice is trained once."""
        return len({(trial.lr, trial.weight_decay, trial.epochs) for trial in self.trials})


@dataclass(frozen=True)
class Ridge:
    """The search at one learning rate: the best index of the weight decays, its score, and the trials.

    Index -1, which is the largest weight decay, and score 0 when no trial scored above zero.
    """

    index: int
    score: float
    trials: tuple[Trial, ...] = field(repr=False)


def neighbours(peak: int, span: int, last: int) -> list[Probe]:
    """Both points at distance `span` of the peak, left first; a point counts for itself."""
    return [(index, index) for index in (max(peak - span, 0), min(peak + span, last)) if index != peak]


def coarse_to_fine(score: Score, grid: Grid | None = None, refine: Refine = neighbours) -> Choice:
    """The published search (Li et al. 2022): per learning rate a coarse pass over weight decays, then ever closer ones.

    The (lr, weight decay) with the strictly largest score above zero wins, learning rates ascending. Where nothing
    scored above zero, the first trial that did not diverge wins. `refine` gives what is tried around a peak.
    Raises Diverged when every trial did.
    """
    grid = grid or Grid()
    best, winner, trials = 0.0, None, list[Trial]()
    for lr in grid.lrs:
        ridge = search_decays(score, lr, grid, refine)
        trials += ridge.trials
        if ridge.score > best:
            best, winner = ridge.score, (lr, grid.decays[ridge.index])
    if winner is None:
        return first_best(trials)
    return Choice(*winner, best, tuple(trials))


def search_decays(score: Score, lr: float, grid: Grid, refine: Refine = neighbours) -> Ridge:
    """The inner loop of `coarse_to_fine`: the best weight decay for one learning rate."""
    peak, best, trials = -1, 0.0, list[Trial]()

    def ask(probe: Probe, stage: str) -> None:
        nonlocal peak, best
        tried, credited = (grid.decays[index] for index in probe)
        value = score(lr, tried)
        trials.append(Trial(lr, tried, value, stage, credited))
        if value is not None and value > best:
            peak, best = probe[1], value

    for index in grid.coarse:
        ask((index, index), "coarse")
    for span in SPANS:
        for probe in refine(peak, span, len(grid.decays) - 1):  # both from the peak before this span
            ask(probe, f"span {span}")
    return Ridge(peak, best, tuple(trials))


def first_best(trials: Iterable[Trial]) -> Choice:
    """The first of the trials with the largest score. Raises Diverged when every trial diverged."""
    trials = tuple(trials)
    finished = [trial for trial in trials if trial.score is not None]
    if not finished:
        raise Diverged(f"all {len(trials)} trials of the search diverged; the learning rates are too high")
    best = max(finished, key=lambda trial: trial.rank)  # max keeps the first of equals
    return Choice(best.lr, best.credited, best.score or 0.0, trials)


def try_all(score: Score, points: Sequence[Point]) -> Choice:
    """Every point once; the first with the largest score wins. Raises Diverged when every trial did."""
    return first_best(Trial(lr, decay, score(lr, decay), "grid", decay) for lr, decay in points)


def draw_points(grid: Grid, per_lr: int, seed: int) -> list[Point]:
    """`per_lr` points for each learning rate, ascending: one weight decay at random from each of `per_lr` equal bands.

    Stratified, because few independent draws would leave whole decades of the grid untried.
    """
    count, generator = len(grid.decays), random.Random(seed)
    edges = [round(band * count / per_lr) for band in range(per_lr + 1)]
    return [
        (lr, grid.decays[generator.randrange(low, high)]) for lr in grid.lrs for low, high in itertools.pairwise(edges)
    ]


def rung_sizes(count: int, rungs: Sequence[int], keep: int) -> list[int]:
    """How many candidates train at each rung: all, then the best ceil(1 / keep) of those before."""
    sizes = [count]
    for _ in rungs[1:]:
        sizes.append(-(-sizes[-1] // keep))
    return sizes


def halve(
    score: Callable[[float, float, int], tuple[float, float] | None],
    points: Sequence[Point],
    rungs: Sequence[int],
    keep: int,
) -> Choice:
    """Successive halving (Jamieson and Talwalkar 2016): train all `points` for rungs[0] epochs, go on with the best.

    Of every rung ceil(1 / keep) of the candidates go on to the next, which is a longer training; a diverged one never
    does. `score(lr, weight_decay, epochs)` gives the score after that many epochs in all, and a number that orders
    equal scores: after little training most are equal. The first with the largest of both at the last rung that anyone
    finished wins. Raises Diverged when no candidate finished the first rung.
    """
    survivors, trials = list(points), list[Trial]()
    last: list[Trial] = []
    for rung, (epochs, size) in enumerate(zip(rungs, rung_sizes(len(points), rungs, keep), strict=True), start=1):
        asked = [_at_rung(score(lr, decay, epochs), lr, decay, epochs, rung) for lr, decay in survivors[:size]]
        trials += asked
        finished = [trial for trial in asked if trial.score is not None]
        if not finished:
            break
        last = sorted(finished, key=lambda trial: trial.rank, reverse=True)  # stable: listing order breaks ties
        survivors = [(trial.lr, trial.weight_decay) for trial in last]
    best = first_best(last or trials)
    return Choice(best.lr, best.weight_decay, best.score, tuple(trials))


def _at_rung(found: tuple[float, float] | None, lr: float, decay: float, epochs: int, rung: int) -> Trial:
    score, tie = found or (None, 0.0)
    return Trial(lr, decay, score, f"rung {rung}", decay, epochs, tie)
