"""The table of named datasets (catalog.toml) and the registry of readers that it refers to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..files import shipped_table
from ..registry import Registry
from .classmap import map_classes
from .examples import Dataset, Examples

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
    leaderboard: str = ""
    also: tuple[str, ...] = ()
    multilabel: bool = False
    rebuildable: bool = True
    torchvision: Mapping[str, Any] = field(default_factory=dict)  # the class that downloads it and its arguments
    spellings: Mapping[str, str] = field(default_factory=dict)  # other spelling -> class name

    @property
    def split(self) -> str:
        """The rule behind the splits of the original archives."""
        if not self.leaderboard:
            return "given"
        return "elevater" if self.rebuildable else "native"

    @property
    def repo(self) -> str | None:
        """The Hugging Face repository with a copy in shards."""
        return next((options["repo"] for options in self.sources if "repo" in options), None)

    @property
    def fetchable(self) -> bool:
        """Can a program get it, without anybody's consent?"""
        return bool(self.torchvision or self.repo)

    @property
    def how_to_get(self) -> str:
        """What a person without the data can do."""
        if not self.fetchable:
            return self.get
        return f"vitadapt data fetch {self.name} --data-root FOLDER, or the option --download, or by hand: {self.get}"

    def order(self, names: Sequence[str], where: str) -> tuple[int, ...]:
        """The class index of every one of a copy's own class `names`. Raises DataError unless they match one to one."""
        return tuple(map_classes(names, self.classes, self.spellings, where).tolist())


@dataclass(frozen=True, eq=False)
class Contents:
    """What a reader found: splits labelled with the catalog's class indices, and what it decided.

    `order[i]` is the class index of the copy's own class i; empty when the copy numbers the classes like the catalog.
    `split` is the rule behind the splits, as `Dataset` has it; empty for that of the original archives.
    """

    splits: Mapping[str, Examples]
    notes: tuple[str, ...] = ()
    order: tuple[int, ...] = ()
    split: str = ""


@dataclass(frozen=True)
class Reader:
    """How one kind of storage is found and read.

    `places(options, root)` lists where it would look, best first; `has(options, place)` tells cheaply whether the data
    is there; `read(row, options, place)` gives the splits (or Contents, when there is more to tell) and raises
    DataError when they are damaged. A place is the text that a message shows: a folder, or a Python package.
    """

    places: Callable[[Options, Path | None], list[str]]
    has: Callable[[Options, str], bool]
    read: Callable[[Row, Options, str], Mapping[str, Examples] | Contents]


READERS: Registry[Reader] = Registry("reader")


@cache
def catalog() -> Registry[Row]:
    """The named datasets, built-in ones first. A third party adds its own with `catalog().register(name)(Row(...))`."""
    from . import readers  # noqa: F401  (fills READERS; here because every reader imports this file)

    rows: Registry[Row] = Registry("dataset")
    folder = files(__package__)
    for name, told in shipped_table("vitadapt.data", "catalog.toml").items():
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
    notes = (*contents.notes, *_size_notes(row, contents.splits))
    rule = contents.split or row.split
    try:
        return Dataset(row.name, row.classes, contents.splits, row.metric, row.squash, notes, contents.order, rule)
    except DataError as error:
        raise DataError(f"{place}: {error}; get the data again") from error


def _size_notes(row: Row, splits: Mapping[str, Examples]) -> tuple[str, ...]:
    sizes = ((split, len(splits[split]), size) for split, size in row.sizes.items() if split in splits)
    return tuple(f"{split} has {got} images, {size} were published" for split, got, size in sizes if got != size)
