"""The same work on many images, on threads: results in order, all unreadable images in one error."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import TypeVar

from ..utils.errors import DataError, first_few
from ..utils.progress import Progress
from .images import UnreadableImage

T = TypeVar("T")
R = TypeVar("R")

_PER_WORKER = 16  # images handed to one worker at a time; bounds the memory held by finished results


def default_workers() -> int:
    """As many threads as this process may use cores, at most 16. Pillow and hashlib release the interpreter lock."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return min(16, len(allowed))


def each(
    work: Callable[[T], R],
    items: Sequence[T],
    stage: str,
    progress: Progress | None = None,
    workers: int | None = None,
) -> Iterator[R]:
    """work(item) for every item, in order.

    An item for which `work` raises DataError is left out; after the last one a single DataError names them all.
    """
    broken: list[DataError] = []
    for outcome in attempts(work, items, stage, progress, workers):
        if isinstance(outcome, DataError):
            broken.append(outcome)
        else:
            yield outcome
    raise_all(broken)


def attempts(
    work: Callable[[T], R],
    items: Sequence[T],
    stage: str,
    progress: Progress | None = None,
    workers: int | None = None,
) -> Iterator[R | DataError]:
    """work(item), or the DataError that it raised, for every item, in order. One worker needs no thread."""
    threads = max(1, min(workers or default_workers(), len(items)))
    with ThreadPoolExecutor(threads) if threads > 1 else nullcontext() as pool:
        at_once = pool.map if pool else map
        for start in range(0, len(items), threads * _PER_WORKER):
            stop = min(start + threads * _PER_WORKER, len(items))
            yield from at_once(partial(_attempt, work), (items[i] for i in range(start, stop)))
            if progress is not None:
                progress(stage, stop, len(items))


def raise_all(broken: list[DataError]) -> None:
    """Raises one DataError that names all of `broken`, if there are any."""
    if len(broken) == 1:
        raise broken[0]
    if broken:
        named = [f"{e.name} ({e.reason})" if isinstance(e, UnreadableImage) else str(e) for e in broken]
        message = f"{len(broken)} images cannot be read: {first_few(named)}; remove or re-save them"
        raise DataError(message, [name for error in broken for name in error.unreadable])


def _attempt(work: Callable[[T], R], item: T) -> R | DataError:
    try:
        return work(item)
    except DataError as error:
        return error
