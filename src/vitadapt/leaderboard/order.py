"""Are the columns in another order than the labels? Class numbers differ between publications of the same data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..data import LabelArray

_ALIKE = 0.5  # correlation of a class with a column, from which on they belong together
_IMAGES = 5  # fewer of a class say nothing
_SHOWN = 3


def swapped(labels: LabelArray, probabilities: np.ndarray) -> list[tuple[int, int]]:
    """(class, the other class whose column behaves like its own). labels: (N,) or (N, C); probabilities: (N, C).

    Such a column is more like this class than any other column is, and more like it than like any other class. What a
    classifier confuses is rarely that one-sided; a wrong order is.
    """
    images, classes = probabilities.shape
    truth, columns = labels.astype(np.float64), probabilities.astype(np.float64)
    if labels.ndim == 1:
        truth, columns = np.eye(classes)[labels], np.eye(classes)[probabilities.argmax(axis=1)]
    alike = _standardised(truth).T @ _standardised(columns) / images  # (C, C): class c with column k
    best, owner = alike.argmax(axis=1), alike.argmax(axis=0)
    known = np.flatnonzero((truth.sum(axis=0) >= _IMAGES) & (alike.max(axis=1) > _ALIKE))
    return [(int(c), int(best[c])) for c in known if best[c] != c and owner[best[c]] == c]


def _standardised(columns: np.ndarray) -> np.ndarray:
    """(N, C) with mean 0 and deviation 1; columns that are constant become 0."""
    deviation = columns.std(axis=0)
    centred: np.ndarray = columns - columns.mean(axis=0)
    return centred / np.where(deviation > 0, deviation, np.inf)


def describe_swaps(swaps: Sequence[tuple[int, int]], classes: Sequence[str]) -> str:
    """One line for a person; empty when a single class is concerned, which a classifier may well do by itself."""
    if len(swaps) < 2:
        return ""
    shown = "; ".join(f"{classes[c]!r} looks like {classes[k]!r}" for c, k in swaps[:_SHOWN])
    return f"the classes seem to be in another order than the leaderboard's ({len(swaps)} of {len(classes)}: {shown})"
