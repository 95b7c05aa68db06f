"""Which labelled images are used: the few-shot subset and the validation split. Labels in, indices out.

Both follow the published benchmark exactly (vision_datasets 0.2.17 and PEViT's loader), so that the same seed names the
same images.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ...utils.errors import ConfigError, DataError, first_few
from ..examples import IndexArray, LabelArray


def sample_few_shot(
    labels: LabelArray,
    shots: int,
    seed: int,
    *,
    classes: Sequence[str] | None = None,
    allow_fewer: bool = False,
) -> IndexArray:
    """Indices of about `shots` images per class, in the order in which a shuffle by `seed` met them.

    Exactly `shots` per class when an image has one label. With several labels an image is taken while none of its
    classes is full and either the emptiest is at most half full or the fullest at most 3/2 full, so that frequent
    classes may overshoot. Images without any label are taken up to `shots` times.

    `classes` gives their number and the names for messages; without it single labels are taken to be 0..max.
    Raises DataError when a class has fewer than `shots` images, unless `allow_fewer`; ConfigError when `shots` < 1.
    """
    if shots < 1:
        raise ConfigError(f"shots must be at least 1, got {shots}; leave it out to use every image")
    sizes = class_sizes(labels, classes)
    if not allow_fewer:
        _check_sizes(sizes, shots, classes)
    order = list(range(len(labels)))
    random.Random(seed).shuffle(order)
    owners = _classes_of_each(labels)
    counts, blank, chosen = [0] * len(sizes), 0, []
    lacking = len(sizes)  # classes with less than `shots`
    for image in order:
        classes_here = owners[image]
        if not classes_here:
            blank += 1
            if blank <= shots:
                chosen.append(image)
            continue
        if _wanted([counts[c] for c in classes_here], shots):
            chosen.append(image)
            for c in classes_here:
                counts[c] += 1
                lacking -= counts[c] == shots
            if not lacking:
                break
    return np.array(chosen, dtype=np.int64)


def _wanted(counts: list[int], shots: int) -> bool:
    if min(counts) >= shots:
        return False
    return min(counts) <= shots / 2 or max(counts) <= 1.5 * shots


def class_sizes(labels: LabelArray, classes: Sequence[str] | None = None) -> npt.NDArray[np.int64]:
    """Images per class, (C,)."""
    if labels.ndim == 2:
        return np.asarray(labels.sum(axis=0), dtype=np.int64)
    return np.bincount(labels, minlength=len(classes or ())).astype(np.int64)


def _check_sizes(sizes: npt.NDArray[np.int64], shots: int, classes: Sequence[str] | None) -> None:
    small = [int(c) for c in np.flatnonzero(sizes < shots)]
    if not small:
        return
    names = [f"{classes[c]!r} has {sizes[c]}" if classes else f"class {c} has {sizes[c]}" for c in small]
    raise DataError(f"{shots} images per class were asked for, but {first_few(names)}; use fewer shots or add images")


def _classes_of_each(labels: LabelArray) -> list[list[int]]:
    if labels.ndim == 1:
        return [[label] for label in labels.tolist()]
    return [[c for c, has in enumerate(row) if has] for row in labels.tolist()]


def validation_split(labels: LabelArray, fraction: float = 0.2) -> tuple[IndexArray, IndexArray]:
    """(train, validation): positions in `labels`, both ascending. No randomness: the order of `labels` decides.

    One label each: the first ceil(fraction * n_c) images of every class c validate. Several labels: while a class still
    needs images, the lowest such class takes its first unused image, which counts for all its classes.
    Raises ConfigError unless 0 < fraction < 1.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"the validation fraction must lie between 0 and 1, got {fraction}")
    needed = [_part(fraction, int(size)) for size in class_sizes(labels)]
    validates = np.array(_cover(_classes_of_each(labels), needed), dtype=bool)
    return np.flatnonzero(~validates), np.flatnonzero(validates)


def _part(fraction: float, count: int) -> int:
    return math.ceil(round(fraction * count, 9))  # 0.55 * 100 is 55.00000000000001, and 56 would be wrong


def _cover(owners: list[list[int]], needed: list[int]) -> list[bool]:
    """Is each image taken?"""
    left, used = list(needed), [False] * len(owners)
    members: list[list[int]] = [[] for _ in needed]
    for image, classes_here in enumerate(owners):
        for c in classes_here:
            members[c].append(image)
    for c, images in enumerate(members):  # counts only fall, so a class that is served stays served
        for image in images:
            if left[c] <= 0:
                break
            if not used[image]:
                used[image] = True
                for other in owners[image]:
                    left[other] -= 1
    return used
