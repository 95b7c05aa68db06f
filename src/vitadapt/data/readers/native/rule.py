"""The seeded split for archives that come without one: a rule that anybody can repeat, not ELEVATER's own lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ....errors import DataError
from ...examples import hexdigest

Quotas = Mapping[str, int]  # split -> images per class


def seeded_split(names: Sequence[str], quotas: Quotas, rest: str | None, seed: int, where: str) -> dict[str, list[str]]:
    """The images `names` of one class dealt out in the order of the hash of seed and name; every part sorted.

    Each split gets its quota; what is left over goes to `rest`, or stays unused without one. In a class that is too
    small for this (a cut-down copy) the splits get shares in proportion, at least one image each.
    Raises DataError when there are fewer images than splits.
    """
    if len(names) < len(quotas):
        raise DataError(f"{where} has {len(names)} images, too few for {', '.join(quotas)}; get the data again")
    dealt = sorted(names, key=lambda name: hexdigest(f"{seed}\0{name}"))
    parts: dict[str, list[str]] = {}
    for split, count in _counts(len(names), quotas, rest).items():
        parts[split], dealt = sorted(dealt[:count]), dealt[count:]
    return parts


def is_full(count: int, quotas: Quotas, rest: str | None) -> bool:
    """Can every split of a class of `count` images have its quota?"""
    return count >= sum(quota for split, quota in quotas.items() if split != rest) + (rest is not None)


def _counts(count: int, quotas: Quotas, rest: str | None) -> dict[str, int]:
    *first, last = sorted(quotas, key=lambda split: split == rest)  # what takes the rest comes last
    full = is_full(count, quotas, rest)
    total = sum(quotas.values())
    taken = {split: quotas[split] if full else max(1, count * quotas[split] // total) for split in first}
    exact = full and rest is None
    return {**taken, last: quotas[last] if exact else count - sum(taken.values())}
