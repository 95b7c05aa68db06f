"""JSON of predictions, read piece by piece and within bounds: a file is hundreds of megabytes and comes from others.

Python's own reader would hold every number as an object at once, and others refuse the NaN that has to be reported.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...utils.errors import DataError
from ...utils.limits import PREDICTIONS_FILE as LARGEST

MEMBER = "all_predictions.json"
_CHUNK = 1 << 20
_TOKEN = 1 << 20  # bytes of one string, number or innermost list: a row of ImageNet has 10 kB
_LISTS, _KEYS, _DEPTH = 1_000_000, 64, 6  # per entry: innermost lists, keys of an object, nesting

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_SCALAR = re.compile(rb'[^\s,\[\]{}":]+')
_LEAF = re.compile(rb"\[[^\[\]]*\]")
_SPACE = re.compile(rb"[ \t\r\n]*")

Object = dict[str, Any]


class Stream:
    """A pull parser. Lists of numbers inside another list come as float64 arrays, all else as plain values.

    Every method raises DataError naming the file when it is damaged, not JSON, or larger than any submission.
    """

    def __init__(self, file: IO[bytes], where: str) -> None:
        self.file, self.where = file, where
        self.buffer, self.at, self.passed, self.lists = b"", 0, 0, 0

    def entries(self) -> Iterator[Object]:
        """The objects of the list "data", one at a time; or the only object, when it has no such list."""
        own: Object = {}
        for key in self._keys():
            if key == "data" and self._peek() == b"[":
                yield from self._items()
            else:
                own[key] = self._value(0)
        if own:
            yield own
        if self._peek():
            raise self._error("goes on after its end")

    def head(self) -> Object:
        """The keys before "predictions", of a file with one entry; what comes after is not read."""
        found: Object = {}
        for key in self._keys():
            if key == "predictions":
                break
            found[key] = self._value(0)
        return found

    def _items(self) -> Iterator[Object]:
        self._take(b"[")
        while self._peek() != b"]":
            self.lists = 0
            yield {key: self._value(0) for key in self._keys()}
            if self._peek() != b"]":
                self._take(b",")
        self._take(b"]")

    def _keys(self) -> Iterator[str]:
        """The keys of an object; whoever asks for the next has read the value of the last."""
        self._take(b"{")
        seen: set[str] = set()
        for count in range(_KEYS + 1):
            if self._peek() == b"}":
                self._take(b"}")
                return
            if count:
                self._take(b",")
                self._peek()
            key = str(self._loads(self._match(_STRING)))
            if key in seen:
                raise self._error(f"gives {key[:60]!r} twice in one object")
            seen.add(key)
            self._take(b":")
            yield key
        raise self._error(f"has an object with more than {_KEYS} keys")

    def _value(self, depth: int) -> Any:
        if depth > _DEPTH:
            raise self._error("is nested too deeply")
        start = self._peek()
        if start == b"{":
            return {key: self._value(depth + 1) for key in self._keys()}
        if start == b"[":
            return self._list(depth)
        return self._loads(self._match(_STRING if start == b'"' else _SCALAR))

    def _list(self, depth: int) -> list[Any] | np.ndarray:
        if self._peek(1) not in (b"[", b"{"):
            return self._leaf(depth)
        self._take(b"[")
        values = [self._value(depth + 1)]
        while self._peek() == b",":
            self._take(b",")
            values.append(self._value(depth + 1))
        self._take(b"]")
        return values

    def _leaf(self, depth: int) -> list[Any] | np.ndarray:
        self.lists += 1
        if self.lists > _LISTS:
            raise self._error("has more rows than any test set")
        values = self._loads(self._match(_LEAF))
        if not depth:
            return list(values)
        try:
            row = np.array(values)
        except (ValueError, OverflowError) as error:
            raise self._error("has something else than numbers among its predictions") from error
        if row.dtype.kind not in "fiu":
            raise self._error("has something else than numbers among its predictions")
        return row.astype(np.float64)

    def _loads(self, text: bytes) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._error(f"is not JSON: {text[:30].decode('utf-8', 'replace')!r}") from error

    def _peek(self, ahead: int = 0) -> bytes:
        """The next character (of the text after `ahead` more) that is no blank; nothing at the end of the file."""
        while True:
            space = _SPACE.match(self.buffer, self.at + ahead)
            if space and space.end() < len(self.buffer):
                if not ahead:
                    self.at = space.end()
                return self.buffer[space.end() : space.end() + 1]
            if not ahead and space:
                self.at = space.end()  # what is blank need not be kept
            if len(self.buffer) - self.at > _TOKEN:
                raise self._error("has a megabyte of blanks")
            if not self._fill():
                return b""

    def _take(self, character: bytes) -> None:
        if self._peek() != character:
            found = self.buffer[self.at : self.at + 10].decode("utf-8", "replace") or "the end of the file"
            raise self._error(f"is not JSON: {character.decode()!r} expected, {found!r} found")
        self.at += 1

    def _match(self, pattern: re.Pattern[bytes]) -> bytes:
        while True:
            found = pattern.match(self.buffer, self.at)
            if found and found.end() < len(self.buffer):  # a number at the very end of the buffer may go on
                self.at = found.end()
                return found.group()
            if len(self.buffer) - self.at > _TOKEN or not self._fill():
                raise self._error("is not JSON, or cut off")

    def _fill(self) -> bool:
        try:
            chunk = self.file.read(_CHUNK)
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise self._error("is damaged or cut off") from error
        if self.passed + len(self.buffer) + len(chunk) > LARGEST:
            raise self._error(f"unfolds to more than {LARGEST >> 30} GiB, which no submission needs")
        self.passed += self.at
        self.buffer, self.at = self.buffer[self.at :] + chunk, 0
        return bool(chunk)

    def _error(self, reason: str) -> DataError:
        return DataError(f"{self.where} {reason} (byte {self.passed + self.at}); make or get it again")


@contextmanager
def open_stream(path: Path) -> Iterator[Stream]:
    """A JSON file, or the only member of a zip. Raises DataError when it is missing, damaged or not to be trusted."""
    with ExitStack() as stack:
        try:
            stream = _open(path, stack)
        except OSError as error:
            raise DataError(f"{path} cannot be read ({(error.strerror or str(error)).lower()})") from error
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, UnicodeError) as error:
            raise DataError(f"{path} is a damaged zip, or one of an unusual kind; make it again") from error
        yield stream


def _open(path: Path, stack: ExitStack) -> Stream:
    file = stack.enter_context(open(path, "rb"))  # noqa: SIM115 - the stack closes it
    if file.read(2) != b"PK":
        file.seek(0)
        return Stream(file, str(path))
    archive = stack.enter_context(zipfile.ZipFile(file))
    member = stack.enter_context(archive.open(_member(path, archive)))
    return Stream(member, f"{path}@{MEMBER}")


def _member(path: Path, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    names = [info.filename for info in archive.infolist()]
    if names != [MEMBER]:
        shown = ", ".join(repr(name) for name in names[:3]) or "nothing"
        raise DataError(f"{path} holds {shown}; the leaderboard takes a zip with {MEMBER!r} alone in it")
    (info,) = archive.infolist()
    if info.file_size > LARGEST:
        raise DataError(f"{path} unfolds to {info.file_size >> 30} GiB, which no submission needs")
    return info
