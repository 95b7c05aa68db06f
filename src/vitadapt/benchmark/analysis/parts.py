"""The scores of which a record's score is made: base and new classes, other datasets; and best and last epoch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ..results.record import Record
from .groups import OverSeeds, Setting, groups_of


@dataclass(frozen=True)
class Part(OverSeeds):
    """One of the scores of a method on a dataset, by seed, in percent. name: "score" for the record's own."""

    setting: Setting
    method: str
    dataset: str
    name: str
    scores: tuple[float, ...]


def parts_of_scores(records: Sequence[Record]) -> list[Part]:
    """A row for each part, then one for the score itself, of every method and dataset that has parts."""
    rows = []
    for group in groups_of([record for record in records if record.scores]):
        found: dict[tuple[str, str], list[float]] = defaultdict(list)
        for record in group.records:
            for name, value in {**record.scores, "score": record.score}.items():
                if value is not None:
                    found[(record.config["dataset"], name)].append(value)
        rows += [Part(group.setting, group.method, *key, tuple(values)) for key, values in found.items()]
    return rows
