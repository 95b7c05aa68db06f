"""Laws that hold for every one of many things with every one of others: how many of the pairs are tried."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle, product
from typing import TypeVar

from fault_cases import TASTE

A, B = TypeVar("A"), TypeVar("B")


def turns(first: Iterable[A], second: Sequence[B]) -> list[tuple[A, B]]:
    """Each of `first` with one of `second`, which take turns; all pairs in `make test-faults`."""
    return list(zip(first, cycle(second), strict=False)) if TASTE else list(product(first, second))
