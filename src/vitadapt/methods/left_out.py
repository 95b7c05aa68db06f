"""Training images left out, by which heads in closed form choose their few numbers; no other image is asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

PARTS = 10  # a tenth of the images is left out at a time
MOST = 2_000_000  # logits that are looked at; of more, images at equal distances


def parts_of(labels: np.ndarray) -> np.ndarray:
    """(N,) the number of the part with which each image is left out; every part has its share of every class.

    How the classes are numbered does not matter: they are gone through in the order in which they appear.
    """
    part = np.empty(len(labels), dtype=np.int64)
    _, first, which = np.unique(labels, return_index=True, return_inverse=True)
    part[np.argsort(first[which], kind="stable")] = np.arange(len(labels)) % min(len(labels), PARTS)
    return part


def judges(labels: np.ndarray, classes: int) -> np.ndarray:
    """(n,) the images that may be left out: one alone in its class cannot be known without it. Empty at one shot."""
    rows = np.flatnonzero(np.bincount(labels)[labels] > 1)
    return rows[:: max(1, -(-len(rows) * classes // MOST))]


def left_out_logits(
    labels: np.ndarray, classes: int, rows: np.ndarray, solve: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """(..., n, C) logits of the images `rows` by heads that were made without them; an image alone in its class stays.

    solve(rest, out): logits (..., k, C) of the images `out` (k,) by heads made of the images `rest`, a mask (N,).
    """
    part, found = parts_of(labels), None
    alone = np.bincount(labels)[labels] == 1
    for number in np.unique(part[rows]):
        own = part[rows] == number
        logits = solve((part != number) | alone, rows[own])
        if found is None:
            found = np.zeros((*logits.shape[:-2], len(rows), classes))
        found[..., own, :] = logits
    assert found is not None
    return found


def losses(logits: np.ndarray, labels: np.ndarray, temperatures: np.ndarray) -> np.ndarray:
    """(T,) negative log-likelihood of labels (n,) under logits (n, C) at each temperature.

    A share of 1 / (n + 1) of every label is spread over all classes: no more certain than so many images allow.
    """
    doubt = 1 / (len(labels) + 1)
    right = (1 - doubt) * logits[np.arange(len(labels)), labels].sum() + doubt * logits.mean(axis=1).sum()
    top = logits.max(axis=1, keepdims=True)
    lower, rest = logits - top, top.sum() - right
    return np.array([np.log(np.exp(lower / t).sum(axis=1)).sum() + rest / t for t in temperatures])
