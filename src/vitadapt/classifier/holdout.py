"""One's own labelled images, examined and divided: what can be trained on, and what is held out to measure with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data import Dataset, Examples, open_dataset
from ..data.checks.dataset import Finding
from ..data.checks.dataset import check as examine
from ..data.checks.near_duplicates import groups as groups_of
from ..data.examples import IndexArray
from ..data.parallel import Progress
from ..data.readers.hf_datasets import PREFIX, read_hub
from ..data.sampling.folds import hold_out_groups
from ..utils.errors import DataError

_OURS = {"duplicates across splits", "split size", "reading"}  # findings that the division here makes void


@dataclass(frozen=True)
class TrainTestSplit:
    """Images to train on and to measure with. groups: (N,) of the training images; near-duplicates share a number.

    given: did the test part come with the data? findings: what the doctor says.
    """

    name: str
    classes: tuple[str, ...]
    train: Examples
    test: Examples
    groups: IndexArray
    given: bool
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def dataset(self) -> Dataset:
        """The same as a dataset."""
        return Dataset(self.name, self.classes, {"train": self.train, "test": self.test or self.train})


def train_test_split(
    spec: str | Path | Dataset, root: Path | None = None, progress: Progress | None = None
) -> TrainTestSplit:
    """Open, examine and divide the images that `spec` names (as for `open_dataset`).

    Images that cannot be read are left out, with a note. Raises DataError when nothing to learn from is left, and
    UnknownName for a misspelt name.
    """
    dataset = open_images(spec, root)
    if any(part.multilabel for part in dataset.splits.values()):
        raise DataError(f"{dataset.name}: images with several labels are not for this; use 'vitadapt run'")
    report = examine(dataset, progress=progress)
    broken = set(report.unreadable)
    given = dataset.split != "held-out"
    parts = {split: _without(part, broken) for split, part in dataset.splits.items()}
    train = _joined(part for split, part in parts.items() if not (given and split == "test"))
    _require_every_class(train, dataset)
    notes = [f"{len(broken)} images cannot be read and were left out: {_some(sorted(broken))}"] if broken else []
    findings = tuple(f for f in report.findings if f.check != "unreadable" and (given or f.check not in _OURS))
    test = parts["test"] if given else train.take([])
    everything = _joined([train, test])
    groups = groups_of(everything, progress=progress)
    own, other = groups[: len(train)], groups[len(train) :]
    if given:
        twins = int(np.isin(other, own).sum())
        if twins:
            notes.append(f"{twins} test images have a near-duplicate in train: the accuracy is too good by them")
        return TrainTestSplit(dataset.name, dataset.classes, train, test, own, True, findings, tuple(notes))
    rows, held = hold_out_groups([_key(ref.name) for ref in train.refs], train.labels, own)
    copies = len(train) - len(np.unique(own))
    if copies:
        notes.append(f"{copies} images are near-duplicates of others; each group of them was kept together")
    alone = [c for i, c in enumerate(dataset.classes) if i not in set(train.labels[held].tolist())]
    if alone:
        notes.append(f"no picture to test with could be spared of {_some(alone)}; add different ones")
    parts = {"train": train.take(rows), "test": train.take(held)}
    return TrainTestSplit(
        dataset.name, dataset.classes, parts["train"], parts["test"], own[rows], False, findings, (*notes,)
    )


def open_images(spec: str | Path | Dataset, root: Path | None = None) -> Dataset:
    """`open_dataset`, which here also knows hf:REPO. Raises as it does, and as `read_hub`."""
    if isinstance(spec, str) and spec.startswith(PREFIX):
        return read_hub(spec)
    return open_dataset(spec, root)


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
    sizes = np.bincount(train.labels, minlength=len(dataset.classes))
    empty = [name for name, size in zip(dataset.classes, sizes, strict=True) if not size]
    if empty:
        raise DataError(f"{dataset.name}: no readable image to train on of {_some(empty)}; add some, or drop the class")
