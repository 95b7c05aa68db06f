"""Groups of pictures that show nearly the same: copies, crops, mirror images, frames of one scene.

A held-out picture that has a twin among the training pictures tests memory, not skill. Two pictures belong together
when one of them, mirrored or not, fits a window of the other: the best window is looked for coarsely (8 x 8 cells, 100
windows) and then exactly (16 x 16 cells, any window), and the correlation of the cells in colour must be high. Groups
are closed: what belongs to one member belongs to all.

Up to some 7,000 pictures every pair is compared with all windows, in 64 numbers each. Of more, fewer windows are looked
at (the centred ones first), so that the work stays about the same: 1,000 pictures take a second or two of one core,
10,000 and 30,000 about a minute.
"""

from __future__ import annotations

import hashlib
import math
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...utils.progress import Progress
from ..examples import IndexArray
from ..images import Pixel8

Floats = npt.NDArray[np.float32]
Reals = npt.NDArray[np.floating[Any]]  # in whatever precision

SIDE = 48  # pixels of the small pictures that are compared
COARSE, FINE = 8, 16  # cells along one side
LOOSE = 0.75  # coarse correlation from which a pair is looked at exactly
SAME = 0.945  # exact correlation that is enough
ALIKE = 0.88  # exact correlation from which better windows are looked for
FEW = 4  # pairs per picture that are looked at exactly
_FLAT = 0.7 / 255  # contrast below this is noise
_STEPS = (0.06, 0.03, 0.015)  # by which a window's edges are moved, in parts of the picture
_MOVES = ((1, 1), (-1, -1), (1, -1), (-1, 1), (1, 0), (0, -1))  # of the two edges along an axis
_WINDOWS = [(0.0, 1.0), *((a, a + s) for s in (0.85, 0.72, 0.6) for a in (0.0, (1 - s) / 2, 1 - s))]  # along one axis
_BLOCK, _PART = 256, 4096  # pictures at a time
_COMPARISONS = 10**10  # of 64 numbers with 64 numbers


def thumbnail(image: Image.Image) -> Pixel8:
    """An upright RGB picture, all of it, squeezed into (48, 48, 3)."""
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def groups(thumbnails: Pixel8, rows: IndexArray, progress: Progress | None = None) -> IndexArray:
    """(N,) the number of the group of each of the pictures `rows` (N,) of thumbnails (M, 48, 48, 3).

    Groups are numbered 0, 1, 2 .. in the order of first appearance. Labels play no part.
    """
    return _closed(len(rows), _pairs(thumbnails, rows, progress))


def _pairs(small: Pixel8, rows: IndexArray, progress: Progress | None) -> npt.NDArray[np.int64]:
    """(M, 2) pictures that belong together."""
    seen: dict[bytes, int] = {}
    first = [seen.setdefault(hashlib.blake2b(small[row], digest_size=16).digest(), i) for i, row in enumerate(rows)]
    equal = np.column_stack([np.array(first, dtype=np.int64), np.arange(len(rows))])
    different = np.unique(equal[:, 0])  # equal pictures are compared once
    if len(different) < 2:
        return equal
    whole, mirrored, start = _candidates(small, rows[different], progress)
    found = _fit(small, rows[different], whole, mirrored, start)
    return np.concatenate([equal, different[whole[found >= SAME]]])


def _candidates(
    small: Pixel8, rows: IndexArray, progress: Progress | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """(M, 2) pairs (whole picture, picture with the window), (M,) mirrored?, (M, 2) numbers of the window's axes.

    Of each picture the few others that it fits best.
    """
    places = _places(len(rows))
    windows = np.empty((len(places), len(rows), COARSE**2), dtype=np.float32)
    for begin in range(0, len(rows), _PART):
        part = slice(begin, begin + _PART)
        grey = _integral(small[rows[part]].mean(axis=3, keepdims=True) / 255)
        for number, (y, x) in enumerate(places):
            windows[number, part] = _coarse(grey, _WINDOWS[y], _WINDOWS[x])
    mirrors = windows[0].reshape(-1, COARSE, COARSE)[:, :, ::-1].reshape(windows[0].shape)
    queries = np.stack([windows[0], mirrors])  # (2, N, cells)
    found = []
    for begin in range(0, len(rows), _BLOCK):
        block = np.arange(begin, min(begin + _BLOCK, len(rows)))
        best = np.full((len(block), len(rows)), -np.inf, dtype=np.float32)
        for query, cells in product(queries[:, block], windows):
            np.maximum(best, query @ cells.T, out=best)
        mine, others = _promising(best, block)
        scores = np.einsum("fmc,wmc->mfw", queries[:, block[mine]], windows[:, others])  # again, to know the window
        chosen = scores.reshape(len(mine), 2 * len(windows)).argmax(axis=1)
        found.append((np.column_stack([block[mine], others]), chosen >= len(windows), places[chosen % len(windows)]))
        if progress is not None:
            progress("comparing", int(block[-1]) + 1, len(rows))
    pairs, mirrored, start = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return pairs, mirrored, start


def _places(count: int) -> npt.NDArray[np.int64]:
    """(W, 2) numbers of the windows (y, x) to look at in each of `count` pictures: all, or the most central."""
    places: list[tuple[int, ...]] = list(product(range(len(_WINDOWS)), repeat=2))
    affordable = max(1, _COMPARISONS // (2 * count**2))
    if affordable < len(places):
        places = sorted(places, key=_eccentricity)[:affordable]
    return np.array(places, dtype=np.int64)


def _eccentricity(place: tuple[int, ...]) -> float:
    """How far the window's middle is from that of the picture, and how far it is from square."""
    (top, bottom), (left, right) = (_WINDOWS[number] for number in place)
    return round(abs(top + bottom - 1) + abs(left + right - 1) + abs(bottom - top - right + left), 6)


def _promising(best: Floats, block: npt.NDArray[np.int64]) -> tuple[IndexArray, IndexArray]:
    """Rows and columns of `best` that deserve an exact look. `best` of a picture with itself is set aside."""
    best[np.arange(len(block)), block] = -np.inf
    few = min(FEW, best.shape[1] - 1)
    chosen = np.zeros(best.shape, dtype=bool)
    np.put_along_axis(chosen, np.argpartition(-best, few - 1, axis=1)[:, :few], True, axis=1)
    rows, others = np.nonzero(chosen & (best >= LOOSE))
    return rows, others


def _fit(
    small: Pixel8,
    rows: IndexArray,
    pairs: npt.NDArray[np.int64],
    mirrored: npt.NDArray[np.bool_],
    start: npt.NDArray[np.int64],
) -> Floats:
    """(M,) the correlation, in colour, of each whole picture with the window of the other that fits it best."""
    found = [np.zeros(0, dtype=np.float32)]
    axes, everything = np.array(_WINDOWS), np.array([[0.0, 1.0]])
    for begin in range(0, len(pairs), _BLOCK):
        part = slice(begin, begin + _BLOCK)
        used, place = np.unique(pairs[part], return_inverse=True)
        integral, (whole, other) = _integral(small[rows[used]] / 255), place.reshape(-1, 2).T
        wanted = _cells(integral[whole], everything, everything, FINE)
        wanted[mirrored[part]] = wanted[mirrored[part]][:, :, ::-1]
        found.append(_climb(integral[other], wanted, axes[start[part, 0]], axes[start[part, 1]]))
    return np.concatenate(found)


def _climb(integral: Floats, wanted: Floats, y: Reals, x: Reals) -> Floats:
    """Move the edges of the windows y, x (M, 2) by ever smaller steps while that makes them fit better -> (M,)."""
    target = _standard(wanted)
    best = _agreement(target, integral, y, x)
    for step in _STEPS:
        alive = np.flatnonzero(best >= ALIKE - 2 * step)  # others are too far away to arrive
        part, goal, edges_y, edges_x = integral[alive], target[alive], y[alive], x[alive]
        for axis, move in product((0, 1), _MOVES):
            tried = [edges_y, edges_x]
            tried[axis] = _moved(tried[axis], step * np.array(move))
            score = _agreement(goal, part, *tried)
            better = score > best[alive]
            best[alive[better]] = score[better]
            edges_y = np.where(better[:, None], tried[0], edges_y)
            edges_x = np.where(better[:, None], tried[1], edges_x)
        y[alive], x[alive] = edges_y, edges_x
    return best


def _agreement(target: Floats, integral: Floats, y: Reals, x: Reals) -> Floats:
    found: Floats = (_standard(_cells(integral, y, x, FINE)) * target).sum(axis=1)
    return found


def _moved(window: Reals, move: Reals) -> Reals:
    """Edges (M, 2) within the picture and at least half of it apart; where they would not be, they stay."""
    moved = np.clip(window + move, 0, 1)
    return np.where((moved[:, 1] - moved[:, 0] >= 0.5)[:, None], moved, window)


def _integral(images: Reals) -> Floats:
    """(N, S, S, C) -> sums over everything above and to the left of each corner, (N, S + 1, S + 1, C)."""
    sums = (images - images.mean()).cumsum(axis=1).cumsum(axis=2)  # centred: single precision is enough for them
    return np.pad(sums, ((0, 0), (1, 0), (1, 0), (0, 0))).astype(np.float32)


def _coarse(grey: Floats, y: tuple[float, float], x: tuple[float, float]) -> Floats:
    """The window (y, x) of every picture as (N, cells), standardised."""
    return _standard(_cells(grey, np.array([y]), np.array([x]), COARSE))


def _cells(integral: Floats, y: Reals, x: Reals, cells: int) -> Floats:
    """Mean colours of a window's cells: (N, S + 1, S + 1, C), edges y and x (N or 1, 2) -> (N, cells, cells, C)."""
    steps = np.linspace(0, 1, cells + 1)
    rows, columns = ((edge[:, :1] + (edge[:, 1:] - edge[:, :1]) * steps) * SIDE for edge in (y, x))
    strips = _at(integral, rows)
    corners = _at(strips.transpose(0, 2, 1, 3), columns)
    area = np.diff(rows)[:, None, :, None] * np.diff(columns)[:, :, None, None]
    means = np.diff(np.diff(corners, axis=1), axis=2) / area
    return np.asarray(means.transpose(0, 2, 1, 3), dtype=np.float32)


def _at(sums: Reals, places: Reals) -> Reals:
    """Sums (N, S + 1, ...) between rows, at `places` (N or 1, K): exact, because pixels are constant inside."""
    low = np.minimum(places.astype(np.int64), SIDE - 1)
    part = (places - low)[:, :, None, None]
    row = np.arange(len(sums))[:, None]
    return np.asarray(sums[row, low] * (1 - part) + sums[row, low + 1] * part)


def _standard(cells: Floats) -> Floats:
    """(N, ...) -> (N, numbers) with mean 0 and, unless there is next to no contrast, length 1."""
    flat = cells.reshape(len(cells), math.prod(cells.shape[1:]))
    flat = flat - flat.mean(axis=1, keepdims=True)
    length = np.sqrt(np.square(flat).sum(axis=1, keepdims=True) + flat.shape[1] * _FLAT**2)
    return np.asarray(flat / length, dtype=np.float32)


def _closed(count: int, pairs: npt.NDArray[np.int64]) -> IndexArray:
    """Connected components of the pairs, numbered by first appearance."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    links = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, label = connected_components(links, directed=False)
    _, first, number = np.unique(label, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[number]
