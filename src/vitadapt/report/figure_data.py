"""What pictures are about: records sorted for drawing. Different settings never meet in one panel."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..benchmark.analysis.groups import Group, TableRow, groups_of, rows_of, varying
from ..benchmark.results.record import Record
from .figure import clean, short_names
from .table import setting_text

Predictions = Callable[[Record], tuple[np.ndarray, np.ndarray]]
"""Record -> (probabilities (N, C), labels). Raises StorageError when there are none."""


class Subject:
    """Records sorted for drawing: by setting, with one number (colour) for each method and short names of datasets."""

    def __init__(self, records: Sequence[Record], predictions: Predictions) -> None:
        self.records, self.predictions = records, predictions
        self.groups = groups_of(records)
        self.called = {record.digest: group.method for group in self.groups for record in group.records}
        self.methods = list(dict.fromkeys(group.method for group in self.groups))
        self.short = short_names(sorted({record.config["dataset"] for record in records}))
        self.varying = varying(self.groups)

    def settings(self) -> Iterator[tuple[str, dict[str, str], list[Record]]]:
        """(title, what filters know, records) of each setting; the title is empty when there is only one."""
        members: dict[Any, list[Group[Record]]] = defaultdict(list)
        for group in self.groups:
            members[group.setting].append(group)
        for setting, groups in members.items():
            about = {name: setting_text(name, value) for name, value in setting}
            title = " · ".join(f"{name.replace('_', ' ')} {about[name]}" for name in self.varying)
            yield title, about, [record for group in groups for record in group.records]

    def by_dataset(self) -> Iterator[tuple[str, dict[str, str], list[Group[Record]]]]:
        """(title, what filters know, groups) of each setting and dataset."""
        for title, about, records in self.settings():
            for dataset in self.short:
                mine = [record for record in records if record.config["dataset"] == dataset]
                if mine:
                    yield self._title(self.name(dataset), title), {**about, "dataset": dataset}, self._named(mine)

    def by_method(self) -> Iterator[tuple[str, dict[str, str], Group[Record]]]:
        """(title, what filters know, group) of each setting and method."""
        for title, about, records in self.settings():
            for group in self._named(records):
                yield self._title(group.method, title), {**about, "method": group.method}, group

    def name(self, dataset: str) -> str:
        """The dataset's name as it is drawn."""
        return clean(self.short[dataset])

    def rows(self, records: Sequence[Record]) -> list[TableRow]:
        """Rows of one setting, methods in the same order everywhere."""
        return sorted(rows_of(records), key=lambda row: self.methods.index(row.method))

    def whole_rows(self, records: Sequence[Record]) -> list[TableRow]:
        """Those of the rows that have a score on each dataset of the setting."""
        return [row for row in self.rows(records) if row.average is not None]

    def _named(self, records: Sequence[Record]) -> list[Group[Record]]:
        """The groups cut down to `records`; their names stay, so that a method has one colour everywhere."""
        wanted = {id(record) for record in records}
        cut = [Group(g.setting, g.method, [r for r in g.records if id(r) in wanted]) for g in self.groups]
        return sorted((g for g in cut if g.records), key=lambda group: self.methods.index(group.method))

    @staticmethod
    def _title(first: str, second: str) -> str:
        return f"{clean(first)}\n{clean(second, 60)}" if second else clean(first)


def score_label(subject: Subject, records: Sequence[Record]) -> str:
    """What the score axis shows."""
    datasets = {record.config["dataset"] for record in records}
    return (
        f"score on {subject.name(*datasets)} (%)" if len(datasets) == 1 else f"mean score, {len(datasets)} datasets (%)"
    )
