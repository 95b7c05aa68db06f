"""What folders, tables and arrays have in common: checks on class names, and holding out a test split."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from ...utils.errors import DataError
from ..examples import Examples, IndexArray, LabelArray, hexdigest
from .few_shot import class_sizes, validation_split

SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
}
HELD_OUT = 0.2


def normal(name: str) -> str:
    """The form under which two spellings of a class name are the same: case, blanks, underscores, Unicode."""
    return " ".join(unicodedata.normalize("NFC", name).replace("_", " ").split()).casefold()


Complain = Callable[[DataError], None]


def refuse(error: DataError) -> None:
    """The default for data with a defect: the error is raised."""
    raise error


def check_classes(where: str, names: Iterable[str], complain: Complain = refuse, least: int = 2) -> tuple[str, ...]:
    """The class names, sorted. Complains when two are spellings of one; raises DataError for fewer than `least`."""
    classes, seen = tuple(sorted(names)), dict[str, str]()
    for name in classes:
        if (twin := seen.setdefault(normal(name), name)) != name:
            complain(DataError(f"{where}: {twin!r} and {name!r} are the same class name; give one class one spelling"))
    if len(classes) < least:
        raise DataError(f"{where}: {', '.join(classes) or 'no class'} only; at least two classes are needed")
    return classes


def check_known(where: str, names: Iterable[str], classes: Sequence[str], complain: Complain = refuse) -> None:
    """Complains of every name that is not one of the train split's `classes`."""
    for name in sorted(set(names) - set(classes)):
        near = [known for known in classes if normal(known) == normal(name)]
        hint = f"it is spelt {near[0]!r} there" if near else "add it to train or remove it"
        complain(DataError(f"{where} has the class {name!r}, which train lacks; {hint}"))


def with_test(
    where: str,
    classes: Sequence[str],
    splits: Mapping[str, Examples],
    keys: Sequence[str],
    complain: Complain = refuse,
    whole: bool = False,
) -> tuple[dict[str, Examples], tuple[str, ...]]:
    """`splits` with a test split, and notes on what was decided. `keys` names the train images.

    A missing test split is cut off from train: 20 % of each class, chosen by hash of the key, so that neither the order
    of the files nor other images matter much; with `whole` it stays missing. Complains when a class has too few images
    for that. Raises DataError when there is a val split and no test split, because one of them would have to serve
    twice.
    """
    if "test" in splits:
        absent = [classes[c] for c in empty_classes(splits["test"].labels, classes)]
        return dict(splits), ((f"the test split has no images of {', '.join(absent)}",) if absent else ())
    if "val" in splits:
        raise DataError(f"{where} has a val split but no test split; rename val to test, or add a test split")
    if whole:
        return dict(splits), ()
    given = splits["train"]
    train, test = hold_out(keys, given.labels)
    for c in empty_classes(given.labels[train], classes):
        complain(
            DataError(
                f"{where}: the class {classes[c]!r} has too few images to hold some out for testing; "
                "add images, or give a test split"
            )
        )
    note = f"no test split was given: {HELD_OUT:.0%} of each class was held out"
    return {"train": given.take(train), "test": given.take(test)}, (note,)


def split_rule(given: Iterable[str], whole: bool = False) -> str:
    """`Dataset.split` of data that came with the splits `given`."""
    if whole and not {"train", "test"} <= set(given):
        return "undivided"
    return "given" if "test" in given else "held-out"


def empty_classes(labels: LabelArray, classes: Sequence[str]) -> list[int]:
    """The classes that no image has."""
    return [int(c) for c in np.flatnonzero(class_sizes(labels, classes) == 0)]


def hold_out(keys: Sequence[str], labels: LabelArray) -> tuple[IndexArray, IndexArray]:
    """(train, test) rows, ascending: ceil(20 %) of every class, those whose keys have the smallest hashes, are test."""
    hashes = [hexdigest(unicodedata.normalize("NFC", key)) for key in keys]
    order = np.array(sorted(range(len(keys)), key=hashes.__getitem__), dtype=np.int64)
    train, test = validation_split(labels[order], HELD_OUT)
    return np.sort(order[train]), np.sort(order[test])
