"""What the leaderboard consists of, and the user's own copy of its test labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ...data import LabelArray
from ...data.datasets import catalog, find_copy, read_copy
from ...data.readers.reader import CatalogRow

OPTIONAL = "imagenet-1k"  # may be handed in, and counts for nothing
_HUB = "hub"  # the reader of the leaderboard's own copies


@cache
def suite() -> dict[str, CatalogRow]:
    """The data sets by the names that the leaderboard has for them, the optional one last."""
    rows = [row for row in catalog().values() if row.leaderboard]
    return {row.leaderboard: row for row in sorted(rows, key=lambda row: row.leaderboard == OPTIONAL)}


def required() -> list[str]:
    """The names of the 20 data sets that an average needs."""
    return [name for name in suite() if name != OPTIONAL]


def mean_classes() -> float:
    """Classes per data set, by which the leaderboard sizes a head."""
    return sum(len(suite()[name].classes) for name in required()) / len(required())


@dataclass(frozen=True, eq=False)
class Truth:
    """Test labels, (N,) or multi-hot (N, C); `ordered` when their order is known to be the leaderboard's."""

    labels: LabelArray
    ordered: bool
    place: str


Truths = Callable[[CatalogRow], "Truth | None"]


def truth_of(row: CatalogRow, root: Path | None) -> Truth | None:
    """The test labels of the copy below `root`, or None when there is none. Raises DataError when it is damaged."""
    found = find_copy(row, root)
    if found is None:
        return None
    options, place = found
    return Truth(read_copy(row, root).splits["test"].labels, options["reader"] == _HUB, place)


def truths_below(root: Path | None) -> Truths:
    """`truth_of` for one root, every data set read once."""
    by_name = cache(lambda name: truth_of(catalog()[name], root))
    return lambda row: by_name(row.name)
