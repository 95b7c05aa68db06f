"""Index files beside a folder of images: one list per split, in one of the formats of `FORMATS`.

Options beside the common ones: `lists` (split -> index file, or alternatives), `format`, `images` (the folder that the
listed names lie in) and `suffix` (what they lack).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...utils.errors import DataError
from ...utils.files import parse_json
from ..examples import Examples
from .helpers import Stored, by_name, file_refs, first_of, integer, lines_of, register, table_of, text_of
from .reader import Options

Listed = Iterator[tuple[str, str]]  # (name of the image, its class as the index calls it)


def class_in_path(index: Path) -> Listed:
    """`class/image` lines; a class may be several folders deep, and a slash may stand in front."""
    for where, line in lines_of(index):
        image = line.removeprefix("/")
        label, slash, _ = image.rpartition("/")
        if not slash:
            raise DataError(f"{where} is not class/image; get the data again")
        yield image, label


def class_after_blank(index: Path) -> Listed:
    """`image class name` lines: everything behind the first blank is the name, which may hold blanks and slashes."""
    for where, line in lines_of(index):
        image, _, label = line.partition(" ")
        if not label.strip():
            raise DataError(f"{where} has no class; get the data again")
        yield image, label.strip()


def class_in_stem(index: Path) -> Listed:
    """`class_number id ...` lines. Raises DataError when one id stands for two classes, or one class has two."""
    ids: dict[str, str] = {}
    names: dict[str, str] = {}
    for where, line in lines_of(index):
        image, *numbers = line.split()
        label = image.rpartition("_")[0]
        if not label or not numbers:
            raise DataError(f"{where} is not class_number followed by the class id; get the data again")
        if ids.setdefault(label, numbers[0]) != numbers[0] or names.setdefault(numbers[0], label) != label:
            raise DataError(f"{where} gives {label} the class id {numbers[0]}, other lines do not; get the data again")
        yield image, label


def class_to_images(index: Path) -> Listed:
    """A JSON object: class -> list of `class/image`."""
    table = parsed(str(index), text_of(index))
    if not isinstance(table, dict) or not all(isinstance(names, list) for names in table.values()):
        raise DataError(f"{index} is not an object of class -> list of images; get the data again")
    for label, names in table.items():
        yield from ((str(name), label) for name in names)


def json_lines(index: Path) -> Listed:
    """One JSON object per line with `img` and `label`."""
    for where, line in lines_of(index):
        entry = parsed(where, line)
        if not isinstance(entry, dict) or "img" not in entry:
            raise DataError(f"{where} has no img; get the data again")
        if "label" not in entry:
            raise DataError(f"{where} has no label; this file is for a competition, take the labelled one")
        yield str(entry["img"]), str(entry["label"])


def semicolon_table(index: Path) -> Listed:
    """A table with the columns `Filename` and `ClassId`."""
    for where, (image, label) in table_of(index, ("Filename", "ClassId"), ";"):
        if not image or not label:
            raise DataError(f"{where} has no Filename or no ClassId; get the data again")
        yield image, label


FORMATS: dict[str, Callable[[Path], Listed]] = {
    "class/image": class_in_path,
    "image class": class_after_blank,
    "class_number id": class_in_stem,
    "class to images": class_to_images,
    "json lines": json_lines,
    "semicolon table": semicolon_table,
}


def parsed(where: str, text: str) -> Any:
    """The JSON value in `text`. Raises DataError saying `where` when there is none."""
    try:
        return parse_json(text)
    except ValueError as error:
        raise DataError(f"{where} is not valid JSON ({str(error)[:100]}); get the data again") from error


def load(folder: Path, options: Options) -> Stored:
    """The listed images in the order of the lists. Raises DataError for a damaged list or a missing image."""
    listed = {}
    for split, names in options["lists"].items():
        index = first_of(folder, names)
        pairs = list(FORMATS[options["format"]](index))
        refs = file_refs(index, folder / options["images"], (image + options.get("suffix", "") for image, _ in pairs))
        listed[split] = index, list(zip(refs, (label for _, label in pairs), strict=True))
    if not options.get("numbered") and "classes" not in options:
        return by_name({split: pairs for split, (_, pairs) in listed.items()})
    return Stored({split: numbered(index, pairs) for split, (index, pairs) in listed.items()})


def numbered(index: Path, pairs: Any) -> Examples:
    """Examples whose classes are written as numbers from 0."""
    labels = [integer(str(index), label) for _, label in pairs]
    return Examples(tuple(ref for ref, _ in pairs), np.array(labels, dtype=np.int64))


register("index-files", load)
