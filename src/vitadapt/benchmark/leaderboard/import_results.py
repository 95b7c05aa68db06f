"""Folders of the published toolkit -> records. What the files do not say stays unknown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...data import catalog
from ...data.readers.reader import Row
from ...metrics.scores import RELEASED_METRICS, performance_efficiency
from ...utils.errors import DataError
from ...utils.files import bytes_digest
from ..results.record import Record
from ..results.store import Store
from .check import check_predictions
from .submission import SubmissionEntry, is_count
from .suite import Truths
from .toolkit import UNKNOWN, Piece, ToolkitRun, by_cell, find_pieces
from .toolkit_files import Log, Result

_METHODS = {"linear_probe": "linear-probe", "zeroshot": "zero-shot"}  # the other kind is named by the folder
_AGREE = 0.01  # points by which two files may differ about a score: logs are rounded to 0.001
_CAVEAT = "best epoch on the test set"  # of every training: that is what the toolkit reports


@dataclass(frozen=True)
class Imported:
    """The records that were made; one line for every file that is damaged or disagrees, and for every foreign one."""

    records: list[Record]
    problems: list[str]
    skipped: list[str]


def import_results(folder: Path, store: Store, method: str = "", truths: Truths | None = None) -> Imported:
    """Read all results below `folder` into `store`. `method` says what trained, instead of the name of the folder.

    With labels at hand, predictions without a score get one and are kept. Importing twice changes nothing.
    Raises DataError when there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give the one that holds the toolkit's results")
    found = find_pieces(folder.resolve(), truths is not None)
    records: dict[str, Record] = {}
    problems = list(found.problems)
    for cell, members in by_cell(found.pieces).items():
        try:
            said = _said(cell, members, truths)
            made = _record(cell, said, method, folder.resolve())
            if made.digest in records:
                raise _twice(members[0].path, records[made.digest].notes[0].removeprefix("imported from "))
        except DataError as error:
            problems.append(str(error))
            continue
        problems += said.problems
        records[made.digest] = store.add(made, said.probabilities, said.labels, None)
    return Imported(list(records.values()), problems, found.skipped)


@dataclass(frozen=True, eq=False)
class _Said:
    """What the files of one cell say together. probabilities: (N, C), only with the labels that they belong to."""

    score: float
    paths: list[Path]
    log: Log | None
    date: str
    parameters: dict[str, int]
    probabilities: np.ndarray | None
    labels: np.ndarray
    problems: list[str]


def _said(cell: ToolkitRun, members: Sequence[Piece], truths: Truths | None) -> _Said:
    """Raises DataError when there is no score, or two files of the same kind."""
    logs = sorted((piece for piece in members if piece.log), key=lambda piece: piece.date)
    result, told = _only(members, "result"), _only(members, "entry")
    log, date = (logs[-1].log, logs[-1].date) if logs else (None, "")
    row, entry = catalog.catalog()[cell.dataset], told.entry if told else None
    probabilities, labels = _labelled(row, entry, truths) if truths and entry else (None, np.empty(0, dtype=np.int64))
    scores = {result.path: result.result.score} if result and result.result else {}
    if told and probabilities is not None:
        scores[told.path] = 100 * RELEASED_METRICS[row.metric](labels, probabilities.astype(np.float64))
    if logs and log:
        scores[logs[-1].path] = log.score
    if not scores:
        raise DataError(f"{members[0].path}: predictions without a score; give --data-root, to score them")
    first, *others = scores.items()
    problems = [
        f"{path}: {score:.3f}, but {first[0].name} says {first[1]:.3f}, which is kept"
        for path, score in others
        if abs(score - first[1]) > _AGREE
    ]
    if told and any(problem.startswith(str(told.path)) for problem in problems):
        probabilities, labels = None, np.empty(0, dtype=np.int64)  # not the predictions of this score, or other labels
    parameters = _parameters(result.result if result else None, entry, log)
    paths = [piece.path for piece in members]
    return _Said(first[1], paths, log, date, parameters, probabilities, labels, problems)


def _only(members: Sequence[Piece], kind: str) -> Piece | None:
    found = [piece for piece in members if getattr(piece, kind) is not None]
    if len(found) > 1:
        raise _twice(found[1].path, found[0].path)
    return found[0] if found else None


def _twice(path: Path, other: object) -> DataError:
    return DataError(f"{path}: the same run as {other}; import their folders one by one, each with its --method")


def _labelled(row: Row, entry: SubmissionEntry, truths: Truths) -> tuple[np.ndarray | None, np.ndarray]:
    """The predictions with their labels, where both are sound."""
    truth = truths(row)
    if truth is None or len(truth.labels) != row.sizes["test"] or check_predictions(entry, row):
        return None, np.empty(0, dtype=np.int64)
    return entry.predictions[0], truth.labels


def _parameters(result: Result | None, entry: SubmissionEntry | None, log: Log | None) -> dict[str, int]:
    """What is known of the counts, as a record has them; nothing without the trained ones."""
    found: dict[str, Any] = {}
    if log and log.trained is not None:
        found["trained"] = log.trained
    if result:
        found |= {"trained": result.trained, "total": result.parameters, "visual": result.backbone}
    if entry:
        keys = {"trained": "num_trainable_params", "total": "num_params", "visual": "num_backbone_params"}
        told = {own: entry.fields.get(key) for own, key in keys.items()}
        found |= {own: count for own, count in told.items() if isinstance(count, int) and is_count(count)}
    return found if "trained" in found else {}


def _record(cell: ToolkitRun, said: _Said, method: str, root: Path) -> Record:
    row, shots = catalog.catalog()[cell.dataset], cell.experiment.shots
    name = _METHODS.get(cell.experiment.kind) or method or cell.folder or UNKNOWN
    label = f"{name} {cell.experiment.variant}".strip()
    config = {
        "backbone": cell.backbone,
        "method": {"name": label},
        "dataset": cell.dataset,
        "shots": shots,
        "seed": cell.seed,
        "image_size": None,
        "protocol": "imported",
        "precision": UNKNOWN,
        "recipe": None,
    }
    trained = said.parameters.get("trained")
    notes = [f"imported from {', '.join(sorted(str(path.relative_to(root)) for path in said.paths))}"]
    if said.log and said.log.scores:
        notes.append(f"the last epoch had {said.log.scores[max(said.log.scores)]:.3f}")
    return Record(
        digest=bytes_digest(json.dumps(config, sort_keys=True).encode())[:16],
        config=config,
        status="ok",
        metric=row.metric,
        score=said.score,
        pe=None if trained is None else performance_efficiency(said.score, trained),
        classes=list(row.classes),
        per_class=[],
        parameters=said.parameters,
        chosen=dict(said.log.chosen) if said.log else {},
        seconds={},
        peak_memory_mb=0.0,
        versions={},
        images={},
        losses=[],
        notes=notes,
        split="elevater",
        method_label=f"{label} (imported)",
        created=said.date,
        caveat="" if shots == 0 else _CAVEAT,
    )
