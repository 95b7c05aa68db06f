"""The table of named datasets (catalog.toml) and the registry of readers that it refers to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..registry import Registry
from .examples import Dataset, Examples

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found]

Options = Mapping[str, Any]  # one entry of `sources`: the reader's name and its options


@dataclass(frozen=True)
class Row:
    """What is known about a dataset without reading it: one table of catalog.toml."""

    name: str
    classes: tuple[str, ...]
    licence: str
    home: str
    get: str
    sizes: Mapping[str, int]
    sources: tuple[Options, ...]
    metric: str = "accuracy"
    squash: bool = False


@dataclass(frozen=True)
class Reader:
    """How one kind of storage is found and read.

    `places(options, root)` lists where it would look, best first; `has(options, place)` tells cheaply whether the data
    is there; `read(row, options, place)` gives the splits and raises DataError when they are damaged. A place is the
    text that a message shows: a folder, or the name of a Python package.
    """

    places: Callable[[Options, Path | None], list[str]]
    has: Callable[[Options, str], bool]
    read: Callable[[Row, Options, str], Mapping[str, Examples]]


READERS: Registry[Reader] = Registry("reader")


@cache
def catalog() -> Registry[Row]:
    """The named datasets, built-in ones first. A third party adds its own with `catalog().register(name)(Row(...))`."""
    from . import readers  # noqa: F401  (fills READERS; here because every reader imports this file)

    rows: Registry[Row] = Registry("dataset")
    table = tomllib.loads(files(__package__).joinpath("catalog.toml").read_text(encoding="utf-8"))
    for name, fields in table.items():
        lists = {key: tuple(fields[key]) for key in ("classes", "sources")}
        rows.register(name)(Row(name=name, **{**fields, **lists}))
    return rows


def find(row: Row, root: Path | None) -> tuple[Options, str] | None:
    """The first source of `row` that is there, with its place."""
    for options in row.sources:
        reader = READERS[options["reader"]]
        for place in reader.places(options, root):
            if reader.has(options, place):
                return options, place
    return None


def read(row: Row, root: Path | None) -> Dataset:
    """Read the dataset of `row`. Raises DataError naming where it was looked for and how to get it."""
    found = find(row, root)
    if found is None:
        places = [place for options in row.sources for place in READERS[options["reader"]].places(options, root)]
        raise DataError(f"{row.name} was not found in {', '.join(places)}; to get it: {row.get}")
    options, place = found
    splits = READERS[options["reader"]].read(row, options, place)
    return Dataset(row.name, row.classes, splits, row.metric, row.squash, _size_notes(row, splits))


def _size_notes(row: Row, splits: Mapping[str, Examples]) -> tuple[str, ...]:
    sizes = ((split, len(splits[split]), size) for split, size in row.sizes.items() if split in splits)
    return tuple(f"{split} has {got} images, {size} were published" for split, got, size in sizes if got != size)
