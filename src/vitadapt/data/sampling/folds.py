"""Folds for cross-validation. Labels in, one fold number per image out.

By hand: StratifiedGroupKFold gives other folds, which would change recorded results, and takes one label per image.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from ...utils.errors import ConfigError
from ..examples import IndexArray, LabelArray
from .splits import hold_out


def stratified_folds(labels: LabelArray, folds: int, seed: int) -> IndexArray:
    """(N,) the fold 0..folds-1 of each image, so that every class is spread over the folds as evenly as can be.

    Iterative stratification (Sechidis et al. 2011): the class with the fewest images left is dealt first; each of its
    images, in an order drawn from `seed`, goes to the fold with the fewest of that class, then the fewest images.
    Raises ConfigError unless 2 <= folds <= N.
    """
    if not 2 <= folds <= len(labels):
        raise ConfigError(f"cross-validation needs 2 to {len(labels)} folds of {len(labels)} images, got {folds}")
    hot = labels if labels.ndim == 2 else np.eye(int(labels.max()) + 1, dtype=np.int64)[labels]
    hot = with_none(hot).astype(np.int64)  # images of no class are dealt as one
    fold = np.full(len(labels), -1, dtype=np.int64)
    held, sizes = np.zeros((folds, hot.shape[1]), dtype=np.int64), np.zeros(folds, dtype=np.int64)
    order = list(range(len(labels)))
    random.Random(seed).shuffle(order)
    while (fold < 0).any():
        left = hot[fold < 0].sum(axis=0)
        rarest = int(np.argmin(np.where(left > 0, left, len(labels) + 1)))
        for image in order:
            if fold[image] < 0 and hot[image, rarest]:
                to = int(np.lexsort((sizes, held[:, rarest]))[0])
                fold[image] = to
                held[to] += hot[image]
                sizes[to] += 1
    return fold


FOLDS = 5


def hold_out_groups(
    keys: Sequence[str], labels: LabelArray, groups: IndexArray, least: int = 1
) -> tuple[IndexArray, IndexArray]:
    """(train, test) rows, ascending: a fifth of the groups of every class, by hash of the key of their first picture.

    A class of which fewer than `least` groups would be left stays in train.
    """
    _, first, member = np.unique(groups, return_index=True, return_inverse=True)
    _, chosen = hold_out([keys[row] for row in first], with_none(labels)[first])
    held = np.isin(member, chosen)
    for members in _members(labels):
        if len(np.unique(groups[members & ~held])) < least:
            held[np.isin(groups, groups[members])] = False
    return np.flatnonzero(~held), np.flatnonzero(held)


def with_none(labels: LabelArray) -> LabelArray:
    """Multi-hot labels (N, C) with a class more, of the images that have none; one label each as it is."""
    return labels if labels.ndim == 1 else np.column_stack([labels, labels.sum(axis=1) == 0])


def _members(labels: LabelArray) -> list[np.ndarray]:
    """For each class that occurs: (N,) does the image belong to it?"""
    if labels.ndim == 1:
        return [labels == c for c in np.unique(labels)]
    return [own > 0 for own in labels.T if own.any()]


def single_classes(labels: LabelArray, groups: IndexArray, classes: Sequence[str]) -> list[str]:
    """The classes of which there is one group of images alone, so that no folds can be made."""
    members = labels.T > 0 if labels.ndim == 2 else np.arange(len(classes))[:, None] == labels
    return [name for name, own in zip(classes, members, strict=True) if len(np.unique(groups[own])) == 1]


def folds_for(labels: LabelArray, groups: IndexArray, most: int = FOLDS) -> int:
    """How many folds leave every class something to learn from in each: at most `most`, 0 when not even two do."""
    distinct = [len(np.unique(groups[own])) for own in _members(labels)]
    folds = min(most, *distinct) if distinct else 0
    return folds if folds >= 2 else 0


def grouped_folds(labels: LabelArray, groups: IndexArray, folds: int, seed: int) -> IndexArray:
    """(N,) the fold of each picture; a group is in one fold, and its first picture stands for its class.

    Raises ConfigError unless 2 <= folds <= groups.
    """
    _, first, member = np.unique(groups, return_index=True, return_inverse=True)
    return np.asarray(stratified_folds(labels[first], folds, seed)[member])
