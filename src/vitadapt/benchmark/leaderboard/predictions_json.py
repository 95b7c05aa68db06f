"""JSON of predictions within bounds: a file has hundreds of megabytes and comes from others.

The standard `json` alone would hold every number as an object of 32 bytes, and `ijson` calls Python for each of them
and refuses the NaN that has to be reported. Here every innermost list inside another list (the probabilities of an
image) becomes a float32 array as soon as it is read. The little that is left goes through the standard reader.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...utils.errors import DataError, damaged
from ...utils.files import parse_json
from ...utils.limits import GIB, MIB, PREDICTIONS_FILE

MEMBER = "all_predictions.json"
_CHUNK = 1 * MIB
_TOKEN = 1 * MIB  # bytes of one string or innermost list: a row of ImageNet has 10 kB
_REST = 16 * MIB  # of all but the rows
_ROWS, _NUMBERS = 2_000_000, 400_000_000  # a full submission, with ImageNet, has 0.6 million and 200 million

_PART = re.compile(
    rb'"(?:[^"\\]|\\.)*"'  # a string
    rb'|\[[^\[\]{}":]*\]'  # an innermost list
    rb'|\[(?=[^\[\]{}":]*[\[{}":])'  # the beginning of another list
    rb'|[^"\[]+',
    re.DOTALL,
)

Object = dict[str, Any]


def read_objects(path: Path) -> Iterator[Object]:
    """The objects of the list "data" in a JSON file or zip; the only object, when it has no such list.

    Lists of numbers inside another list come as float32 arrays. Raises DataError naming the file when it is damaged,
    not JSON, or larger than any submission.
    """
    with _opened(path) as file:
        rows: deque[np.ndarray] = deque()
        plain = parse_json(_without_rows(file, path, rows))
    if not isinstance(plain, dict):
        raise DataError(f"{path} holds no JSON object; make or get it again")
    found = plain.pop("data") if isinstance(plain.get("data"), list) else []
    objects = [*found, plain] if plain else found
    for one in objects:
        if not isinstance(one, dict):
            raise DataError(f"{path} has an entry that is no JSON object; make or get it again")
        yield _with_rows(one, rows, path)


def read_head(path: Path) -> Object:
    """The keys before "predictions" of a file with one object; what comes after is not read. Raises DataError."""
    with _opened(path) as file:
        head = file.read(_TOKEN)
        if found := re.search(rb',?\s*"predictions"\s*:', head):
            head = head[: found.start()] + b"}"
        plain = parse_json(head)
    if not isinstance(plain, dict):
        raise DataError(f"{path} holds no JSON object; make or get it again")
    return plain


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """A JSON file, or the only member of a zip. Raises DataError when it is missing, damaged or not to be trusted."""
    with damaged(path, "make or get it again", DataError, "is not JSON, damaged or cut off"), open(path, "rb") as file:
        if file.read(2) != b"PK":
            file.seek(0)
            yield file
            return
        with zipfile.ZipFile(file) as archive, archive.open(_member(path, archive)) as member:
            yield member


def _member(path: Path, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    names = [info.filename for info in archive.infolist()]
    if names != [MEMBER]:
        shown = ", ".join(repr(name) for name in names[:3]) or "nothing"
        raise DataError(f"{path} holds {shown}; the leaderboard takes a zip with {MEMBER!r} alone in it")
    return archive.infolist()[0]


def _without_rows(file: IO[bytes], path: Path, rows: deque[np.ndarray]) -> bytes:
    """The JSON text with {} in place of every innermost list inside another list; these go to `rows`."""
    rest, before, numbers = bytearray(), b"", 0
    for part in _parts(file, path):
        if part[:1] == b"[" and part[-1:] == b"]" and before in (b"[", b","):
            row = np.array(json.loads(part))
            if row.dtype.kind not in "fiu":
                raise DataError(f"{path} has something else than numbers among its predictions")
            with np.errstate(over="ignore"):  # becomes infinite, which is reported
                rows.append(row.astype(np.float32))
            numbers += row.size
            part = b"{}"
        rest += part
        before = part.rstrip()[-1:] or before
        if len(rest) > _REST or len(rows) > _ROWS or numbers > _NUMBERS:
            raise DataError(f"{path} has more rows or text than any submission; make or get it again")
    return bytes(rest)


def _parts(file: IO[bytes], path: Path) -> Iterator[bytes]:
    """The text in pieces: strings, innermost lists, and what is between them."""
    text, at, total = b"", 0, 0
    while chunk := file.read(_CHUNK):
        text, at, total = text[at:] + chunk, 0, total + len(chunk)
        if total > PREDICTIONS_FILE:
            raise DataError(f"{path} unfolds to more than {PREDICTIONS_FILE // GIB} GiB, which no submission needs")
        while at < len(text) and (found := _PART.match(text, at)):
            at = found.end()
            yield found.group()
        if len(text) - at > _TOKEN:
            raise ValueError("a text or a list without an end")
    if at < len(text):
        raise ValueError("it ends in the middle of a text or a list")


def _with_rows(value: Any, rows: deque[np.ndarray], path: Path) -> Any:
    """The inverse of `_without_rows`: objects, lists and rows come in the order of the file."""
    if value == {}:
        if not rows:
            raise DataError(f"{path} has something else than numbers among its predictions")
        return rows.popleft()
    if isinstance(value, dict):
        return {key: _with_rows(inner, rows, path) for key, inner in value.items()}
    return [_with_rows(inner, rows, path) for inner in value] if isinstance(value, list) else value
