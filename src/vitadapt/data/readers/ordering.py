"""From a copy's own class numbers to the catalog's."""

from __future__ import annotations

from collections.abc import Sequence

from ..catalog import Row


def in_order(
    row: Row, names: Sequence[str], where: str, leaderboards: bool = False
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """(class index of each of the copy's classes, notes). Raises DataError unless the names match one to one.

    Mere numbers 0, 1, 2.. carry no name; they are taken to be the leaderboard's, and a note says so. Another note tells
    when a copy that should have the `leaderboards` order has not: nothing else may betray a permuted list of names.
    """
    numbers = tuple(map(str, range(len(row.classes))))
    if tuple(names) == numbers and row.classes != numbers:
        return tuple(range(len(names))), (f"{where} has class numbers only, taken to be in the leaderboard's order",)
    order = row.order(names, where)
    moved = sum(i != c for i, c in enumerate(order)) if leaderboards else 0
    told = (
        f"{where} lists {moved} classes in another place than the leaderboard; if it was permuted, labels are wrong",
    )
    return order, told if moved else ()
