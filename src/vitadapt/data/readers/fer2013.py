"""FER-2013: one CSV file with a row of grey values per image, its class number and its part of the competition.

Options: `files` (the table, or alternatives), `usages` (split -> what the column Usage says) and `size` (pixels).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...utils.errors import DataError
from ..examples import ArrayRef, Examples, ImageRef
from .helpers import Stored, first_of, integer, register, table_of
from .reader import Options


def load(folder: Path, options: Options) -> Stored:
    """The images in the order of the table. Raises DataError naming the line that cannot be used."""
    path = first_of(folder, options["files"])
    splits = {usage.lower(): split for split, usage in options["usages"].items()}
    refs: dict[str, list[ImageRef]] = {split: [] for split in splits.values()}
    labels: dict[str, list[int]] = {split: [] for split in splits.values()}
    for where, (label, usage, pixels) in table_of(path, ("emotion", "usage", "pixels")):
        split = splits.get(usage.lower())
        if split is None:
            raise DataError(f"{where} has the unknown usage {usage!r}; get the data again")
        refs[split].append(ArrayRef(image(where, pixels, options["size"]), f"{split}[{len(refs[split])}]"))
        labels[split].append(integer(where, label))
    return Stored({split: Examples(tuple(refs[split]), np.array(labels[split], np.int64)) for split in refs})


def image(where: str, pixels: str, size: int) -> np.ndarray:
    """(size, size) grey values from decimal text. Raises DataError when they are too few, too many or no bytes."""
    try:
        data = bytes(map(int, pixels.split()))
    except ValueError as error:
        raise DataError(f"{where} has pixels that are not numbers 0..255; get the data again") from error
    if len(data) != size * size:
        raise DataError(f"{where} has {len(data)} pixels instead of {size * size}; get the data again")
    return np.frombuffer(data, np.uint8).reshape(size, size)


register("csv-pixels", load)
