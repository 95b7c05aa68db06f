"""One's own labelled images, examined and divided: what can be trained on, and what is held out to measure with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from ..data import Dataset, Examples, Geometry, open_dataset
from ..data.checks.dataset import Finding
from ..data.checks.dataset import check as examine
from ..data.checks.images import Scan, scan
from ..data.examples import IndexArray
from ..data.sampling.few_shot import class_sizes
from ..data.sampling.folds import folds_for, hold_out_groups, single_classes, with_none
from ..data.sampling.splits import check_classes, empty_classes, hold_out
from ..metrics.several_labels import best_thresholds
from ..utils.errors import DataError
from ..utils.progress import Progress
from .prior import Prior, read_prior

FEW = 30  # images to test with, below which cross-validation measures better
Measured = Literal["given", "held-out", "cross-validation", "nothing"]


@dataclass(frozen=True)
class TrainTestSplit:
    """Images to train on and to test with. groups: (N,) of the training images; near-duplicates share a number.

    given: did the test part come with the data? findings: of `vitadapt data check`. scan: all images as they were read.
    keep_holdout: the test part is not trained on, either, once the model is measured.
    """

    name: str
    classes: tuple[str, ...]
    train: Examples
    test: Examples
    groups: IndexArray
    given: bool
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    scan: Scan = field(default_factory=lambda: scan(()), repr=False)
    keep_holdout: bool = False

    @cached_property
    def delivered(self) -> Examples:
        """What the delivered model is trained on: the training images first, then those that were held out."""
        return self.train if self.given or self.keep_holdout or not len(self.test) else _joined([self.train, self.test])

    @property
    def measured_by(self) -> Measured:
        """How it is known what the model does with new images."""
        if len(self.test):
            return "given" if self.given else "held-out"
        return "cross-validation" if folds_for(self.train.labels, self.groups) else "nothing"

    @property
    def measured_text(self) -> str:
        """What is trained on and what it is measured with, as one line."""
        train, test = len(self.train), len(self.test)
        if self.measured_by == "cross-validation":
            return f"{train} images to train on; all of them are measured with by cross-validation"
        what = "given" if self.given else "held out"
        last = "; the model is trained on all of them at the end" if len(self.delivered) > train else ""
        return f"{train} images to train on, {test} {what} to test with{last}"

    @property
    def multilabel(self) -> bool:
        """May an image have several labels, or none?"""
        return self.train.multilabel

    def prior(self, text: str | None) -> Prior | None:
        """What `--prior` names; None for none. Raises what `read_prior` raises."""
        if text is None:
            return None
        return read_prior(text, self.classes, np.array(self.counts(self.delivered)) / len(self.delivered))

    def thresholds(self, probabilities: np.ndarray | None) -> tuple[float, ...]:
        """The thresholds of a model of several labels, of probabilities (N, C) from cross-validation; else none."""
        if not self.multilabel:
            return ()
        if probabilities is None:
            return (0.5,) * len(self.classes)
        return best_thresholds(self.train.labels, probabilities)

    def fold_thresholds(self, probabilities: np.ndarray, fold: np.ndarray) -> np.ndarray | tuple[float, ...]:
        """(N, C) thresholds for each training image, chosen on the images of the other folds; none for one label."""
        if not self.multilabel:
            return ()
        found, labels = np.zeros(probabilities.shape), self.train.labels
        for number in np.unique(fold):
            rest = fold != number
            found[~rest] = best_thresholds(labels[rest], probabilities[rest])
        return found

    def counts(self, part: Examples) -> list[int]:
        """Images of each class."""
        found: list[int] = class_sizes(part.labels, self.classes).tolist()
        return found


def train_test_split(
    spec: str | Path | Dataset,
    root: Path | None = None,
    progress: Progress | None = None,
    geometry: Geometry | None = None,
    cache: Path | None = None,
    *,
    keep_holdout: bool = True,
) -> TrainTestSplit:
    """Open, check and split the images that `spec` names (as for `open_dataset`).

    Images that cannot be read are left out, with a note. Every image is read and decoded once; with a `geometry` the
    squares are kept (see `scan`). Raises DataError when there is nothing to learn from, and UnknownName for a misspelt
    name.
    """
    dataset = open_dataset(spec, root, whole=True)
    if "train" not in dataset.splits:
        raise DataError(f"{dataset.name} has images to test with, and none to train on; add a train part")
    check_classes(dataset.name, dataset.classes)
    report = examine(dataset, progress=progress, geometry=geometry, cache=cache)
    broken = set(report.unreadable)
    notes = (
        ["images may have several labels: only methods that train are compared"]
        if dataset.splits["train"].multilabel
        else []
    )
    notes += [f"{len(broken)} images cannot be read and were left out: {_some(sorted(broken))}"] if broken else []
    findings = tuple(finding for finding in report.findings if finding.check != "unreadable")
    parts = {split: _without(part, broken) for split, part in dataset.splits.items()}
    given = "test" in parts and dataset.split != "held-out"
    test = parts.pop("test") if given else parts["train"].take([])
    train = _joined(parts.values())
    _require_every_class(train, dataset)
    if not given:  # in the order of earlier versions: the same images give the same model
        train = train.take(np.concatenate(hold_out([_key(ref.name) for ref in train.refs], with_none(train.labels))))
    groups = report.scan.groups(_joined([train, test]), progress)
    own = groups[: len(train)]
    if given:
        if twins := int(np.isin(groups[len(train) :], own).sum()):
            notes.append(f"{twins} test images have a near-duplicate in train: the accuracy is too good by them")
    else:
        if copies := len(train) - len(np.unique(own)):
            notes.append(f"{copies} images are near-duplicates of others; each group of them was kept together")
        least = 1 if keep_holdout else 2  # with one image of a class left, no candidates could be compared
        rows, held = hold_out_groups([_key(ref.name) for ref in train.refs], train.labels, own, least)
        if not keep_holdout and len(held) < FEW and folds_for(train.labels, own):
            rows, held = np.arange(len(train)), held[:0]  # so few would say nothing: cross-validation says more
        train, test, own = train.take(rows), train.take(held), own[rows]
        if len(test) and (untested := [dataset.classes[c] for c in empty_classes(test.labels, dataset.classes)]):
            notes.append(
                f"no images to test with can be spared of {_some(untested)}; all of them are used for training"
            )
    if single := single_classes(train.labels, own, dataset.classes):
        notes.append(
            f"no candidates are compared: there is one image of {_some(single)} (near-duplicates count as one)"
        )
    parts_of = (dataset.name, dataset.classes, train, test, own, given, findings, tuple(notes), report.scan)
    return TrainTestSplit(*parts_of, keep_holdout)


def _key(name: str) -> str:
    """The class folder and the file name: the same wherever the whole folder lies."""
    return "/".join(Path(name).parts[-2:])


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _without(examples: Examples, names: set[str]) -> Examples:
    return examples.take([row for row, ref in enumerate(examples.refs) if ref.name not in names])


def _joined(parts: Iterable[Examples]) -> Examples:
    whole = list(parts)
    refs = tuple(ref for part in whole for ref in part.refs)
    return Examples(refs, np.concatenate([part.labels for part in whole]).astype(np.int64))


def _require_every_class(train: Examples, dataset: Dataset) -> None:
    if empty := [dataset.classes[c] for c in empty_classes(train.labels, dataset.classes)]:
        raise DataError(f"{dataset.name}: no readable image to train on of {_some(empty)}; add some, or drop the class")
    if not train.multilabel:
        return
    if everywhere := [name for name, own in zip(dataset.classes, train.labels.T, strict=True) if own.all()]:
        raise DataError(f"{dataset.name}: every image has the label {_some(everywhere)}; drop it, it tells nothing")
