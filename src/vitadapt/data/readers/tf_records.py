"""TensorFlow record files of examples with `image` (an image file), `filename` and `label`, read in place.

A record is its length (8 bytes), a checksum (4), a message of protocol buffers, and a checksum (4). The message, field
numbers in brackets: features [1] holds entries [1] of a map, each with key [1] and value [2]; a value holds a list of
bytes [1] or of integers [3], whose items are [1]. Nothing but places is kept. Options: `files` (split -> pattern).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...utils.errors import DataError, damaged
from ...utils.limits import ARCHIVE_MEMBERS
from ..archives import MemberRef, check_member
from ..examples import Examples
from .helpers import Stored, register
from .reader import Options

_LENGTH = struct.Struct("<Q4x")
_CHECKSUM = 4
_VARINT, _BYTES = 0, 2  # kinds of fields
_NAME = 4096  # bytes of a file name, or of a key

Span = tuple[int, int]  # from where to where in the file


def load(folder: Path, options: Options) -> Stored:
    """Raises DataError for files that are missing or damaged."""
    return Stored({split: _split(folder, pattern) for split, pattern in options["files"].items()})


def _split(folder: Path, pattern: str) -> Examples:
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise DataError(f"{folder} has no {pattern}; unpack the whole archive")
    found = [example for path in paths for example in examples_of(path)]
    return Examples(tuple(ref for ref, _ in found), np.array([label for _, label in found], dtype=np.int64))


def examples_of(path: Path) -> list[tuple[MemberRef, int]]:
    """Every image of a file with its label. Raises DataError naming the file when it is damaged."""
    found: list[tuple[MemberRef, int]] = []
    with (
        damaged(path, "get the data again", DataError, "is not a readable file of records"),
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        for record in records(data):
            found.append(_example(path, data, record))
            if len(found) > ARCHIVE_MEMBERS:
                raise ValueError("too many records")
    return found


def records(data: mmap.mmap) -> Iterator[Span]:
    """Where each record's message is. Raises ValueError when a length leads out of the file."""
    start = 0
    while start < len(data):
        if start + _LENGTH.size > len(data):
            raise ValueError("cut off")
        first = start + _LENGTH.size
        last = first + _LENGTH.unpack_from(data, start)[0]
        start = last + _CHECKSUM
        if start > len(data):
            raise ValueError("cut off")
        yield first, last


def _example(path: Path, data: mmap.mmap, record: Span) -> tuple[MemberRef, int]:
    values: dict[bytes, Span | int] = {}
    for entry in (entry for features in spans(data, record, 1) for entry in spans(data, features, 1)):
        key, value = _only(data, entry, 1), _only(data, entry, 2)
        for number, content in fields(data, value):
            if isinstance(content, tuple) and number in (1, 3):
                values[_text(data, key)] = _item(data, content, number)
    image, name, label = values.get(b"image"), values.get(b"filename"), values.get(b"label")
    if not (isinstance(image, tuple) and isinstance(name, tuple) and isinstance(label, int)):
        raise ValueError("a record without image, filename and label")
    size, shown = image[1] - image[0], _text(data, name).decode("utf-8")
    return MemberRef(path, check_member(path, shown, size), image[0], size), label


def _item(data: mmap.mmap, content: Span, number: int) -> Span | int:
    """The first item of a list of bytes (1), or of integers (3), which may stand one after another without numbers."""
    (_, item), *_ = fields(data, content)
    return _varint(data, item)[0] if number == 3 and isinstance(item, tuple) else item


def fields(data: mmap.mmap, span: Span) -> Iterator[tuple[int, Span | int]]:
    """(number, value) of every field of a message: an integer, or where its bytes are. Raises ValueError."""
    place, last = span
    while place < last:
        tag, place = _varint(data, (place, last))
        value, place = _varint(data, (place, last))
        if tag & 7 == _VARINT:
            yield tag >> 3, value
        elif tag & 7 == _BYTES and place + value <= last:
            yield tag >> 3, (place, place + value)
            place += value
        else:
            raise ValueError("a field of an unknown kind")


def spans(data: mmap.mmap, span: Span, number: int) -> list[Span]:
    """Where the bytes of the fields of that number are."""
    return [value for found, value in fields(data, span) if found == number and isinstance(value, tuple)]


def _only(data: mmap.mmap, span: Span, number: int) -> Span:
    (found,) = spans(data, span, number)
    return found


def _text(data: mmap.mmap, span: Span) -> bytes:
    if span[1] - span[0] > _NAME:
        raise ValueError("a name too long")
    return data[slice(*span)]


def _varint(data: mmap.mmap, span: Span) -> tuple[int, int]:
    """An integer of seven bits in each byte, the lowest first, and the place behind it."""
    value = 0
    for shift, place in enumerate(range(span[0], min(span[1], span[0] + 10))):
        value |= (data[place] & 0x7F) << 7 * shift
        if data[place] < 0x80:
            return value, place + 1
    raise ValueError("a number without end")


register("tf-records", load)
