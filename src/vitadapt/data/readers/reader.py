"""What a reader of a dataset's storage is, and the registry of readers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...utils.registry import Registry
from ..class_names import map_classes
from ..examples import Examples

Options = Mapping[str, Any]  # one entry of `sources`: the reader's name and its options


@dataclass(frozen=True)
class CatalogRow:
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
    edition_of: str = ""  # the row whose images this one publishes with splits of its own

    @property
    def split(self) -> str:
        """The rule behind the splits of the original archives."""
        if "train" not in self.sizes:
            return "undivided"
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
    `split` is the rule behind the splits, as `Dataset` has it; empty for that of the original archives. `doubts` are
    notes that a person should read.
    """

    splits: Mapping[str, Examples]
    notes: tuple[str, ...] = ()
    order: tuple[int, ...] = ()
    split: str = ""
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reader:
    """How one kind of storage is found and read.

    `places(options, root)` lists where it would look, best first; `has(options, place)` checks cheaply for the data;
    `read(row, options, place)` gives the splits (or Contents, when there is more to tell) and raises
    DataError when they are damaged. A place is the text that a message shows: a folder, or a Python package.
    """

    places: Callable[[Options, Path | None], list[str]]
    has: Callable[[Options, str], bool]
    read: Callable[[CatalogRow, Options, str], Mapping[str, Examples] | Contents]


READERS: Registry[Reader] = Registry("reader", "vitadapt.readers")


def in_order(
    row: CatalogRow, names: Sequence[str], where: str, leaderboards: bool = False
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """(class index of each of the copy's classes, doubts). Raises DataError unless the names match one to one.

    Mere numbers 0, 1, 2.. carry no name; they are taken to be the leaderboard's, and a doubt says so. Another says
    when a copy that should have the `leaderboards` order has not: a permuted list of names may show nowhere else.
    """
    numbers = tuple(map(str, range(len(row.classes))))
    if tuple(names) == numbers and row.classes != numbers:
        return tuple(range(len(names))), (f"{where} has class numbers only, taken to be in the leaderboard's order",)
    order = row.order(names, where)
    moved = sum(i != c for i, c in enumerate(order)) if leaderboards else 0
    if not moved:
        return order, ()
    return order, (
        f"{where} lists {moved} classes in another place than the leaderboard; if it was permuted, labels are wrong",
    )
