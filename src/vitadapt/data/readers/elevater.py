"""ELEVATER's own layout: `classification/FOLDER` with one index per split beside zips that are read in place.

An index is a text of `archive.zip@inner/path.jpg 0,3` lines with class names in a label map, or a COCO JSON. Options:
`folder`, one file name per split, and `labels` (the label map).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ...utils.errors import DataError, damaged
from ..archives import ZipRef, check_member, zip_members
from ..class_names import relabel
from ..examples import Examples, FileRef, ImageRef, LabelArray
from .helpers import text_of
from .index_files import parsed
from .reader import READERS, CatalogRow, Contents, Options, Reader, in_order

SPLITS = ("train", "val", "test")
Entry = tuple[str, tuple[int, ...]]  # path as the index writes it, class ids of the hub


def places(options: Options, root: Path | None) -> list[str]:
    """Below the data root, or below one folder per dataset in it."""
    if root is None:
        return []
    below = Path("classification") / options["folder"]
    return [str(root / below), str(root / options["folder"]), *map(str, sorted(root.glob(f"*/{below}")))]


def has(options: Options, place: str) -> bool:
    """Is the index of the test split there?"""
    test: Path = Path(place) / options["test"]
    return test.is_file()


def read(row: CatalogRow, options: Options, place: str) -> Contents:
    """Every split in the order of its index. Raises DataError naming the line or the file that is wrong."""
    folder = Path(place)
    indexes = {split: folder / options[split] for split in SPLITS if split in options}
    present = {split: index for split, index in indexes.items() if split != "val" or index.is_file()}
    listed = {split: _entries(index) for split, index in present.items()}
    names = [categories for categories, _ in listed.values() if categories is not None]
    if any(other != names[0] for other in names):
        raise DataError(f"{folder}: the splits have different categories; get the data again")
    classes = names[0] if names else _label_map(folder / options["labels"], len(row.classes))
    order, doubts = in_order(row, classes, str(folder), leaderboards=True)
    splits = {split: _examples(row, present[split], entries, order) for split, (_, entries) in listed.items()}
    return Contents(splits, order=order, split="elevater", doubts=doubts)


READERS.register("hub")(Reader(places, has, read))


def _label_map(path: Path, count: int) -> tuple[str, ...]:
    if not path.exists():
        return tuple(map(str, range(count)))  # as the hub's library does: without names, numbers
    return tuple(stripped for line in text_of(path).splitlines() if (stripped := line.strip()))


def _entries(index: Path) -> tuple[tuple[str, ...] | None, list[Entry]]:
    """(class names, where the index has them; images)."""
    text = text_of(index)
    return _coco(index, parsed(str(index), text)) if index.suffix == ".json" else (None, _iris(index, text))


def _iris(index: Path, text: str) -> list[Entry]:
    entries = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        path, _, labels = line.strip().rpartition(" ")  # paths may hold blanks, labels may not
        if not path:  # no label: the whole line is the path
            path, labels = labels, ""
        try:
            ids = tuple(int(label) for label in labels.split(",")) if labels else ()
        except ValueError as error:
            raise DataError(
                f"{index}: line {number} ends in {labels[:30]!r}, not in class numbers; get the data again"
            ) from error
        entries.append((path, ids))
    return entries


def _coco(index: Path, table: Any) -> tuple[tuple[str, ...], list[Entry]]:
    """Class = rank of the category's id; images by id."""
    with damaged(index, "get the data again", DataError, "is not a COCO index of images, annotations and categories"):
        categories = sorted((entry["id"], str(entry["name"])) for entry in table["categories"])
        images = sorted((entry["id"], _coco_path(entry)) for entry in table["images"])
        rank = {identity: i for i, (identity, _) in enumerate(categories)}
        labels: dict[Any, list[int]] = {identity: [] for identity, _ in images}
        for entry in table["annotations"]:
            labels[entry["image_id"]].append(rank[entry["category_id"]])
    if len(labels) < len(images) or len(rank) < len(categories):
        raise DataError(f"{index} gives two images, or two categories, the same id; get the data again")
    entries = [(path, tuple(sorted(set(labels[identity])))) for identity, path in images]
    return tuple(name for _, name in categories), entries


def _coco_path(entry: Mapping[str, Any]) -> str:
    name = str(entry["file_name"])
    return f"{entry['zip_file']}@{name}" if entry.get("zip_file") else name


def _examples(row: CatalogRow, index: Path, entries: Sequence[Entry], order: tuple[int, ...]) -> Examples:
    count = len(order)
    for path, ids in entries:
        if any(not 0 <= i < count for i in ids):
            raise DataError(f"{index}: {path} has the class {max(ids, key=abs)}, outside 0..{count - 1}")
        if not row.multilabel and len(ids) != 1:
            raise DataError(f"{index}: {path} has {len(ids)} classes where one is expected; get the data again")
    labels: LabelArray = np.array([ids[0] for _, ids in entries if ids], dtype=np.int64)
    if row.multilabel:
        labels = np.zeros((len(entries), count), dtype=np.uint8)
        for line, (_, ids) in enumerate(entries):
            labels[line, list(ids)] = 1
    find = _finder(index)
    return Examples(tuple(find(path) for path, _ in entries), relabel(labels, order))


def _finder(index: Path) -> Callable[[str], ImageRef]:
    """What turns a path of `index` into a reference; every zip is listed once."""

    @cache
    def members(archive: str) -> Mapping[str, ZipRef]:
        return zip_members(index.parent / check_member(index, archive))

    def find(path: str) -> ImageRef:
        archive, at, inner = path.partition("@")
        if not at:
            file = index.parent / check_member(index, path)
            if not os.path.isfile(file):
                raise DataError(f"{index} lists {path}, which does not exist; copy the whole folder")
            return FileRef(file)
        here = members(archive)
        member = here.get(inner) or here.get(wrapping(archive) + inner) or by_key(archive).get(_key(inner))
        if member is None:
            raise DataError(f"{index} lists {inner}, which {index.parent / archive} lacks; get the archive again")
        return member

    @cache
    def wrapping(archive: str) -> str:
        """The one folder around all members, with its slash."""
        tops = {name.partition("/")[0] for name in members(archive) if "/" in name and not _is_litter(name)}
        return f"{tops.pop()}/" if len(tops) == 1 else ""

    @cache
    def by_key(archive: str) -> dict[str, ZipRef]:
        """Members by what is left of a name when neither the wrapping folder nor the case counts, if it is unique."""
        inside = wrapping(archive)
        keys = [(key, ref) for name, ref in members(archive).items() for key in {_key(name), _key(name[len(inside) :])}]
        counts = Counter(key for key, _ in keys)
        return {key: ref for key, ref in keys if counts[key] == 1}

    return find


def _is_litter(name: str) -> bool:
    """Does a file system's own bookkeeping stand in an archive?"""
    return name.startswith("__MACOSX/") or name.rpartition("/")[2] in (".DS_Store", "Thumbs.db")


def _key(name: str) -> str:
    return name.removeprefix("./").casefold()
