"""From the records of a store to the entries of a submission."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...data.class_names import relabel
from ...data.datasets import resolve
from ...data.readers.reader import CatalogRow
from ...utils.errors import ConfigError, DataError
from ...utils.files import bytes_digest
from ..analysis.groups import VARYING
from ..results.record import Record
from ..results.store import Store
from .check import SEEDS
from .submission import SubmissionEntry, join
from .suite import Truths, mean_classes, required, suite

_FREE = ("dataset", "seed", "subset")  # what differs within a submission


@dataclass(frozen=True)
class SubmissionRuns:
    """Records that can be handed in together: everything but data set and seed is the same."""

    key: str
    setting: dict[str, object]  # VARYING, and the method
    records: tuple[Record, ...]

    @property
    def datasets(self) -> set[str]:
        return {row.leaderboard for record in self.records if (row := leaderboard_row(record))}

    def __str__(self) -> str:
        shown = ", ".join(f"{name} {value}" for name, value in self.setting.items() if value is not None)
        seeds = " ".join(sorted({str(record.config["seed"]) for record in self.records}))
        return f"--candidate {self.key}: {shown} ({len(self.datasets)} of 20 data sets, seeds {seeds})"


def leaderboard_row(record: Record) -> CatalogRow | None:
    """The data set of the leaderboard that a record is about."""
    row = resolve(record.config["dataset"])
    return row if row and row.leaderboard else None


def candidates(records: Sequence[Record]) -> list[SubmissionRuns]:
    """What could be handed in, the most complete first."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.status == "ok" and "predictions" in record.files and leaderboard_row(record):
            same = {name: value for name, value in record.config.items() if name not in _FREE}
            groups[bytes_digest(json.dumps(same, sort_keys=True).encode())[:6]].append(record)
    found = [SubmissionRuns(key, _setting(members[0]), tuple(members)) for key, members in groups.items()]
    return sorted(found, key=lambda candidate: (-len(candidate.datasets), -len(candidate.records), candidate.key))


def _setting(record: Record) -> dict[str, object]:
    setting = {name: record.config.get(name) for name in VARYING}
    setting["shots"] = "all" if setting["shots"] is None else setting["shots"]
    return {"method": record.method, **setting}


def choose(found: Sequence[SubmissionRuns], key: str = "", **wanted: str | None) -> SubmissionRuns:
    """The only candidate with this key and these values of its setting. Raises ConfigError listing the candidates."""
    named = {name: value for name, value in wanted.items() if value is not None}
    fit = [c for c in found if key in ("", c.key) and all(str(c.setting[n]) == v for n, v in named.items())]
    if len(fit) == 1:
        return fit[0]
    listed = "\n".join(f"  {candidate}" for candidate in fit or found)
    if fit:
        raise ConfigError(f"{len(fit)} candidates; choose one:\n{listed}")
    if found:
        raise ConfigError(f"no candidate is like that; there are:\n{listed}")
    raise ConfigError(f"no record has predictions of a data set of the leaderboard ({', '.join(required())})")


class Collection:
    """The entries of one candidate, by data set in the catalog's order."""

    def __init__(self, store: Store, candidate: SubmissionRuns, truths: Truths, model_name: str = "") -> None:
        self.store, self.candidate, self.truths = store, candidate, truths
        self.model_name = model_name or str(candidate.setting["backbone"])
        self.unverified: list[str] = []  # data sets made so far whose order of test images could not be compared

    def entries(self) -> Iterator[SubmissionEntry]:
        """One per data set, seeds joined. Raises DataError for records that are not of the leaderboard's test set."""
        for name in suite():
            if members := self.members(name):
                yield join([self.seed_entry(record) for record in members])

    def seed_entries(self) -> Iterator[SubmissionEntry]:
        """One per record. Raises DataError as `entries`."""
        yield from (self.seed_entry(record) for name in suite() for record in self.members(name))

    def members(self, name: str) -> list[Record]:
        """The records of a data set by seed: those that the leaderboard asks for, where it asks for this many shots."""
        mine = [r for r in self.candidate.records if (row := leaderboard_row(r)) and row.leaderboard == name]
        by_seed = {record.config["seed"]: record for record in sorted(mine, key=lambda r: str(r.config["seed"]))}
        if mine and not _shots(mine[0]):
            return mine[:1]  # nothing was drawn or trained, so that all seeds are the same run
        asked = SEEDS.get(_shots(mine[0])) if mine else None
        return [record for seed, record in by_seed.items() if asked is None or seed in asked]

    def seed_entry(self, record: Record) -> SubmissionEntry:
        """The entry of one record, its columns in the leaderboard's order. Raises DataError as `entries`."""
        row = leaderboard_row(record)
        assert row is not None
        if record.split not in ("", "elevater"):
            raise DataError(
                f"{row.leaderboard}: {record.digest} was tested on a {record.split} split, not on the leaderboard's; "
                f"run it on the published copy ({row.get})"
            )
        order = row.order(record.classes, f"{record.digest} ({row.leaderboard})")
        probabilities, labels = self.store.predictions(record)
        columns = np.argsort(order)  # class order[i] stands in column i
        self._verify(row, record, relabel(labels, order))
        return SubmissionEntry(self._fields(row, record), (probabilities[:, columns],))

    def _fields(self, row: CatalogRow, record: Record) -> dict[str, object]:
        """What is known of the record, as the leaderboard calls it; an imported one may not have all counts."""
        parameters, shots = record.parameters, _shots(record)
        whole, backbone = parameters.get("total"), parameters.get("visual")
        if "head" in parameters:  # one of our own; the leaderboard sizes heads for the mean number of classes
            backbone = parameters.get("visual", parameters["total"] - parameters["head"])
            whole = backbone + round(parameters["head"] / len(row.classes) * mean_classes())
        fields = {
            "model_name": self.model_name,
            "dataset_name": row.leaderboard,
            "num_trainable_params": parameters.get("trained"),
            "num_params": whole,
            "num_visual_params": backbone,
            "num_backbone_params": backbone,
            "n_shot": shots,
            "rnd_seeds": [record.config["seed"] if shots else 0],
        }
        return {key: value for key, value in fields.items() if value is not None}

    def _verify(self, row: CatalogRow, record: Record, labels: np.ndarray) -> None:
        """Compare test labels, by the leaderboard's order of classes, with its own copy, when there is one."""
        truth = self.truths(row)
        if truth is None or not truth.ordered:
            if row.leaderboard not in self.unverified:
                self.unverified.append(row.leaderboard)
            return
        if not np.array_equal(labels, truth.labels):
            raise DataError(
                f"{row.leaderboard}: the test images of {record.digest} are in another order than in {truth.place}, "
                f"which has the leaderboard's; run it again on that copy"
            )


def _shots(record: Record) -> int:
    """Images per class as the leaderboard counts them: 0 when nothing is trained, -1 for all."""
    shots = record.config["shots"]
    if record.parameters.get("trained") == 0:
        return 0
    return -1 if shots is None else int(shots)
