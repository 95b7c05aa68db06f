"""Kaggle's diabetic retinopathy detection: photographs named in tables of `image` and `level`.

The labels of the test images came out after the competition, in one table whose `Usage` is Public (VTAB's validation
images) or Private (its test images). Options: `train`, `test` (table, or alternatives), `images` (split -> folder).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...utils.errors import DataError
from ..examples import Examples
from .helpers import Stored, file_refs, first_of, integer, register, table_of
from .reader import Options

_USAGES = {"Public": "val", "Private": "test"}


def load(folder: Path, options: Options) -> Stored:
    """The images in the order of the tables. Raises DataError for a damaged table or a missing image."""
    rows: dict[str, list[tuple[str, int]]] = {"train": [], "val": [], "test": []}
    train, test = (first_of(folder, options[part]) for part in ("train", "test"))
    for where, (image, level) in table_of(train, ("image", "level")):
        rows["train"].append((f"{image}.jpeg", integer(where, level)))
    for split, row in _test_rows(test):
        rows[split].append(row)
    splits = {}
    for split, part in rows.items():
        index = train if split == "train" else test
        refs = file_refs(index, folder / options["images"][split], (image for image, _ in part))
        splits[split] = Examples(refs, np.array([level for _, level in part], dtype=np.int64))
    return Stored(splits, notes=("photographs as they were taken; VTAB scales and masks them (btgraham-300)",))


def _test_rows(table: Path) -> Iterator[tuple[str, tuple[str, int]]]:
    for where, (image, level, usage) in table_of(table, ("image", "level", "Usage")):
        if usage not in _USAGES:
            raise DataError(f"{where} has the unknown usage {usage!r}; get the data again")
        yield _USAGES[usage], (f"{image}.jpeg", integer(where, level))


register("retinopathy", load)
