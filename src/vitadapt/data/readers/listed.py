"""Pictures of a package, by a list of ours: which of its files become which class, and in which split.

Options: `list` (a CSV file of this package in data/lists, with the columns path, class and split), `folders` (below the
data root, best first), `system` (where the package of the operating system puts them) and `package` (its name).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np

from ...utils.errors import DataError
from ..examples import Examples, FileRef
from .idx import places
from .reader import READERS, CatalogRow, Options, Reader


@cache
def listing(name: str) -> tuple[tuple[str, str, str], ...]:
    """The lines of a list of this package: (path, class, split)."""
    text = (files("vitadapt.data") / "lists" / name).read_text(encoding="utf-8")
    return tuple((row["path"], row["class"], row["split"]) for row in csv.DictReader(text.splitlines()))


def has(options: Options, place: str) -> bool:
    """Does the first picture of the list lie there?"""
    return Path(place, listing(options["list"])[0][0]).is_file()


def read(row: CatalogRow, options: Options, place: str) -> Mapping[str, Examples]:
    """Train and test, in the order of the list. Raises DataError naming a picture that is missing."""
    found: dict[str, tuple[list[FileRef], list[int]]] = {"train": ([], []), "test": ([], [])}
    for name, label, split in listing(options["list"]):
        path = Path(place, name)
        if not path.is_file():
            raise DataError(f"{path} is missing; install {options['package']} again")
        refs, labels = found[split]
        refs.append(FileRef(path))
        labels.append(row.classes.index(label))
    return {split: Examples(tuple(refs), np.array(labels, np.int64)) for split, (refs, labels) in found.items()}


READERS.register("listed")(Reader(places, has, read))
