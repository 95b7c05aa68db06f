"""The split files of CoOp (Zhou et al. 2022): JSON, split -> list of [path, number of the class, its name].

Class names match the catalog's in any order of their words ("2012 Tesla Model S", "Tesla Model S 2012"). Options:
`list` (the file), `images` (the folder that the paths lie in) and `numbered`: the numbers count, not the names.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ...utils.errors import DataError
from ..class_names import class_key
from ..examples import Examples
from .helpers import Stored, contents, file_refs, has, places, text_of
from .index_files import parsed
from .reader import READERS, CatalogRow, Contents, Options, Reader

_SPLITS = ("train", "val", "test")


def read(row: CatalogRow, options: Options, place: str) -> Contents:
    """The images in the order of the file. Raises DataError for a damaged file, unknown classes and missing images."""
    index = Path(place) / options["list"]
    table = parsed(str(index), text_of(index))
    names: dict[int, str] = {}
    splits = {}
    lists = {split: _entries(index, table, split) for split in _SPLITS}
    for _, label, name in chain(*lists.values()):
        if names.setdefault(label, name) != name:
            raise DataError(f"{index} calls class {label} {names[label]!r} and {name!r}; get the file again")
    if sorted(names) != list(range(len(names))):
        raise DataError(f"{index} does not number its {len(names)} classes from 0 on; get the file again")
    for split, entries in lists.items():
        refs = file_refs(index, Path(place) / options["images"], (image for image, _, _ in entries))
        splits[split] = Examples(refs, np.array([label for _, label, _ in entries], dtype=np.int64))
    known = () if options.get("numbered") else tuple(_as_spelt(row, names[label]) for label in range(len(names)))
    return contents(row, options, place, Stored(splits, known))


def _entries(index: Path, table: Any, split: str) -> list[tuple[str, int, str]]:
    entries = table.get(split) if isinstance(table, dict) else None
    try:
        found = [(str(image), label, str(name)) for image, label, name in entries or ()]
    except (TypeError, ValueError):
        found = []
    if not found or not all(isinstance(label, int) for _, label, _ in found):
        raise DataError(f"{index} has no list of [path, number, name] called {split}; get the file again")
    return found


def _as_spelt(row: CatalogRow, name: str) -> str:
    """The one spelling of the catalog that has the words of `name`; `name` when none or several have."""
    wanted = sorted(class_key(name).split())
    found = {known for known in (*row.classes, *row.spellings) if sorted(class_key(known).split()) == wanted}
    meant = {row.spellings.get(known, known) for known in found}
    return meant.pop() if len(meant) == 1 else name


READERS.register("split-json")(Reader(places, has, read))
