"""Parts of one's own images in which pictures of one group are never separated. Labels and groups in, rows out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..data.examples import IndexArray, LabelArray
from ..data.folds import stratified_folds
from ..data.splits import hold_out
from ..errors import ConfigError

FOLDS = 5


def hold_out_groups(keys: Sequence[str], labels: LabelArray, groups: IndexArray) -> tuple[IndexArray, IndexArray]:
    """(train, test) rows, ascending: a fifth of the groups of every class, by hash of the key of their first picture.

    A class whose pictures all belong to one group stays in train: nothing would be left to learn it from.
    """
    _, first, member = np.unique(groups, return_index=True, return_inverse=True)
    _, chosen = hold_out([keys[row] for row in first], labels[first])
    held = np.isin(member, chosen)
    for c in np.unique(labels):
        own = labels == c
        if held[own].all():
            held[np.isin(groups, groups[own])] = False
    return np.flatnonzero(~held), np.flatnonzero(held)


def folds_for(labels: LabelArray, groups: IndexArray, most: int = FOLDS) -> int:
    """How many folds leave every class something to learn from in each: at most `most`, 0 when not even two do."""
    distinct = [len(np.unique(groups[labels == c])) for c in np.unique(labels)]
    folds = min(most, *distinct) if distinct else 0
    return folds if folds >= 2 else 0


def grouped_folds(labels: LabelArray, groups: IndexArray, folds: int, seed: int) -> IndexArray:
    """(N,) the fold of each picture; a group is in one fold, and its first picture speaks for its class.

    Raises ConfigError unless 2 <= folds <= groups.
    """
    if folds < 2:
        raise ConfigError(f"cross-validation needs at least 2 folds, got {folds}")
    _, first, member = np.unique(groups, return_index=True, return_inverse=True)
    return np.asarray(stratified_folds(labels[first], folds, seed)[member])
