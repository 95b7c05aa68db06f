"""Folds for cross-validation. Labels in, one fold number per image out."""

from __future__ import annotations

import random

import numpy as np

from ..errors import ConfigError
from .examples import IndexArray, LabelArray


def stratified_folds(labels: LabelArray, folds: int, seed: int) -> IndexArray:
    """(N,) the fold 0..folds-1 of each image, so that every class is spread over the folds as evenly as can be.

    Iterative stratification (Sechidis et al. 2011): the class with the fewest images left is dealt first; each of its
    images, in an order drawn from `seed`, goes to the fold with the fewest of that class, then the fewest images.
    Raises ConfigError unless 2 <= folds <= N.
    """
    if not 2 <= folds <= len(labels):
        raise ConfigError(f"cross-validation needs 2 to {len(labels)} folds of {len(labels)} images, got {folds}")
    hot = labels if labels.ndim == 2 else np.eye(int(labels.max()) + 1, dtype=np.int64)[labels]
    hot = np.column_stack([hot, hot.sum(axis=1) == 0]).astype(np.int64)  # images of no class are dealt as one
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
