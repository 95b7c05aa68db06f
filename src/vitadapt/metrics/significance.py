"""Statistics of paired differences: numbers in, numbers out. The tests and optimisers are scipy's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

DECIMALS = 9  # values are rounded to this before they are ranked: 80.1 - 80 is 0.1, also in binary
RESAMPLES = 9999
LEVEL = 0.95
ALPHA = 0.05
POWER = 0.8
EXHAUSTIVE = 13  # up to this many pairs all 2^n signs are tried, which is exact even with ties


@dataclass(frozen=True)
class PairedTest:
    """A two-sided Wilcoxon signed-rank test over `count` differences, and what it could have found at best.

    smallest: the least p that so many differences can give. detectable: the mean difference that a paired t test at
    level 0.05 would find with probability 0.8, given how these differences spread; None for less than two.
    """

    count: int
    p: float
    smallest: float
    detectable: float | None
    holm: float = 1.0


def bootstrap_interval(groups: Sequence[Sequence[float]], seed: int = 0) -> tuple[float | None, float | None]:
    """A 95 % percentile interval of the mean of the groups' means; (None, None) for less than five values.

    Groups (datasets) are drawn with replacement, and within each drawn group its values (seeds) are: the hierarchical
    bootstrap, which is rather too wide than too narrow. A single group shows nothing about others.
    """
    if sum(map(len, groups)) < 5:
        return None, None
    from scipy.stats import bootstrap

    if len(groups) == 1:
        data, statistic = np.asarray(groups[0]), np.mean
    else:
        data, statistic = np.arange(len(groups)), cast(Any, _Resampled(groups, seed))
    found = bootstrap(
        (data,),
        statistic,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        vectorized=True,
        random_state=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


class _Resampled:
    """Drawn groups -> the mean of the means of values that are drawn anew within each of them."""

    def __init__(self, groups: Sequence[Sequence[float]], seed: int) -> None:
        self.count = np.array([len(group) for group in groups])  # (G,)
        self.values = np.zeros((len(groups), self.count.max()))  # (G, S), what is beyond a group's count is never read
        for row, group in zip(self.values, groups, strict=True):
            row[: len(group)] = group
        self.rng = np.random.default_rng([seed, 1])

    def __call__(self, drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        """drawn: (..., G) numbers of groups, along the last axis -> (...)."""
        count = self.count[drawn][..., None]  # (..., G, 1)
        places = np.arange(self.values.shape[1])  # (S,)
        pick = (self.rng.random((*drawn.shape, len(places))) * count).astype(int)  # (..., G, S), each below its count
        values = np.where(places < count, self.values[drawn[..., None], pick], 0.0)
        return np.asarray((values.sum(axis=-1) / count[..., 0]).mean(axis=axis))


def paired_test(differences: Sequence[float]) -> PairedTest:
    """Wilcoxon's signed-rank test that differences are symmetric about zero; those that are zero count (Pratt 1959)."""
    values = np.round(np.asarray(differences, dtype=np.float64), DECIMALS)
    count = len(values)
    smallest = min(1.0, 2.0 ** (1 - count))
    return PairedTest(count, _signed_rank(values), smallest, detectable_difference(values))


def _signed_rank(values: np.ndarray) -> float:
    if len(values) < 2 or not values.any():
        return 1.0
    from scipy.stats import permutation_test, rankdata, wilcoxon

    if len(values) > EXHAUSTIVE:
        return float(wilcoxon(values, zero_method="pratt").pvalue)
    ranks = np.sign(values) * rankdata(np.abs(values))
    tried = permutation_test((ranks,), np.sum, permutation_type="samples", vectorized=True, n_resamples=np.inf)
    return float(tried.pvalue)


def detectable_difference(differences: Sequence[float] | np.ndarray) -> float | None:
    """The true mean difference that a two-sided paired t test at level 0.05 finds with probability 0.8.

    From n differences with standard deviation s: with d = s / sqrt(n), the test statistic of a true mean delta has a
    noncentral t distribution with n - 1 degrees of freedom and noncentrality delta / d (Cohen 1988, chapter 2), which
    is solved for delta. None for fewer than two differences, 0 when they are all the same.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2:
        return None
    from scipy.optimize import brentq
    from scipy.stats import nct, t

    freedom = len(values) - 1
    critical = t.ppf(1 - ALPHA / 2, freedom)

    def missing(noncentrality: float) -> float:
        return float(nct.sf(critical, freedom, noncentrality) - POWER)  # found with the wrong sign is not found

    noncentrality = brentq(missing, 0.0, 2 * critical + 10)
    return float(noncentrality * values.std(ddof=1) / np.sqrt(len(values)))


def adjusted(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the i-th smallest of m is multiplied by m - i + 1, never below the one before."""
    order = np.argsort(p, kind="stable")
    factors = len(p) - np.arange(len(p))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1, np.maximum.accumulate(np.asarray(p)[order] * factors))
    return [float(value) for value in corrected]


def friedman(scores: np.ndarray) -> float | None:
    """p of Friedman's test that all methods are alike; scores: (blocks, methods). None for too few of either."""
    blocks, methods = scores.shape
    if methods < 3 or blocks < 2:
        return None
    if (scores == scores[:, :1]).all():
        return 1.0
    from scipy.stats import friedmanchisquare

    return float(friedmanchisquare(*scores.T).pvalue)


def average_ranks(scores: np.ndarray) -> np.ndarray:
    """(methods,) mean over blocks of the rank within a block: 1 is the best, ties share; scores: (blocks, methods)."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(-scores, axis=1).mean(axis=0))
