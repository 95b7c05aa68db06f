"""How many points of a published-style number are owed to choosing the epoch by the test set, and to all else that the
honest protocol does otherwise. docs/released.md says how to read it.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...training.recipe import protocol_table
from ..protocols.released import BEST, LAST
from ..results.record import Record

SAME = ("backbone", "image_size", "shots", "precision", "dataset", "seed", "subset", "test")
SETTING = SAME[:4]
_Key = tuple[Any, ...]
_Run = tuple[float, float, float | None]  # best epoch, last epoch, the honest score where there is one


@dataclass(frozen=True)
class Optimism:
    """Scores of one method on one dataset (or, as "average", on all), in percent, averaged over seeds.

    best, last: the published-style number, and the same training's last epoch. seeds: how many cells stand behind them.
    honest: the corrected method under the honest protocol on `pairs` of these cells; gap: best minus that, on the same.
    """

    setting: tuple[tuple[str, Any], ...]
    method: str
    dataset: str
    seeds: int
    best: float
    last: float
    corrected: str
    pairs: int = 0
    honest: float | None = None
    gap: float | None = None

    @property
    def selection(self) -> float:
        """Points that come from choosing the epoch by the test set."""
        return self.best - self.last


def optimism_of(records: Sequence[Record]) -> list[Optimism]:
    """A row per method and dataset, and an average over datasets where there are several; none without such records."""
    table, known = protocol_table(), _by_cell(records)
    found: dict[tuple[Any, ...], dict[str, list[_Run]]] = defaultdict(lambda: defaultdict(list))
    for record in sorted(records, key=_cell_order):
        if BEST not in record.scores:
            continue
        protocol = table[record.config["protocol"]]
        rows = protocol.get("methods", {})  # only published methods have defects to be corrected
        name, own = record.config["method"]["name"], record.label.partition(" ")[0]
        corrected = rows[name]["corrected"] if name in rows else own
        setting = tuple((name, record.config.get(name)) for name in SETTING)
        honest = known.get((protocol["honest"], corrected, _cell(record)))
        run = record.scores[BEST], record.scores[LAST], honest
        found[(setting, record.method, corrected)][record.config["dataset"]].append(run)
    return [row for (setting, method, corrected), by in found.items() for row in _rows(setting, method, corrected, by)]


def _cell(record: Record) -> _Key:
    return tuple(record.config.get(name) for name in SAME)


def _cell_order(record: Record) -> tuple[str, str]:
    return str(_cell(record)), record.digest


def _by_cell(records: Sequence[Record]) -> dict[tuple[str, str, _Key], float]:
    """(protocol, method with no field changed, cell) -> score; of several heads or recipes the first by digest."""
    found: dict[tuple[str, str, _Key], float] = {}
    for record in sorted(records, key=_cell_order):
        name = record.method.partition(" ")[0]
        if record.score is not None and not record.imported:
            found.setdefault((record.config["protocol"], name, _cell(record)), record.score)
    return found


def _rows(
    setting: tuple[tuple[str, Any], ...], method: str, corrected: str, by: dict[str, list[_Run]]
) -> list[Optimism]:
    rows = []
    for dataset, runs in by.items():
        best, last = (statistics.fmean(column) for column in list(zip(*runs, strict=True))[:2])
        pairs = [(mine, other) for mine, _, other in runs if other is not None]
        honest, gap = _mean([other for _, other in pairs]), _mean([mine - other for mine, other in pairs])
        rows.append(Optimism(setting, method, dataset, len(runs), best, last, corrected, len(pairs), honest, gap))
    return [*rows, _average(rows)] if len(rows) > 1 else rows


def _average(rows: Sequence[Optimism]) -> Optimism:
    """The mean over datasets, of which each counts once."""
    paired, one = [row for row in rows if row.gap is not None], rows[0]
    best, last = (statistics.fmean(getattr(row, name) for row in rows) for name in ("best", "last"))
    honest, gap = (_mean([getattr(row, name) for row in paired]) for name in ("honest", "gap"))
    cells, pairs = sum(row.seeds for row in rows), sum(row.pairs for row in rows)
    return Optimism(one.setting, one.method, "average", cells, best, last, one.corrected, pairs, honest, gap)


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None
