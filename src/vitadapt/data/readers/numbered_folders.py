"""A re-packaging with one numbered folder per class: `train/007/*.jpg`, `test/..`, and the names in `label.txt`.

Options: `folders` (below the data root).
"""

from __future__ import annotations

from pathlib import Path

from ...utils.errors import DataError
from ..class_names import relabel
from ..examples import Examples
from .helpers import places, text_of
from .image_folder import Skipped, class_examples, files_by_class
from .reader import READERS, CatalogRow, Contents, Options, Reader, in_order

_LABELS = "label.txt"


def has(options: Options, place: str) -> bool:
    """Are the label file and both splits there?"""
    folder = Path(place)
    return (folder / _LABELS).is_file() and (folder / "train").is_dir() and (folder / "test").is_dir()


def read(row: CatalogRow, options: Options, place: str) -> Contents:
    """Train, test and perhaps val, classes by number and files sorted. Raises DataError naming what does not fit."""
    folder = Path(place)
    names = tuple(stripped for line in text_of(folder / _LABELS).splitlines() if (stripped := line.strip()))
    order, doubts = in_order(row, names, str(folder / _LABELS), leaderboards=True)
    present = [split for split in ("train", "val", "test") if (folder / split).is_dir()]
    splits = {split: _split(folder / split, order) for split in present}
    return Contents(splits, order=order, split="elevater", doubts=doubts)


READERS.register("numbered-folders")(Reader(places, has, read))


def _split(folder: Path, order: tuple[int, ...]) -> Examples:
    files = files_by_class(folder, Skipped())
    numbers = {name: int(name) for name in files if name.isascii() and name.isdigit()}
    wrong = [name for name in files if numbers.get(name, len(order)) >= len(order)]
    if wrong or len(set(numbers.values())) < len(numbers):
        what = repr(wrong[0]) if wrong else "one number twice"
        raise DataError(f"{folder} has {what} where folders 0..{len(order) - 1} are expected; get the data again")
    names = tuple(sorted(files, key=numbers.__getitem__))
    examples = class_examples(folder, files, names)
    return Examples(examples.refs, relabel(examples.labels, [order[numbers[name]] for name in names]))
