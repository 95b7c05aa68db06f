"""Everything that would make the leaderboard refuse a submission, or score something else than was meant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ...data import LabelArray
from ...data.readers.reader import CatalogRow
from ...utils.errors import DataError
from ...utils.registry import unknown
from .submission import COUNTS, KEYS, SubmissionEntry, is_count
from .suite import Truth, Truths, required, suite

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


def check(entries: Iterable[SubmissionEntry], truths: Truths | None = None) -> Iterator[Problem]:
    """The problems of a submission, in the order of the file; with labels at hand the order of the classes too.

    A file that stops making sense half-way is a problem like any other.
    """
    seen: list[SubmissionEntry] = []
    try:
        for entry in entries:
            yield from check_entry(entry, truths)
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


def check_entry(entry: SubmissionEntry, truths: Truths | None = None) -> Iterator[Problem]:
    """The problems of one data set."""
    row = suite().get(entry.dataset)
    if row is None:
        yield Problem("", str(unknown("data set", entry.dataset or "(without dataset_name)", suite())))
        return
    texts = [*_fields(entry), *_seeds(entry), *check_predictions(entry, row)]
    if not texts and truths is not None:
        try:
            truth = truths(row)
        except DataError as error:
            texts.append(f"its order cannot be checked, because the labels cannot be read: {error}")
        else:
            texts += check_order(entry, row, truth) if truth else []
    yield from (Problem(entry.dataset, text) for text in texts)


def check_predictions(entry: SubmissionEntry, row: CatalogRow) -> list[str]:
    """What is wrong with the predictions of one data set by themselves: without these, they can be scored."""
    texts = list(entry.faults) if entry.predictions else ["predictions are missing"]
    for i, matrix in enumerate(entry.predictions):
        if matrix is not None:
            texts += [f"{_seed(entry, i)}{text}" for text in _matrix(matrix, row)]
    return texts


def check_order(entry: SubmissionEntry, row: CatalogRow, truth: Truth) -> list[str]:
    """What labels tell of sound predictions: whether the columns are the leaderboard's classes in another order."""
    if len(truth.labels) != row.sizes["test"]:
        return []
    swaps = [describe_swaps(swapped(truth.labels, m), row.classes) for m in entry.predictions if m is not None]
    return [f"{_seed(entry, i)}{text}" for i, text in enumerate(swaps) if text]


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


_ALIKE = 0.5  # correlation of a class with a column, from which on they belong together


_IMAGES = 5  # fewer of a class say nothing


_SHOWN = 3


def swapped(labels: LabelArray, probabilities: np.ndarray) -> list[tuple[int, int]]:
    """(class, the other class whose column behaves like its own). labels: (N,) or (N, C); probabilities: (N, C).

    Such a column is more like this class than any other column is, and more like it than like any other class. What a
    classifier confuses is rarely that one-sided; a wrong order is.
    """
    images, classes = probabilities.shape
    truth, columns = labels.astype(np.float64), probabilities.astype(np.float64)
    if labels.ndim == 1:
        truth, columns = np.eye(classes)[labels], np.eye(classes)[probabilities.argmax(axis=1)]
    alike = _standardised(truth).T @ _standardised(columns) / images  # (C, C): class c with column k
    best, owner = alike.argmax(axis=1), alike.argmax(axis=0)
    known = np.flatnonzero((truth.sum(axis=0) >= _IMAGES) & (alike.max(axis=1) > _ALIKE))
    return [(int(c), int(best[c])) for c in known if best[c] != c and owner[best[c]] == c]


def _standardised(columns: np.ndarray) -> np.ndarray:
    """(N, C) with mean 0 and deviation 1; columns that are constant become 0."""
    deviation = columns.std(axis=0)
    centred: np.ndarray = columns - columns.mean(axis=0)
    return centred / np.where(deviation > 0, deviation, np.inf)


def describe_swaps(swaps: Sequence[tuple[int, int]], classes: Sequence[str]) -> str:
    """One line for a person; empty when a single class is concerned, which a classifier may well do by itself."""
    if len(swaps) < 2:
        return ""
    shown = "; ".join(f"{classes[c]!r} looks like {classes[k]!r}" for c, k in swaps[:_SHOWN])
    return f"the classes seem to be in another order than the leaderboard's ({len(swaps)} of {len(classes)}: {shown})"
