"""Everything that would make the leaderboard refuse a submission, or score something else than was meant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ...data.readers.reader import CatalogRow
from ...utils.errors import DataError
from ...utils.registry import unknown
from .submission import COUNTS, KEYS, SubmissionEntry, is_count
from .suite import required, suite

SEEDS = {0: [0], 5: [0, 1, 2], -1: [0]}  # images per class (0: zero-shot, -1: all) -> seeds that are asked for
_SUM = 1e-3  # by which probabilities may miss 1
_SAME = ("model_name", "n_shot", "num_visual_params", "num_backbone_params")  # in all entries


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong; `dataset` is empty when it concerns the whole file.

    absent: it is only that a data set is missing, without which the rest can be handed in.
    """

    dataset: str
    text: str
    absent: bool = False

    def __str__(self) -> str:
        return f"{self.dataset}: {self.text}" if self.dataset else self.text


def check(entries: Iterable[SubmissionEntry]) -> Iterator[Problem]:
    """The problems of a submission, in the order of the file, which may stop making sense half-way."""
    seen: list[SubmissionEntry] = []
    try:
        for entry in entries:
            yield from check_entry(entry)
            seen.append(SubmissionEntry(entry.fields, ()))  # the numbers can go
    except DataError as error:
        yield Problem("", str(error))
        if not seen:
            return
    yield from _whole(seen)


def _whole(seen: list[SubmissionEntry]) -> Iterator[Problem]:
    counts = Counter(entry.dataset for entry in seen)
    for name, count in counts.items():
        if count > 1:
            yield Problem(name, f"given {count} times")
    for name in required():
        if name not in counts:
            yield Problem(name, "missing; there is no average without all 20", absent=True)
    for key in _SAME:
        values = list(dict.fromkeys(str(entry.fields.get(key)) for entry in seen))
        if len(values) > 1:
            yield Problem("", f"{key} differs between the data sets: {', '.join(values)}")


def check_entry(entry: SubmissionEntry) -> Iterator[Problem]:
    """The problems of one data set."""
    row = suite().get(entry.dataset)
    if row is None:
        yield Problem("", str(unknown("data set", entry.dataset or "(without dataset_name)", suite())))
        return
    for text in (*_fields(entry), *_seeds(entry), *check_predictions(entry, row)):
        yield Problem(entry.dataset, text)


def check_predictions(entry: SubmissionEntry, row: CatalogRow) -> list[str]:
    """What is wrong with the predictions of one data set by themselves: without these, they can be scored."""
    texts = list(entry.faults) if entry.predictions else ["predictions are missing"]
    for i, matrix in enumerate(entry.predictions):
        if matrix is not None:
            texts += [f"{_seed(entry, i)}{text}" for text in _matrix(matrix, row)]
    return texts


def _fields(entry: SubmissionEntry) -> Iterator[str]:
    fields = entry.fields
    for key in KEYS[:-1]:
        if key not in fields:
            yield f"{key} is missing"
    if "model_name" in fields and not isinstance(fields["model_name"], str):
        yield f"model_name is {fields['model_name']!r}, not a text"
    numbers = {}
    for key in (key for key in COUNTS if key in fields):
        value = fields[key]
        if not is_count(value):
            yield f"{key} is {value!r}, not a number of parameters"
        else:
            numbers[key] = value
    if len(numbers) == len(COUNTS):
        yield from _counts(numbers, fields.get("n_shot"))


def _counts(numbers: dict[str, float], shots: object) -> Iterator[str]:
    whole, backbone, visual = (numbers[f"num_{part}params"] for part in ("", "backbone_", "visual_"))
    if not visual <= backbone <= whole:
        yield f"num_visual_params {visual:,} <= num_backbone_params {backbone:,} <= num_params {whole:,} does not hold"
    if shots == 0 and numbers["num_trainable_params"]:
        yield f"num_trainable_params is {numbers['num_trainable_params']:,}, but zero-shot trains none"


def _seeds(entry: SubmissionEntry) -> Iterator[str]:
    shots, seeds = entry.fields.get("n_shot"), entry.seeds
    if "n_shot" in entry.fields and (isinstance(shots, bool) or shots not in SEEDS):
        yield f"n_shot is {shots!r}; the leaderboard takes 0 (zero-shot), 5, or -1 (all images)"
    elif "rnd_seeds" in entry.fields and "n_shot" in entry.fields and seeds != SEEDS[shots]:  # type: ignore[index]
        yield f"rnd_seeds are {entry.fields['rnd_seeds']}, expected {SEEDS[shots]} for n_shot {shots}"  # type: ignore[index]
    if entry.predictions and len(entry.predictions) != len(seeds):
        yield f"there are predictions of {len(entry.predictions)} seeds, but rnd_seeds are {seeds}"
    known = [matrix for matrix in entry.predictions if matrix is not None]
    if shots and any(np.array_equal(first, second) for first, second in pairwise(known)):
        yield "two seeds have the same predictions; was one file taken twice?"


def _seed(entry: SubmissionEntry, i: int) -> str:
    return f"seed {entry.seeds[i]}: " if i < len(entry.seeds) else f"seed number {i + 1}: "


def _matrix(matrix: np.ndarray, row: CatalogRow) -> Iterator[str]:
    """What is wrong with the probabilities (N, C) of one seed."""
    images, classes = row.sizes["test"], len(row.classes)
    if matrix.shape[0] != images:
        yield f"{matrix.shape[0]:,} images, but the test set has {images:,}"
    if matrix.shape[1] != classes:
        yield f"{matrix.shape[1]} classes, expected {classes}"
    broken = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(broken):
        yield f"{len(broken)} images have values that are not numbers (image {broken[0]} first)"
        return
    outside = np.flatnonzero(((matrix < 0) | (matrix > 1)).any(axis=1))
    if len(outside):
        yield f"{len(outside)} images have values outside 0..1, hence no probabilities (image {outside[0]} first)"
        return
    sums = matrix.sum(axis=1, dtype=np.float64)
    off = np.flatnonzero(np.abs(sums - 1) > _SUM)
    if len(off) and not row.multilabel:
        yield f"the probabilities of {len(off)} images do not sum to 1 (image {off[0]}: {sums[off[0]]:.4f})"
