"""Entries of a submission, and the three forms they have on disk.

One JSON per seed and dataset, as the toolkit writes them; `all_predictions.json`, {"data": [one entry per dataset]}
with the seeds of a dataset joined; and the zip with that file alone in it, which is what the leaderboard takes.
"""

from __future__ import annotations

import io
import json
import os
import reprlib
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeGuard

import numpy as np

from ...utils.errors import DataError
from ...utils.files import write_atomic
from .predictions_json import MEMBER, Object, read_head, read_objects

COUNTS = ("num_trainable_params", "num_params", "num_visual_params", "num_backbone_params")
KEYS = ("model_name", "dataset_name", *COUNTS, "n_shot", "rnd_seeds", "predictions")  # in the order of the files
DECIMALS = 6
_JOINED = ("num_trainable_params", "rnd_seeds", "predictions")  # may differ between the seeds of a dataset
_IMAGES = 1000  # per piece of text, so that no dataset is a Python list as a whole


@dataclass(frozen=True, eq=False)
class SubmissionEntry:
    """What a submission says of one dataset.

    fields: every key but the predictions. predictions: per seed (N, C), None where rows differ in length. faults: what
    is wrong with their shape, in words.
    """

    fields: Mapping[str, Any]
    predictions: tuple[np.ndarray | None, ...]
    faults: tuple[str, ...] = ()

    @property
    def dataset(self) -> str:
        """The name that the leaderboard has for it; empty when the file gives none."""
        name = self.fields.get("dataset_name")
        return name if isinstance(name, str) else ""

    @property
    def seeds(self) -> list[Any]:
        seeds = self.fields.get("rnd_seeds")
        return seeds if isinstance(seeds, list) else []


def read_entries(path: Path) -> Iterator[SubmissionEntry]:
    """The entries of a zip or JSON file. Raises DataError."""
    return map(_entry, read_objects(path))


def read_fields(path: Path) -> SubmissionEntry:
    """What a file with one entry says before its predictions, which are not read. Raises DataError."""
    return _entry(read_head(path))


def read_folder(folder: Path) -> Iterator[SubmissionEntry]:
    """The entries of a folder of per-seed files, the seeds of each dataset joined in ascending order.

    Raises DataError naming the file that does not fit the others.
    """
    groups: dict[str, list[tuple[int, Path]]] = {}
    for path in _members(folder):
        head = read_fields(path)
        if not head.dataset or len(head.seeds) != 1 or not isinstance(head.seeds[0], int):
            raise DataError(f"{path} is not the predictions of one data set and one seed; move it out of {folder}")
        groups.setdefault(head.dataset, []).append((head.seeds[0], path))
    if not groups:
        raise DataError(f"{folder} holds no predictions (*.json)")
    for members in groups.values():
        entries = [entry for _, path in sorted(members) for entry in read_entries(path)]
        try:
            yield join(entries)
        except DataError as error:
            raise DataError(f"{folder}: {error}; make the files again") from error


def _members(folder: Path) -> list[Path]:
    """Raises DataError when not all of the folder can be listed: a data set would be passed over in silence."""
    try:
        return sorted(folder / name for name in os.listdir(folder) if name.endswith(".json"))
    except OSError as error:
        raise DataError(f"{folder}: this folder cannot be listed ({error.strerror})") from error


def join(entries: Sequence[SubmissionEntry]) -> SubmissionEntry:
    """One entry for the seeds of a dataset; the number of trainable parameters becomes the mean.

    Raises DataError when they differ in anything else.
    """
    first = entries[0]
    for key in {key for entry in entries for key in entry.fields}.difference(_JOINED):
        values = [entry.fields.get(key) for entry in entries]
        if any(value != values[0] for value in values):
            shown = ", ".join(map(reprlib.repr, values))  # shortened: a field may hold anything
            raise DataError(f"{first.dataset}: {key} differs between the seeds: {shown}")
    fields = dict(first.fields)
    trained = [entry.fields.get("num_trainable_params") for entry in entries]
    if len(entries) > 1 and all(isinstance(count, (int, float)) for count in trained):
        fields["num_trainable_params"] = _mean(first.dataset, trained)
    fields["rnd_seeds"] = [seed for entry in entries for seed in entry.seeds]
    predictions = tuple(matrix for entry in entries for matrix in entry.predictions)
    return SubmissionEntry(fields, predictions, tuple(fault for entry in entries for fault in entry.faults))


def is_count(value: object) -> TypeGuard[int | float]:
    """Can `value` be a number of parameters? A file may hold anything."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e18


def _mean(dataset: str, counts: Sequence[Any]) -> float:
    try:
        return float(np.mean([float(count) for count in counts]))
    except OverflowError as error:
        raise DataError(
            f"{dataset}: num_trainable_params is larger than any network's; make the files again"
        ) from error


def write_zip(path: Path, entries: Iterable[SubmissionEntry]) -> None:
    """The file that the leaderboard takes. The same entries give the same bytes. Raises StorageError."""
    buffer = io.BytesIO()
    info = zipfile.ZipInfo(MEMBER)  # its date is fixed
    info.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(buffer, "w") as archive, archive.open(info, "w", force_zip64=True) as file:
        file.write(b'{"data": [')
        for i, entry in enumerate(entries):
            file.write(b", " if i else b"")
            _write(file, entry)
        file.write(b"]}")
    write_atomic(path, buffer.getvalue())


def write_seed(folder: Path, entry: SubmissionEntry) -> Path:
    """One file in the toolkit's form: `seed<S>_<dataset>.json`, `<dataset>.json` for zero-shot. Raises StorageError."""
    seed = "" if entry.fields["n_shot"] == 0 else f"seed{entry.seeds[0]}_"
    path, buffer = folder / f"{seed}{entry.dataset}.json", io.BytesIO()
    _write(buffer, entry)
    write_atomic(path, buffer.getvalue())
    return path


def _write(file: IO[bytes], entry: SubmissionEntry) -> None:
    fields = {key: _rounded(value) for key, value in entry.fields.items()}
    file.write(json.dumps(fields)[:-1].encode() + b', "predictions": [')
    for i, matrix in enumerate(entry.predictions):
        assert matrix is not None
        file.write(b", [" if i else b"[")
        for start in range(0, len(matrix), _IMAGES):
            rows = matrix[start : start + _IMAGES].astype(np.float64).round(DECIMALS).tolist()
            file.write((b", " if start else b"") + json.dumps(rows)[1:-1].encode())
        file.write(b"]")
    file.write(b"]}")


def _rounded(value: Any) -> Any:
    return round(value, DECIMALS) if isinstance(value, float) else value


def _entry(plain: Object) -> SubmissionEntry:
    fields = {key: value for key, value in plain.items() if key != "predictions"}
    value = plain.get("predictions")
    if not isinstance(value, list) or not value:
        return SubmissionEntry(fields, ())
    if any(isinstance(row, np.ndarray) for row in value):
        fault = "predictions are not of shape (seeds, images, classes): a list around them, per seed, is missing"
        matrix, faults = _matrix(value, "")
        return SubmissionEntry(fields, (matrix,), (fault, *faults))
    read = [_matrix(rows, f"seed number {i + 1}: ") for i, rows in enumerate(value)]
    matrices, faults = zip(*read, strict=True)
    return SubmissionEntry(fields, matrices, tuple(fault for found in faults for fault in found))


def _matrix(rows: Any, where: str) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """(N, C) float32, and what keeps it from being one."""
    if not isinstance(rows, list) or not all(isinstance(row, np.ndarray) for row in rows):
        return None, (f"{where}predictions are not of shape (images, classes), or something else than numbers",)
    widths = np.array([len(row) for row in rows])
    usual = int(np.bincount(widths).argmax())
    odd = np.flatnonzero(widths != usual)
    if len(odd):
        return None, (f"{where}image {odd[0]} has {widths[odd[0]]} values, the others {usual}",)
    return np.stack(rows), ()
