"""What the readers of original archives share: where they look, how classes are numbered, and files that must exist.

A reader here only says what lies in a folder, in the folder's own numbering (`Stored`); `register` turns that into a
reader of the catalog. Options that all of them know: `folders` (below the data root, best first), `marker` (what must
exist there, or alternatives) and `classes` (names for its own numbers, where it has no names and
numbers the classes in another way).
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from ...utils.errors import DataError, damaged, first_few
from ...utils.files import read_at_most, read_bounded
from ...utils.limits import ARRAY_FILE, GIB, LIST_FILE, NUMBER_DIGITS
from ..archives import check_member
from ..class_names import relabel
from ..examples import Examples, FileRef
from .reader import READERS, CatalogRow, Contents, Options, Reader

_INTEGER = re.compile(rf"[+-]?0*[0-9]{{1,{NUMBER_DIGITS}}}")


@dataclass(frozen=True)
class Stored:
    """The splits of a storage. `classes` are its names in its own order; empty when its numbers are the catalog's."""

    splits: Mapping[str, Examples]
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def register(name: str, load: Callable[[Path, Options], Stored]) -> None:
    """File `load(folder, options)` as the catalog's reader `name`. Raises ValueError when the name is taken."""

    def read(row: CatalogRow, options: Options, place: str) -> Contents:
        return contents(row, options, place, load(Path(place), options))

    READERS.register(name)(Reader(places, has, read))


def places(options: Options, root: Path | None) -> list[str]:
    """The `folders` of a source below the data root."""
    return [str(root / folder) for folder in options["folders"]] if root else []


def has(options: Options, place: str) -> bool:
    """Does what marks this storage lie there?"""
    return Path(place).is_dir() and first_of(Path(place), options["marker"]).exists()


def contents(row: CatalogRow, options: Options, place: str, stored: Stored) -> Contents:
    """`stored` in the catalog's numbering. Raises DataError for labels without a class, or unknown classes."""
    names = tuple(options.get("classes", stored.classes))
    order = row.order(names, place) if names else tuple(range(len(row.classes)))
    splits = {
        split: Examples(part.refs, relabel(part.labels, order, f"{place}: {split}"))
        for split, part in stored.splits.items()
    }
    return Contents(splits, stored.notes, order if names else ())


def text_of(path: Path) -> str:
    """The text of an index file. Raises DataError naming it when it is missing, unreadable or not UTF-8."""
    with damaged(path, "get the data again", DataError, "is not a text file in UTF-8"):
        return bytes_of(path, LIST_FILE).decode("utf-8-sig")


def bytes_of(path: Path, most: int = ARRAY_FILE) -> bytes:
    """The content of a file of at most `most` bytes. Raises DataError naming it when it is missing or unreadable."""
    with damaged(path, "get the data again"):
        try:
            return read_bounded(path, most)
        except FileNotFoundError as error:
            raise DataError(f"{path} is missing; unpack the whole archive") from error


class _Declared(Exception):
    """A declaration could make a short file expand without end, in whatever encoding it is written."""


class _Builder(ElementTree.TreeBuilder):
    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise _Declared


def xml_of(path: Path, most: int) -> ElementTree.Element:
    """The root of an XML file of at most `most` bytes. Raises DataError when it is missing, damaged or unsafe."""
    data = bytes_of(path, most)
    with damaged(path, "get the data again", DataError, "is not valid XML"):
        try:
            return ElementTree.fromstring(data, ElementTree.XMLParser(target=_Builder()))
        except _Declared as error:
            raise DataError(f"{path} has declarations that annotations never need; get the data again") from error


def unzipped(path: Path, most: int = ARRAY_FILE) -> bytes:
    """What a gzipped file unfolds into. Raises DataError when it is damaged, or that is more than `most` bytes."""
    with damaged(path, "get it again", DataError, "cannot be decompressed"), gzip.open(path) as stream:
        data = read_at_most(stream, most + 1) if path.stat().st_size <= most else bytes(most + 1)
    if len(data) > most:
        raise DataError(f"{path} unfolds into more than {most / GIB:g} GiB; decompress it: gunzip --keep {path}")
    return data


def plain_or_gzipped(path: Path) -> Path:
    """`path`, or `path`.gz when only that exists. Raises DataError when neither does."""
    zipped = path.with_name(f"{path.name}.gz")
    if not path.is_file() and not zipped.is_file():
        raise DataError(f"{path} is missing; get it, plain or as {zipped.name}")
    return path if path.is_file() else zipped


def lines_of(path: Path) -> Iterator[tuple[str, str]]:
    """(where it is, for messages; the line) for every line that is neither empty nor a comment."""
    for number, line in enumerate(text_of(path).splitlines(), start=1):
        if (stripped := line.strip()) and not stripped.startswith("#"):
            yield f"{path}: line {number}", stripped


def table_of(path: Path, columns: Sequence[str], delimiter: str = ",") -> Iterator[tuple[str, list[str]]]:
    """(where it is, for messages; the fields of `columns`) for every row of a CSV file; case does not count in names.

    Raises DataError for a column that is missing, and naming the line of a row that is short, long or damaged.
    """
    rows = csv.reader(io.StringIO(text_of(path), newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        names = [name.strip().lower() for name in next(rows, [])]
        if absent := [name for name in columns if name.lower() not in names]:
            raise DataError(f"{path} has no column {', '.join(absent)}; take the file with labels for all images")
        places = [names.index(name.lower()) for name in columns]
        for row in filter(None, rows):
            where = f"{path}: line {rows.line_num}"
            if len(row) != len(names):
                raise DataError(f"{where} has {len(row)} fields instead of {len(names)}; get the data again")
            yield where, [row[place].strip() for place in places]
    except csv.Error as error:
        raise DataError(f"{path}: line {rows.line_num} is not valid CSV ({error}); get the data again") from error


def first_of(folder: Path, names: str | Sequence[str]) -> Path:
    """The first of the alternative `names` that exists in `folder`, or where the first should be."""
    candidates = [folder / name for name in ([names] if isinstance(names, str) else names)]
    return next((path for path in candidates if path.exists()), candidates[0])


def file_refs(index: Path, folder: Path, names: Iterable[str]) -> tuple[FileRef, ...]:
    """The files of `folder` that `index` lists. Raises DataError naming those that lie outside it or do not exist."""
    paths = [_as_spelt(folder / check_member(index, name)) for name in names]
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        named = first_few([os.fspath(path.relative_to(folder)) for path in missing])
        raise DataError(f"{index} lists files that are not in {folder}: {named}; unpack the whole archive")
    return tuple(FileRef(path) for path in paths)


def _as_spelt(path: Path) -> Path:
    """`path`, or the file that differs from it in the case of its suffix, as some copying tools leave it."""
    if os.path.isfile(path):  # which takes impossible names for absent, too
        return path
    others = (path.with_suffix(change(path.suffix)) for change in (str.upper, str.lower))
    return next((other for other in others if os.path.isfile(other)), path)


def integer(where: str, text: str) -> int:
    """`text` as a whole number. Raises DataError saying `where` when it is not one."""
    if not _INTEGER.fullmatch(text.strip()):
        raise DataError(f"{where} has {text[:30]!r} where a number was expected; get the data again")
    return int(text)


def by_name(pairs: Mapping[str, Sequence[tuple[FileRef, str]]]) -> Stored:
    """Splits of (file, class name), numbered by the sorted names of all splits."""
    classes = tuple(sorted({name for part in pairs.values() for _, name in part}))
    ids = {name: i for i, name in enumerate(classes)}
    splits = {
        split: Examples(tuple(ref for ref, _ in part), np.array([ids[name] for _, name in part], dtype=np.int64))
        for split, part in pairs.items()
    }
    return Stored(splits, classes)
