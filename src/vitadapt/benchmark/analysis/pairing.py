"""Which records may be compared: those of one setting, on the cells that methods share.

A *setting* is all that must be alike (backbone, image size, shots, protocol, precision); a *cell* is a dataset with a
seed, and the very images that were tested on.
"""

from __future__ import annotations

import statistics as plain
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..results.record import Record
from .groups import Setting, groups_of


class RunKey(NamedTuple):
    """What two methods must share to be compared."""

    dataset: str
    seed: int  # -1 where an imported run does not tell
    subset: str
    images: str  # digest of the test images


Scores = dict[RunKey, float]


def by_setting(records: Sequence[Record]) -> dict[Setting, dict[str, list[Record]]]:
    """setting -> method -> records, sorted; the same method with other hyper-parameters is another method."""
    found: dict[Setting, dict[str, list[Record]]] = defaultdict(dict)
    for group in sorted(groups_of(records), key=lambda g: (str(g.setting), g.method)):
        found[group.setting][group.method] = group.records
    return dict(found)


def scores_of(records: Iterable[Record]) -> Scores:
    """Scores in percent by cell; a run that diverged has none."""
    found = {}
    for record in records:
        config = record.config
        seed = -1 if config["seed"] is None else config["seed"]
        cell = RunKey(config["dataset"], seed, config.get("subset") or "", record.images.get("test", ""))
        if record.score is not None:
            found[cell] = record.score
    return found


def by_dataset(values: Scores) -> dict[str, list[float]]:
    """dataset -> values in the order of the cells."""
    found: dict[str, list[float]] = defaultdict(list)
    for cell in sorted(values):
        found[cell.dataset].append(values[cell])
    return dict(found)


def dataset_means(values: Scores) -> list[float]:
    """Means over the seeds of each dataset."""
    return [plain.fmean(members) for members in by_dataset(values).values()]


def mean_of(values: Scores) -> float:
    """Every dataset counts the same, however many seeds it has."""
    return plain.fmean(dataset_means(values))
