"""Class folders: below one folder per split, or without splits, which a seeded rule then makes.

Options beside the common ones: `splits` (split -> folder of class folders); or `below` (the folder of class folders),
`native` (images per class and split), `rest` (the split that takes what is left over) and `seed`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ...utils.errors import DataError
from ..examples import hexdigest
from ..sampling.splits import check_known
from .helpers import Stored, first_of, register
from .image_folder import Files, Skipped, class_examples, files_by_class
from .reader import Options


def load_splits(folder: Path, options: Options) -> Stored:
    """Classes are the folders of train, or of test without a train, sorted; by number where they are `numbered`.

    Raises DataError when another split has a class that these lack.
    """
    places = {split: first_of(folder, below) for split, below in options["splits"].items()}
    found = {split: class_files(place) for split, place in places.items()}
    names = found.get("train", found["test"])
    numbered = bool(options.get("numbered"))
    if numbered and (strange := next((name for name in names if not (name.isascii() and name.isdigit())), None)):
        raise DataError(f"{folder} has {strange!r} where folders are called by number; get the data again")
    classes = tuple(map(str, range(max(map(int, names)) + 1))) if numbered else tuple(sorted(names))
    for split, files in found.items():
        check_known(str(places[split]), files, classes)
    splits = {split: class_examples(places[split], files, classes) for split, files in found.items()}
    return Stored(splits, () if numbered else classes)


def load_whole(folder: Path, options: Options) -> Stored:
    """The seeded split of every class. The official lists of such an archive were never published with it."""
    below, quotas, rest, seed = folder / options["below"], options["native"], options.get("rest"), options["seed"]
    files = class_files(below)
    classes = tuple(sorted(files))
    dealt = {name: seeded_split(files[name], quotas, rest, seed, str(below / name)) for name in classes}
    splits = {
        split: class_examples(below, {name: parts[split] for name, parts in dealt.items()}, classes) for split in quotas
    }
    return Stored(splits, classes, _notes(files, options))


def _notes(files: Files, options: Options) -> tuple[str, ...]:
    quotas, rest = options["native"], options.get("rest")
    rule = ", ".join("the rest " + split if split == rest else f"{n} {split}" for split, n in quotas.items())
    small = sum(not is_full(len(names), quotas, rest) for names in files.values())
    scaled = f"; in proportion in the {small} classes that have fewer images" if small else ""
    return (f"native split (seed {options['seed']}): of each class {rule}{scaled}; ELEVATER's own lists differ",)


def class_files(folder: Path) -> Files:
    """Class -> its images, as paths below `folder`. Raises DataError for a missing folder or an empty class."""
    if not folder.is_dir():
        raise DataError(f"{folder} is missing; unpack the whole archive")
    return files_by_class(folder, Skipped())


register("split-folders", load_splits)
register("seeded-folders", load_whole)


Quotas = Mapping[str, int]  # split -> images per class


def seeded_split(names: Sequence[str], quotas: Quotas, rest: str | None, seed: int, where: str) -> dict[str, list[str]]:
    """The images `names` of one class dealt out in the order of the hash of seed and name; every part sorted.

    Each split gets its quota; what is left over goes to `rest`, or stays unused without one. In a class that is too
    small for this (a cut-down copy) the splits get shares in proportion, at least one image each.
    Raises DataError when there are fewer images than splits.
    """
    if len(names) < len(quotas):
        raise DataError(f"{where} has {len(names)} images, too few for {', '.join(quotas)}; get the data again")
    dealt = sorted(names, key=lambda name: hexdigest(f"{seed}\0{name}"))
    parts: dict[str, list[str]] = {}
    for split, count in _counts(len(names), quotas, rest).items():
        parts[split], dealt = sorted(dealt[:count]), dealt[count:]
    return parts


def is_full(count: int, quotas: Quotas, rest: str | None) -> bool:
    """Can every split of a class of `count` images have its quota?"""
    return count >= sum(quota for split, quota in quotas.items() if split != rest) + (rest is not None)


def _counts(count: int, quotas: Quotas, rest: str | None) -> dict[str, int]:
    *first, last = sorted(quotas, key=lambda split: split == rest)  # what takes the rest comes last
    full = is_full(count, quotas, rest)
    total = sum(quotas.values())
    taken = {split: quotas[split] if full else max(1, count * quotas[split] // total) for split in first}
    exact = full and rest is None
    return {**taken, last: quotas[last] if exact else count - sum(taken.values())}
