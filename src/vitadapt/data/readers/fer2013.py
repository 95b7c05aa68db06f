"""FER-2013: one CSV file with a row of grey values per image, its class number and its part of the competition.

Options: `files` (the table, or alternatives), `usages` (split -> what the column Usage says) and `size` (pixels).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...utils.errors import DataError
from ..examples import ArrayRef, Examples, ImageRef
from .helpers import Stored, first_of, integer, register, text_of
from .reader import Options

_COLUMNS = ("emotion", "usage", "pixels")


def load(folder: Path, options: Options) -> Stored:
    """The images in the order of the table. Raises DataError naming the line that cannot be used."""
    path = first_of(folder, options["files"])
    splits = {usage.lower(): split for split, usage in options["usages"].items()}
    refs: dict[str, list[ImageRef]] = {split: [] for split in splits.values()}
    labels: dict[str, list[int]] = {split: [] for split in splits.values()}
    for where, label, usage, pixels in table(path):
        split = splits.get(usage.lower())
        if split is None:
            raise DataError(f"{where} has the unknown usage {usage!r}; get the data again")
        refs[split].append(ArrayRef(image(where, pixels, options["size"]), f"{split}[{len(refs[split])}]"))
        labels[split].append(integer(where, label))
    return Stored({split: Examples(tuple(refs[split]), np.array(labels[split], np.int64)) for split in refs})


def table(path: Path) -> Iterator[tuple[str, str, str, str]]:
    """(where, emotion, usage, pixels) of every line. Raises DataError when it is no such table."""
    rows = csv.reader(text_of(path).splitlines())
    try:
        names = [name.strip().lower() for name in next(rows, [])]
        if absent := [name for name in _COLUMNS if name not in names]:
            raise DataError(f"{path} has no column {', '.join(absent)}; take the file with labels for all parts")
        columns = [names.index(name) for name in _COLUMNS]
        for row in rows:
            where = f"{path}: line {rows.line_num}"
            if len(row) != len(names):
                raise DataError(f"{where} has {len(row)} fields instead of {len(names)}; get the data again")
            label, usage, pixels = (row[column].strip() for column in columns)
            yield where, label, usage, pixels
    except csv.Error as error:
        raise DataError(f"{path}: line {rows.line_num} is not valid CSV ({error}); get the data again") from error


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
