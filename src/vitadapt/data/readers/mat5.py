"""MATLAB files of version 5 as numbers, texts and lists. Every length in the file is checked before it is believed.

scipy's reader trusts what the file says of itself and takes the whole process down with a damaged one.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

_HEADER = 128  # bytes: a text, the version, and which end of a number comes first
_MATRIX, _COMPRESSED = 14, 15  # types of elements that hold others
_KINDS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CELL, _STRUCT, _TEXT = 1, 2, 4  # classes of arrays; those of numbers:
_NUMBERS = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_COMPLEX = 0x0800
_DEEP = 16  # cells inside cells
_CODES = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}


def read_variables(data: bytes, most: int) -> dict[str, Any]:
    """Name -> value: numbers as an array, a text as str, a cell as a list, records as a dict of field -> list.

    Raises ValueError when the file is damaged, of another version, holds something else, or unfolds into more than
    `most` bytes.
    """
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None or len(data) < _HEADER:
        raise ValueError("not of version 5")
    found: dict[str, Any] = {}
    file = _Elements(data[_HEADER:], order)
    while file.left():
        kind, body = file.next()
        if kind == _COMPRESSED:
            unfolding = zlib.decompressobj()
            whole = unfolding.decompress(body, most + 1)
            most -= len(whole)
            if most < 0 or not unfolding.eof:
                raise ValueError("cut off, or unfolds without end")
            kind, body = _Elements(whole, order).next()
        if kind == _MATRIX:
            name, value = _matrix(_Elements(body, order), 0)
            found[name] = value
    return found


@dataclass
class _Elements:
    """Elements one after another: a type, a length, and as many bytes."""

    data: bytes
    order: str
    at: int = 0

    def left(self) -> int:
        return len(self.data) - self.at

    def next(self) -> tuple[int, bytes]:
        kind, size = struct.unpack_from(f"{self.order}II", self._take(8))
        if kind >> 16:  # up to four bytes stand where the length would
            kind, size, start = kind & 0xFFFF, kind >> 16, self.at - 4
            if size > 4:
                raise ValueError("a short element that is long")
            return kind, self.data[start : start + size]
        body = self._take(size)
        if kind != _COMPRESSED:
            self.at = min(len(self.data), self.at + -size % 8)
        return kind, body

    def numbers(self) -> np.ndarray:
        """The next element as an array (N,)."""
        kind, body = self.next()
        if kind not in _KINDS:
            raise ValueError(f"an element of type {kind} where numbers were expected")
        return np.frombuffer(body, self.order + _KINDS[kind])

    def _take(self, size: int) -> bytes:
        if size > self.left():
            raise ValueError("cut off")
        self.at += size
        return self.data[self.at - size : self.at]


def _matrix(inside: _Elements, depth: int) -> tuple[str, Any]:
    """(name, value) of an array, whatever its class."""
    if not inside.left():
        return "", np.empty(0)
    if depth > _DEEP:
        raise ValueError("nested too deeply")
    flags, shape = int(inside.numbers()[0]), tuple(map(int, inside.numbers()))
    name = inside.next()[1].decode("latin-1")
    kind, count = flags & 0xFF, math.prod(shape)
    if min(shape, default=-1) < 0:
        raise ValueError("a negative side")
    if kind in (_CELL, _STRUCT) and count * 8 > inside.left() + 8:
        raise ValueError("more entries than bytes")
    if kind == _CELL:
        return name, [_entry(inside, depth) for _ in range(count)]
    if kind == _STRUCT:
        return name, _records(inside, count, depth)
    if kind == _TEXT:
        return name, _text(*inside.next(), order=inside.order)
    if kind not in _NUMBERS or flags & _COMPLEX:
        raise ValueError(f"an array of class {kind}")
    values = inside.numbers()
    if len(values) != count:
        raise ValueError(f"{len(values)} numbers where {count} were expected")
    return name, values.astype(_NUMBERS[kind]).reshape(shape, order="F")


def _entry(inside: _Elements, depth: int) -> Any:
    kind, body = inside.next()
    if kind != _MATRIX:
        raise ValueError("an entry that is no array")
    return _matrix(_Elements(body, inside.order), depth + 1)[1]


def _records(inside: _Elements, count: int, depth: int) -> dict[str, list[Any]]:
    (width,), names = inside.numbers()[:1], inside.next()[1]
    if width < 1:
        raise ValueError("names of no length")
    fields = [names[i : i + int(width)].partition(b"\0")[0].decode("latin-1") for i in range(0, len(names), int(width))]
    table: dict[str, list[Any]] = {field: [] for field in fields}
    if len(table) < len(fields) or len(fields) * count * 8 > inside.left():
        raise ValueError("more entries than bytes, or one field twice")
    for _ in range(count):
        for field in fields:
            table[field].append(_entry(inside, depth))
    return table


def _text(kind: int, body: bytes, order: str) -> str:
    code = _CODES.get(kind, "")
    suffix = ("-le" if order == "<" else "-be") if code in ("utf-16", "utf-32") else ""
    if not code:
        raise ValueError(f"a text of type {kind}")
    return body.decode(code + suffix)
