"""Average ranks of methods, and how stable their order is."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...metrics.significance import DECIMALS, average_ranks, friedman
from .pairing import RunKey, Scores


@dataclass(frozen=True)
class Drop:
    """What becomes of the order of methods, by mean score, without one dataset or one seed."""

    without: str
    order: tuple[str, ...]
    swapped: tuple[tuple[str, str], ...]  # pairs whose order is no longer what it was
    tau: float | None  # Kendall's tau with the full order


@dataclass(frozen=True)
class Ranking:
    """Average ranks over the cells that all methods have (1 is the best, ties share), and how stable the order is."""

    cells: int
    datasets: int
    ranks: dict[str, float]
    friedman: float | None  # p over cells; None for fewer than three methods or two cells
    friedman_datasets: float | None
    order: tuple[str, ...]
    drops: tuple[Drop, ...]

    @property
    def changes(self) -> list[Drop]:
        """The drops that change the order."""
        return [drop for drop in self.drops if drop.swapped]


def rank(scores: Mapping[str, Scores]) -> Ranking | None:
    """Ranks and the stability of the order over the cells that all methods have; None when there is none."""
    shared = sorted(set.intersection(*(set(cells_of) for cells_of in scores.values())))
    if not shared:
        return None
    names = list(scores)
    table = np.array([[round(scores[name][cell], DECIMALS) for name in names] for cell in shared])
    means = _table_of_means(shared, table)
    ranks = average_ranks(table)
    full = _order_means(shared, table)
    return Ranking(
        len(shared),
        len(means),
        {names[i]: float(ranks[i]) for i in np.argsort(ranks, kind="stable")},
        friedman(table),
        friedman(means),
        _best_first(names, full),
        tuple(_drops(names, shared, table, full)),
    )


def _table_of_means(cells: Sequence[RunKey], table: np.ndarray) -> np.ndarray:
    """(cells, methods) -> (datasets, methods): means over the seeds of each dataset."""
    datasets = np.array([cell.dataset for cell in cells])
    return np.round([table[datasets == name].mean(axis=0) for name in dict.fromkeys(datasets)], DECIMALS)


def _order_means(cells: Sequence[RunKey], table: np.ndarray) -> np.ndarray:
    """(methods,) mean over datasets of means over seeds: what a table of results is read by."""
    return np.asarray(np.round(_table_of_means(cells, table).mean(axis=0), DECIMALS))


def _best_first(names: Sequence[str], means: np.ndarray) -> tuple[str, ...]:
    return tuple(names[i] for i in np.argsort(-means, kind="stable"))


def _drops(names: Sequence[str], cells: Sequence[RunKey], table: np.ndarray, full: np.ndarray) -> Iterable[Drop]:
    """The order without each dataset and without each seed in turn."""
    from scipy.stats import kendalltau

    parts = [(f"dataset {name}", [c.dataset != name for c in cells]) for name in sorted({c.dataset for c in cells})]
    parts += [(f"seed {seed}", [c.seed != seed for c in cells]) for seed in sorted({c.seed for c in cells})]
    for without, keep in parts:
        if not any(keep):
            continue
        means = _order_means([c for c, stays in zip(cells, keep, strict=True) if stays], table[keep])
        swapped = [
            (names[i], names[j])
            for i, j in itertools.combinations(range(len(names)), 2)
            if np.sign(means[i] - means[j]) != np.sign(full[i] - full[j])
        ]
        flat = len(set(means)) == 1 or len(set(full)) == 1
        tau = None if flat else float(kendalltau(full, means).statistic)
        yield Drop(without, _best_first(names, means), tuple(swapped), tau)
