"""Folders of the published toolkit -> records. What the files do not say stays unknown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...data.datasets import catalog
from ...data.readers.reader import CatalogRow
from ...metrics.scores import RELEASED_METRICS, performance_efficiency
from ...utils.errors import DataError
from ...utils.files import bytes_digest
from ..results.record import Record
from ..results.store import Store
from .check import check_predictions
from .submission import SubmissionEntry, is_count
from .suite import Truths
from .toolkit import UNKNOWN, Piece, ToolkitRun, by_run, find_pieces
from .toolkit_files import Log, Result

_METHODS = {"linear_probe": "linear-probe", "zeroshot": "zero-shot"}  # the other kind is named by the folder
_NO_PREDICTIONS: tuple[np.ndarray | None, np.ndarray] = (None, np.empty(0, dtype=np.int64))
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
    root = folder.resolve()
    found = find_pieces(root, truths is not None)
    records: dict[str, Record] = {}
    problems = list(found.problems)
    for run, pieces in by_run(found.pieces).items():
        try:
            record, probabilities, labels, doubts = _combined(run, pieces, method, root, truths)
            if record.digest in records:
                raise _twice(pieces[0].path, records[record.digest].notes[0].removeprefix("imported from "))
        except DataError as error:
            problems.append(str(error))
            continue
        problems += doubts
        records[record.digest] = store.add(record, probabilities, labels, None)
    return Imported(list(records.values()), problems, found.skipped)


def _combined(
    run: ToolkitRun, pieces: Sequence[Piece], method: str, root: Path, truths: Truths | None
) -> tuple[Record, np.ndarray | None, np.ndarray, list[str]]:
    """What the files of one run say together: the record, the predictions (N, C) with the labels that they belong to,
    and a line for each file that disagrees. Raises DataError when there is no score, or two files of the same kind.
    """
    newest = max((piece for piece in pieces if piece.log), key=lambda piece: piece.date, default=None)
    result, predictions = _only(pieces, "result"), _only(pieces, "entry")
    log, entry = newest.log if newest else None, predictions.entry if predictions else None
    row = catalog()[run.dataset]
    probabilities, labels = _labelled(row, entry, truths) if truths and entry else _NO_PREDICTIONS
    scores = {result.path: result.result.score} if result and result.result else {}
    if predictions and probabilities is not None:
        scores[predictions.path] = 100 * RELEASED_METRICS[row.metric](labels, probabilities.astype(np.float64))
    if newest and log:
        scores[newest.path] = log.score
    if not scores:
        raise DataError(f"{pieces[0].path}: predictions without a score; give --data-root, to score them")
    (path, score), *others = scores.items()
    differing = {other: value for other, value in others if abs(value - score) > _AGREE}
    doubts = [
        f"{other}: {value:.3f}, but {path.name} says {score:.3f}, which is taken" for other, value in differing.items()
    ]
    if predictions and predictions.path in differing:
        probabilities, labels = _NO_PREDICTIONS  # they are not those of this score, or the labels are others
    parameters = _parameters(result.result if result else None, entry, log)
    notes = [f"imported from {', '.join(sorted(str(piece.path.relative_to(root)) for piece in pieces))}"]
    if log and log.scores:
        notes.append(f"the last epoch had {log.scores[max(log.scores)]:.3f}")
    date, chosen = (newest.date if newest else ""), (dict(log.chosen) if log else {})
    return _record(run, method, score, parameters, chosen, notes, date), probabilities, labels, doubts


def _only(members: Sequence[Piece], kind: str) -> Piece | None:
    found = [piece for piece in members if getattr(piece, kind) is not None]
    if len(found) > 1:
        raise _twice(found[1].path, found[0].path)
    return found[0] if found else None


def _twice(path: Path, other: object) -> DataError:
    return DataError(f"{path}: the same run as {other}; import their folders one by one, each with its --method")


def _labelled(row: CatalogRow, entry: SubmissionEntry, truths: Truths) -> tuple[np.ndarray | None, np.ndarray]:
    """The predictions with their labels, where both are sound."""
    truth = truths(row)
    if truth is None or len(truth.labels) != row.sizes["test"] or check_predictions(entry, row):
        return _NO_PREDICTIONS
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
        counts = {ours: entry.fields.get(key) for ours, key in keys.items()}
        found |= {ours: count for ours, count in counts.items() if isinstance(count, int) and is_count(count)}
    return found if "trained" in found else {}


def _record(
    run: ToolkitRun,
    method: str,
    score: float,
    parameters: dict[str, int],
    chosen: dict[str, Any],
    notes: list[str],
    date: str,
) -> Record:
    row, shots = catalog()[run.dataset], run.experiment.shots
    name = _METHODS.get(run.experiment.kind) or method or run.folder or UNKNOWN
    label = f"{name} {run.experiment.variant}".strip()
    config = {
        "backbone": run.backbone,
        "method": {"name": label},
        "dataset": run.dataset,
        "shots": shots,
        "seed": run.seed,
        "image_size": None,
        "protocol": "imported",
        "precision": UNKNOWN,
        "recipe": None,
    }
    trained = parameters.get("trained")
    return Record(
        digest=bytes_digest(json.dumps(config, sort_keys=True).encode())[:16],
        config=config,
        status="ok",
        metric=row.metric,
        score=score,
        pe=None if trained is None else performance_efficiency(score, trained),
        classes=list(row.classes),
        per_class=[],
        parameters=parameters,
        chosen=chosen,
        seconds={},
        peak_memory_mb=0.0,
        versions={},
        images={},
        losses=[],
        notes=notes,
        split="elevater",
        method_label=f"{label} (imported)",
        created=date,
        caveat="" if shots == 0 else _CAVEAT,
    )
