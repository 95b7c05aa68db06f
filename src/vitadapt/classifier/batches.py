"""Images in batches, so that memory does not grow with their number; unreadable ones are named and skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..data.examples import ImageRef
from ..data.images import UnreadableImage
from ..utils.errors import DataError
from ..utils.progress import Progress

BATCH = 64  # images


@dataclass(frozen=True)
class Batch:
    """The rows of the readable images of a batch, what they gave (n, ...), and one message per unreadable image."""

    rows: list[int]
    outputs: list[np.ndarray]
    unreadable: list[str] = field(default_factory=list)


def batches(
    refs: Sequence[ImageRef],
    output: Callable[[Sequence[ImageRef]], np.ndarray],
    label: str,
    progress: Progress | None = None,
) -> Iterator[Batch]:
    """`output` of all readable images, in order. A batch with an unreadable image is done one image at a time."""
    for start in range(0, len(refs), BATCH):
        rows = list(range(start, min(start + BATCH, len(refs))))
        try:
            yield Batch(rows, [output([refs[row] for row in rows])])
        except DataError:
            yield _one_by_one(refs, rows, output)
        if progress is not None:
            progress(label, rows[-1] + 1, len(refs))


def _one_by_one(
    refs: Sequence[ImageRef], rows: Sequence[int], output: Callable[[Sequence[ImageRef]], np.ndarray]
) -> Batch:
    found = Batch([], [])
    for row in rows:
        try:
            found.outputs.append(output([refs[row]]))
            found.rows.append(row)
        except UnreadableImage as error:
            found.unreadable.append(str(error))
    return found
