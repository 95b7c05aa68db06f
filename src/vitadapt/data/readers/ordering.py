"""From a copy's own class numbers to the catalog's."""

from __future__ import annotations

from collections.abc import Sequence

from ..catalog import Row


def in_order(row: Row, names: Sequence[str], where: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """(class index of each of the copy's classes, notes). Raises DataError unless the names match one to one.

    Mere numbers 0, 1, 2.. carry no name; they are taken to be the leaderboard's, and a note says so.
    """
    numbers = tuple(map(str, range(len(row.classes))))
    if tuple(names) == numbers and row.classes != numbers:
        return tuple(range(len(names))), (f"{where} has class numbers only, taken to be in the leaderboard's order",)
    return row.order(names, where), ()
