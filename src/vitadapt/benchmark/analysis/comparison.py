"""Are the differences between methods real? From records to paired comparisons.

Methods are compared within one setting, on the cells that both have, and never across settings. Cells of one dataset
resemble each other, so every test is made twice: over cells, and over datasets (means over seeds), which is the one to
believe about datasets not seen yet (Demsar 2006).
"""

from __future__ import annotations

import itertools
import statistics as plain
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...metrics.significance import ALPHA, DECIMALS, PairedTest, adjusted, bootstrap_interval, paired_test
from ...utils.registry import unknown
from ..results.record import Record
from .groups import Setting
from .pairing import Scores, by_dataset, by_setting, dataset_means, mean_of, scores_of
from .ranking import Ranking, rank


@dataclass(frozen=True)
class Difference:
    """`method` minus `baseline` in points: the mean over datasets of means over seeds, with a bootstrap interval."""

    method: str
    baseline: str
    mean: float
    low: float | None
    high: float | None
    wins: int
    ties: int
    losses: int
    left_out: int  # cells that only one of the two has
    cells: PairedTest
    datasets: PairedTest


@dataclass(frozen=True)
class Summary:
    """One method: mean over datasets of means over seeds, and its standard deviation over seeds."""

    method: str
    cells: int
    mean: float
    sd: float | None  # of the mean over datasets; only seeds with every dataset count; None for less than two
    diverged: int


@dataclass(frozen=True)
class Comparison:
    """The comparison of the methods of one setting."""

    setting: Setting
    summaries: tuple[Summary, ...]
    differences: tuple[Difference, ...]
    ranking: Ranking | None
    notes: tuple[str, ...]


def compare(records: Sequence[Record], baseline: str | None = None, seed: int = 0) -> list[Comparison]:
    """One comparison per setting, of every method with `baseline`, or of all pairs. `seed` is the bootstrap's.

    Raises UnknownName when no setting has the baseline.
    """
    groups = by_setting(records)
    if baseline is not None and not any(baseline in methods for methods in groups.values()):
        raise unknown("method of these records", baseline, {name for methods in groups.values() for name in methods})
    return [_comparison(setting, methods, baseline, seed) for setting, methods in groups.items()]


def _comparison(setting: Setting, methods: dict[str, list[Record]], baseline: str | None, seed: int) -> Comparison:
    diverged = {name: sum(r.status == "diverged" for r in members) for name, members in methods.items()}
    scores = {name: scores_of(members) for name, members in methods.items()}
    found = [summary(name, values, diverged[name]) for name, values in scores.items() if values]
    summaries = tuple(sorted(found, key=lambda s: (-round(s.mean, DECIMALS), s.method)))
    scores = {s.method: scores[s.method] for s in summaries}  # the best first, so that most differences are positive
    pairs = _pairs(list(scores), baseline)
    differences = holm([d for a, b in pairs if (d := difference(a, b, scores, seed)) is not None])
    ranking = rank(scores) if len(scores) > 1 else None
    notes = _notes(summaries, diverged, pairs, differences, ranking)
    return Comparison(setting, summaries, tuple(differences), ranking, tuple(notes))


def _pairs(methods: list[str], baseline: str | None) -> list[tuple[str, str]]:
    if baseline is None:
        return list(itertools.combinations(methods, 2))
    return [(name, baseline) for name in methods if name != baseline] if baseline in methods else []


def summary(method: str, scores: Scores, diverged: int = 0) -> Summary:
    """Mean and spread of one method's scores."""
    seeds: dict[int, set[str]] = defaultdict(set)
    for cell in scores:
        seeds[cell.seed].add(cell.dataset)
    every = {cell.dataset for cell in scores}
    means = [mean_of({c: s for c, s in scores.items() if c.seed == seed}) for seed in seeds if seeds[seed] == every]
    return Summary(method, len(scores), mean_of(scores), plain.stdev(means) if len(means) > 1 else None, diverged)


def difference(method: str, baseline: str, scores: Mapping[str, Scores], seed: int = 0) -> Difference | None:
    """The paired comparison of two methods, or None when they share no cell."""
    mine, other = scores[method], scores[baseline]
    shared = sorted(mine.keys() & other.keys())
    if not shared:
        return None
    change = {cell: round(mine[cell] - other[cell], DECIMALS) for cell in shared}
    low, high = bootstrap_interval(list(by_dataset(change).values()), seed)
    signs = [np.sign(value) for value in change.values()]
    return Difference(
        method,
        baseline,
        mean_of(change),
        low,
        high,
        signs.count(1),
        signs.count(0),
        signs.count(-1),
        len(mine.keys() ^ other.keys()),
        paired_test(list(change.values())),
        paired_test(dataset_means(change)),
    )


def holm(differences: Sequence[Difference]) -> list[Difference]:
    """The same with p values corrected for how many comparisons there are (Holm 1979)."""
    over_cells = adjusted([d.cells.p for d in differences])
    over_datasets = adjusted([d.datasets.p for d in differences])
    return [
        replace(d, cells=replace(d.cells, holm=c), datasets=replace(d.datasets, holm=s))
        for d, c, s in zip(differences, over_cells, over_datasets, strict=True)
    ]


def _notes(
    summaries: Sequence[Summary],
    diverged: Mapping[str, int],
    pairs: Sequence[tuple[str, str]],
    differences: Sequence[Difference],
    ranking: Ranking | None,
) -> Iterable[str]:
    """What keeps these records from saying more, each with the remedy."""
    for name, count in diverged.items():
        if count:
            yield f"{name}: {count} diverged and left out, so it looks better than it is"
    if len(summaries) < 2:
        yield "only one method has scores: nothing to compare; run another on the same datasets and seeds"
        return
    known = {(d.method, d.baseline) for d in differences}
    for method, baseline in pairs:
        if (method, baseline) not in known:
            yield f"{method} and {baseline} share no dataset and seed; run both on the same"
    if ranking is None:
        yield "no dataset and seed has scores of all methods: no ranks"
    yield from _too_few(differences)


def _too_few(differences: Sequence[Difference]) -> Iterable[str]:
    """How many pairs it takes before any result could count as significant after the correction."""
    weakest = min(differences, key=lambda d: d.cells.count, default=None)
    if weakest is None:
        return
    family, pairs = len(differences), weakest.cells.count
    needed = 1 + int(np.ceil(np.log2(family / ALPHA)))
    if pairs < needed:
        among = f"among {family} comparisons" if family > 1 else "at level 0.05"
        fewer = ", or choose --baseline" if len({d.baseline for d in differences}) > 1 else ""
        yield (
            f"{pairs} pair{'s' * (pairs > 1)} cannot be significant {among} whatever they are (the least p is "
            f"{weakest.cells.smallest:.2g}); {needed} pairs can: add seeds or datasets{fewer}"
        )
    if any(d.low is None for d in differences):
        yield "an interval needs at least five pairs"
    if weakest.datasets.count == 1:
        yield "one dataset: this shows nothing about other datasets"
