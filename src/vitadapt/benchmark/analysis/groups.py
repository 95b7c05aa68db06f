"""Records grouped into the rows of a table: seeds folded into mean and spread."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from ...metrics.scores import performance_efficiency, performance_per_tuned
from ...utils.files import checksum
from ..results.record import RecordSummary

Of = TypeVar("Of", bound=RecordSummary)


VARYING = ("backbone", "image_size", "shots", "protocol", "precision", "test")


class OverSeeds:
    """What has one score per seed: their mean and standard deviation, None where there are too few."""

    scores: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.scores) if self.scores else None

    @property
    def sd(self) -> float | None:
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None


@dataclass(frozen=True)
class TableCell(OverSeeds):
    """Scores of one method on one dataset over seeds, in percent."""

    scores: tuple[float, ...]
    diverged: int = 0
    splits: tuple[str, ...] = ()  # the rules behind train and test, as far as the records tell them
    tested: frozenset[tuple[str, int]] = frozenset()  # digest and number of the test images; one, unless they changed
    drawn: frozenset[tuple[str, str]] = frozenset()  # how training images were drawn, and their digest

    def text(self) -> str:
        parts = [] if self.mean is None else [f"{self.mean:.1f}"]
        if self.sd is not None:
            parts.append(f"± {self.sd:.1f}")
        if self.diverged:
            parts.append(f"({self.diverged} diverged)")
        return " ".join(parts)


@dataclass(frozen=True)
class TableRow:
    """One line of the results: who, its score per dataset, and what it costs on average."""

    setting: tuple[tuple[str, Any], ...]
    method: str
    cells: dict[str, TableCell]
    trained: float | None  # trainable numbers, head included, averaged over runs
    seconds: float  # per run
    caveat: str = ""  # as the records have it

    @property
    def average(self) -> float | None:
        """Mean over datasets, only when every dataset has a score."""
        means = [cell.mean for cell in self.cells.values()]
        known = [mean for mean in means if mean is not None]
        return statistics.fmean(known) if known and len(known) == len(means) else None

    @property
    def pe(self) -> float | None:
        if self.average is None or self.trained is None:
            return None
        return performance_efficiency(self.average, self.trained)

    @property
    def ppt(self) -> float | None:
        if self.average is None or self.trained is None:
            return None
        return performance_per_tuned(self.average, self.trained)


Setting = tuple[tuple[str, Any], ...]


class InSetting(Protocol):
    """Something that was measured in one setting."""

    @property
    def setting(self) -> Setting: ...


@dataclass(frozen=True)
class Group(Generic[Of]):
    """Records that differ in dataset and seed alone, under a name that no other group has."""

    setting: Setting
    method: str
    records: list[Of]


def groups_of(records: Sequence[Of]) -> list[Group[Of]]:
    """Group records by everything but dataset and seed: settings in order, in each the method that trains least first.

    Where a method was run with several recipes or prompts, its name is followed by what differs.
    """
    groups: dict[tuple[Any, ...], list[Of]] = defaultdict(list)
    variants: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = defaultdict(dict)
    for record in sorted(records, key=lambda r: (r.created, r.digest)):
        who = (tuple((name, record.config.get(name)) for name in VARYING), record.method)
        details = _details(record.config)
        text = json.dumps(details, sort_keys=True)
        variants[who][text] = details
        key = (*who, text)
        groups[key].append(record)
    found = [
        Group(setting, method + _difference(variants[(setting, method)], text), members)
        for (setting, method, text), members in groups.items()
    ]
    return sorted(found, key=lambda group: (_setting_key(group.setting), _trained(group.records) or math.inf))


def _details(config: dict[str, Any]) -> dict[str, Any]:
    """What may tell apart records of one method in one setting, by name."""
    prompts = config.get("prompts")
    return {**(config["recipe"] or {}), "prompts": checksum(prompts)[:6] if prompts else "built-in"}


def _setting_key(setting: Setting) -> list[tuple[bool, float, str]]:
    """Settings in the order of their values: numbers as numbers, then words, none last."""
    return [
        (value is None, float(value), "") if isinstance(value, (int, float)) else (value is None, math.inf, str(value))
        for _, value in setting
    ]


def _trained(records: Sequence[RecordSummary]) -> float | None:
    """Trainable numbers, head included, averaged over runs; None when no run has them."""
    trained = [record.parameters["trained"] for record in records if "trained" in record.parameters]
    return statistics.fmean(trained) if trained else None


def _difference(variants: dict[str, dict[str, Any]], text: str) -> str:
    """ " [lr=0.01]" for the variant `text`: its fields that differ between variants; nothing for the only one."""
    names = {name for details in variants.values() for name in details}
    differing = sorted(name for name in names if len({str(details.get(name)) for details in variants.values()}) > 1)
    return f" [{', '.join(f'{n}={variants[text][n]}' for n in differing if n in variants[text])}]" if differing else ""


def rows_of(records: Sequence[RecordSummary]) -> list[TableRow]:
    """One row per group of records."""
    datasets = sorted({record.config["dataset"] for record in records})
    return [_row(group.setting, group.method, group.records, datasets) for group in groups_of(records)]


def _row(setting: Setting, method: str, records: Sequence[RecordSummary], datasets: list[str]) -> TableRow:
    cells, by_dataset = {}, defaultdict[str, list[RecordSummary]](list)
    for record in records:
        by_dataset[record.config["dataset"]].append(record)
    for dataset in datasets:
        mine = by_dataset[dataset]
        scores = tuple(record.score for record in mine if record.score is not None)
        rules = tuple(sorted({record.split for record in mine if record.split}))
        tests = ((record.images.get("test"), record.images.get("test_count", 0)) for record in mine)
        tested = frozenset((digest, count) for digest, count in tests if digest)
        drawn = frozenset((_draw(record.config), record.drawn) for record in mine if record.drawn)
        cells[dataset] = TableCell(scores, sum(record.status == "diverged" for record in mine), rules, tested, drawn)
    seconds = statistics.fmean(sum(record.seconds.values()) for record in records)
    caveats = ", ".join(sorted({record.caveat for record in records if record.caveat}))
    return TableRow(setting, method, cells, _trained(records), seconds, caveats)


def _draw(config: dict[str, Any]) -> str:
    """What decides which images of a dataset are trained on, as text."""
    return json.dumps([config.get(name) for name in ("shots", "protocol", "subset", "seed", "test")])


def varying(rows: Sequence[InSetting]) -> list[str]:
    """The parts of the setting that are not the same in all rows."""
    return [name for name in VARYING if len({dict(row.setting)[name] for row in rows}) > 1]
