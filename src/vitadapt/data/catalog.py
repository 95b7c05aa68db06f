"""The table of named datasets (catalog.toml) and the registry of readers that it refers to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from ..utils.errors import DataError
from ..utils.files import shipped_table
from ..utils.registry import Registry
from .examples import Dataset, Examples
from .readers.reader import READERS, Contents, Options, Row


@cache
def catalog() -> Registry[Row]:
    """The named datasets, built-in ones first. A third party adds its own with `catalog().register(name)(Row(...))`."""

    rows: Registry[Row] = Registry("dataset")
    folder = files(__package__)
    for name, told in shipped_table(__package__, "catalog.toml").items():
        fields = dict(told)
        lines = fields.pop("classes", None)
        if lines is None:
            lines = folder.joinpath("classes").joinpath(f"{name}.txt").read_text(encoding="utf-8").splitlines()
        classes, spellings = _spellings(lines)
        fields |= {key: tuple(fields.get(key, ())) for key in ("sources", "also")}
        rows.register(name)(Row(name=name, classes=classes, spellings=spellings, **fields))
    return rows


def _spellings(lines: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Class names, and the class name of every other spelling, from lines `name | other | other`."""
    parts = [line.split(" | ") for line in lines]
    return tuple(name for name, *_ in parts), {other: name for name, *others in parts for other in others}


def resolve(spec: str) -> Row | None:
    """The row that `spec` names: by its own name, its leaderboard's or another one."""
    rows = catalog()
    if spec in rows:
        return rows[spec]
    return next((row for row in rows.values() if spec in (row.leaderboard, *row.also)), None)


def names_of(spec: str) -> tuple[str, ...]:
    """Every name of the dataset that `spec` names; of a folder or a table its own name."""
    row = resolve(spec)
    if row is None:
        return (Path(spec).name.removesuffix(".csv"),)
    return (row.name, *filter(None, (row.leaderboard, *row.also)))


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
        where = f"in {', '.join(dict.fromkeys(places))}" if places else "(no data root was given: --data-root FOLDER)"
        raise DataError(f"{row.name} was not found {where}; to get it: {row.how_to_get}")
    options, place = found
    read = READERS[options["reader"]].read(row, options, place)
    contents = read if isinstance(read, Contents) else Contents(read)
    notes = (*contents.notes, *contents.doubts, *size_notes(row, contents.splits))
    rule = contents.split or row.split
    try:
        return Dataset(
            *(row.name, row.classes, contents.splits, row.metric, row.squash, notes, contents.order, rule),
            doubts=contents.doubts,
        )
    except DataError as error:
        raise DataError(f"{place}: {error}; get the data again") from error


def size_notes(row: Row, splits: Mapping[str, Examples]) -> tuple[str, ...]:
    """What a copy's numbers of images say when they are not the published ones."""
    sizes = ((split, len(splits[split]), size) for split, size in row.sizes.items() if split in splits)
    return tuple(f"{split} has {got} images, {size} were published" for split, got, size in sizes if got != size)
