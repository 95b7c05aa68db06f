"""The files below a folder of the published toolkit, and which run each of them is about.

The toolkit writes OUTPUT_DIR/<data set>/<experiment>_<date>_rank0.txt (log) and
OUTPUT_DIR/predictions/<experiment>/seed<S>_<data set>.json and .txt, where its scripts choose
<name>/<seed>/<backbone>/log or <name>/<backbone>/log as OUTPUT_DIR.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ...data.datasets import resolve
from ...data.readers.reader import CatalogRow
from ...utils.errors import DataError, damaged
from ...utils.files import read_bounded
from ...utils.limits import LOG_FILE
from .submission import SubmissionEntry, read_entries, read_fields
from .toolkit_files import (
    LOG_NAME,
    METRICS,
    SEEDED,
    Experiment,
    Log,
    Result,
    read_experiment,
    read_log,
    read_result,
)

UNKNOWN = "unknown"


class NotTheToolkits(DataError):
    """A file that the toolkit never wrote; it is named and left alone."""


class ToolkitRun(NamedTuple):
    """What one run of the toolkit was, as far as paths and names tell."""

    folder: str  # what the scripts call after the method
    backbone: str
    experiment: Experiment
    dataset: str
    seed: int | None


@dataclass(frozen=True)
class Piece:
    """What one file says of a run."""

    path: Path
    run: ToolkitRun
    date: str = ""
    log: Log | None = None
    result: Result | None = None
    entry: SubmissionEntry | None = None


@dataclass(frozen=True)
class Found:
    """What every file says, and one line for each that is damaged (problems) or of another program (skipped)."""

    pieces: list[Piece]
    problems: list[str]
    skipped: list[str]


def find_pieces(folder: Path, whole: bool) -> Found:
    """All files below a folder; predictions are read only when `whole`."""
    found = Found([], [], [])
    for path in _files(folder, found.problems):
        try:
            found.pieces.append(_piece(path, whole))
        except NotTheToolkits as error:
            found.skipped.append(str(error))
        except DataError as error:
            found.problems.append(str(error))
    return found


def _files(folder: Path, problems: list[str]) -> Iterator[Path]:
    """Every visible file below a folder, in order; links to other folders are not followed.

    Folders that cannot be listed are added to the problems.
    """

    def passed_over(error: OSError) -> None:
        problems.append(f"{error.filename}: this folder cannot be listed ({error.strerror})")

    for place, below, names in os.walk(folder, onerror=passed_over):
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield from (Path(place) / name for name in sorted(names) if not name.startswith("."))


def _piece(path: Path, whole: bool) -> Piece:
    """What a file says. Raises DataError for one that is damaged, or none of the toolkit's."""
    predictions = path.parent.parent.name == "predictions"
    if path.suffix == ".txt" and predictions:
        return Piece(path, _named_run(path), result=read_result(path, _text(path)))
    if path.suffix == ".txt" and (found := LOG_NAME.fullmatch(path.stem)):
        return _log_piece(path, found[1], found[2])
    if path.suffix == ".json":
        entry = _one_seed(path, read_fields(path))
        run = _named_run(path) if predictions else _recorded_run(path, entry)
        if _row(path, entry.dataset).name != run.dataset or run.seed not in (None, entry.seeds[0]):
            raise DataError(f"{path}: its name and its content disagree ({entry.dataset}, seed {entry.seeds[0]})")
        if whole:
            entry = _one_seed(path, *read_entries(path))
        return Piece(path, run._replace(seed=entry.seeds[0]), entry=entry)
    raise NotTheToolkits(f"{path}: not a file of the toolkit; left out")


def _log_piece(path: Path, name: str, date: str) -> Piece:
    experiment = read_experiment(name)
    if experiment is None:
        raise NotTheToolkits(f"{path}: not a file of the toolkit; left out")
    row = _row(path, path.parent.name)
    log = read_log(path, _text(path).splitlines())
    if METRICS.get(log.metric) != row.metric:
        raise DataError(f"{path}: its metric {log.metric!r} is not that of {row.leaderboard} ({row.metric})")
    folder, backbone, seed = _place(path.parent.parent)
    seed = 0 if experiment.shots == 0 else seed
    return Piece(path, ToolkitRun(folder, backbone, experiment, row.name, seed), date, log)


def _named_run(path: Path) -> ToolkitRun:
    """The run of `OUTPUT_DIR/predictions/<experiment>/seed<S>_<data set>.*`."""
    experiment, seeded = read_experiment(path.parent.name), SEEDED.fullmatch(path.stem)
    if experiment is None:
        raise NotTheToolkits(f"{path}: {path.parent.name!r} is no experiment of the toolkit; left out")
    folder, backbone, _ = _place(path.parent.parent.parent)
    seed, name = (int(seeded[1]), seeded[2]) if seeded else (None, path.stem)
    return ToolkitRun(folder, backbone, experiment, _row(path, name).name, seed)


def _recorded_run(path: Path, entry: SubmissionEntry) -> ToolkitRun:
    """The run of a file of predictions that lies anywhere: what its content says."""
    shots, model = entry.fields.get("n_shot"), entry.fields.get("model_name")
    if isinstance(shots, bool) or not isinstance(shots, int) or shots < -1:
        raise DataError(f"{path}: n_shot is {shots!r}, not a number of images per class")
    experiment = Experiment("zeroshot" if shots == 0 else UNKNOWN, None if shots == -1 else shots)
    dataset = _row(path, entry.dataset).name
    return ToolkitRun(path.parent.name, str(model or UNKNOWN), experiment, dataset, entry.seeds[0])


def _one_seed(path: Path, *entries: SubmissionEntry) -> SubmissionEntry:
    """The only entry, of one seed. Raises DataError."""
    if len(entries) != 1 or len(entries[0].seeds) != 1 or not isinstance(entries[0].seeds[0], int):
        raise DataError(f"{path}: not the predictions of one data set and one seed; 'vitadapt score' reads submissions")
    return entries[0]


def _row(path: Path, name: str) -> CatalogRow:
    """The data set with exactly this name, so that cifar-10 is never cifar-100. Raises DataError."""
    row = resolve(name)
    if row is None or not row.leaderboard:
        raise DataError(f"{path}: {name!r} is no data set of the leaderboard")
    return row


def _place(output: Path) -> tuple[str, str, int | None]:
    """(folder that names the method, backbone, seed) from an OUTPUT_DIR."""
    if output.name != "log":
        return output.name.strip("{}"), UNKNOWN, None
    backbone, above = output.parent.name, output.parent.parent
    if above.name.isascii() and above.name.isdigit():
        return above.parent.name.strip("{}"), backbone, int(above.name)
    return above.name.strip("{}"), backbone, None


def _text(path: Path) -> str:
    with damaged(path, "left out"):
        return read_bounded(path, LOG_FILE).decode("utf-8", "replace")


def by_run(pieces: Sequence[Piece]) -> dict[ToolkitRun, list[Piece]]:
    """The files of each run. A log whose path has no seed goes to the only run that it can belong to."""
    runs: dict[ToolkitRun, list[Piece]] = defaultdict(list)
    for piece in sorted(pieces, key=lambda piece: piece.run.seed is None):
        run = piece.run
        if run.seed is None:
            fit = [known for known in runs if known._replace(seed=None) == run]
            run = fit[0] if len(fit) == 1 else run
        runs[run].append(piece)
    return dict(runs)
