"""Class folders: below one folder per split, or without splits, which a seeded rule then makes.

Options beside the common ones: `splits` (split -> folder of class folders); or `below` (the folder of class folders),
`native` (images per class and split), `rest` (the split that takes what is left over) and `seed`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ....errors import DataError
from ...catalog import Options
from ...splits import check_known
from ..folder import Files, class_examples, files_by_class
from .rule import is_full, seeded_split
from .storage import Stored, register


def load_splits(folder: Path, options: Options) -> Stored:
    """Classes are the folders of train, sorted. Raises DataError when another split has a class that train lacks."""
    found = {split: class_files(folder / below) for split, below in options["splits"].items()}
    classes = tuple(sorted(found["train"]))
    for split, files in found.items():
        check_known(str(folder / options["splits"][split]), files, classes)
    splits = {
        split: class_examples(folder / options["splits"][split], files, classes) for split, files in found.items()
    }
    return Stored(splits, classes)


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
    return files_by_class(folder, Counter())


register("split-folders", load_splits)
register("seeded-folders", load_whole)
