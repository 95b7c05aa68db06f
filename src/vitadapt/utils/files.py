"""Files that are either whole or absent: atomic writes, and one clear error when the disk is full."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import stat
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

from .atomic import atomic_file, make_folder
from .errors import StorageError
from .limits import JSON_DEPTH, JSON_FILE, MIB

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

_FULL = {errno.ENOSPC, errno.EDQUOT}
_REMEDIES = {
    errno.EISDIR: "remove the folder that has its name",
    errno.EFBIG: "allow larger files (ulimit -f), or choose another place",
    errno.EROFS: "choose another place",
}
_DOTS = 10_000_000  # the reader of TOML takes time with the square of the dots in a key
_SETTLED = 2.0  # seconds after which a file's times are trusted; a younger one may change within the clock's tick


def parse_toml(text: str) -> dict[str, Any]:
    """Raises ValueError telling the line when `text` is not TOML, or is nested too deeply."""
    if sum(line.count(".") ** 2 for line in text.splitlines()) > _DOTS:
        raise ValueError("nested too deeply")
    try:
        found: dict[str, Any] = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    _check_depth(found)
    return found


def parse_json(text: str | bytes) -> Any:
    """The JSON value in `text`. Raises ValueError when it is not JSON or not UTF-8, or is nested too deeply.

    So it does when an object gives a key twice: one of the two values would be lost without a word.
    """
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    _check_depth(value)
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"gives the key {twice[:60]!r} twice")
    return table


def _check_depth(value: Any) -> None:
    """Level by level: deeper nesting would break the code that walks through it."""
    level = [value]
    for _ in range(JSON_DEPTH + 1):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return
    raise ValueError("nested too deeply")


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def read_bounded(path: Path | str, most: int | None = None) -> bytes:
    """The content of a regular file of at most `most` bytes; None is for files of our own, as large as need be.

    Raises OSError with a plain reason: also for a pipe or a device, which might never end, for a larger file, and for a
    path that no file can have.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            look = os.fstat(file.fileno())
            if not stat.S_ISREG(look.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", str(path))
            if most is None:
                return file.read()
            if look.st_size > most:
                raise OSError(errno.EFBIG, f"larger than {most // MIB} MiB", str(path))
            data = read_at_most(file, most + 1)
    except ValueError as error:  # a zero byte in the path
        raise OSError(errno.EINVAL, "not a possible path", str(path)) from error
    if len(data) > most:  # it grew
        raise OSError(errno.EFBIG, f"larger than {most // MIB} MiB", str(path))
    return data


class Readable(Protocol):
    """An open file, plain or unfolded while it is read."""

    def read(self, size: int, /) -> bytes: ...


def read_at_most(file: Readable, most: int) -> bytes:
    """The next bytes, at most so many. `file.read(most)` would ask for the memory of all of them, however few come."""
    found = io.BytesIO()
    while piece := file.read(min(16 * MIB, most - found.tell())):
        found.write(piece)
    return found.getvalue()


def _without_waiting(path: str, flags: int) -> int:
    """A pipe without a writer must not keep the reader waiting."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def expanded(path: Path | str) -> Path:
    """`path` with a leading ~ replaced by the home folder, where that is known."""
    return Path(os.path.expanduser(path))


def read_text(path: Path | str, most: int = JSON_FILE) -> str:
    """The text, in UTF-8 with or without its mark, of a file of at most `most` bytes. Raises OSError as `read_bounded`,
    and ValueError for another encoding.
    """
    return read_bounded(path, most).decode("utf-8-sig")


@cache
def shipped_table(package: str, name: str) -> dict[str, Any]:
    """A TOML file that ships with `package`, such as protocols.toml; read once, and not to be changed."""
    return parse_toml(resources.files(package).joinpath(name).read_text(encoding="utf-8"))


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` so that `path` holds either all of it or what it held before, even if the machine stops half-way.

    Raises StorageError naming the path when the disk is full or the folder cannot be written; nothing is left behind.
    """
    try:
        make_folder(path.parent)
        with atomic_file(path) as file:
            file.write(data)
    except OSError as error:
        raise storage_error(path, error) from error


def storage_error(path: Path, error: OSError) -> StorageError:
    """One line for a failed write: which path, why, and what to do about it."""
    if error.errno in _FULL:
        return StorageError(f"{path}: the disk is full; free some space or choose another place, then run again")
    remedy = _REMEDIES.get(error.errno or 0, "check the folder's permissions")
    return StorageError(f"{path}: cannot be written ({error.strerror or error}); {remedy}")


def write_cached(path: Path, data: bytes, named: bool = True) -> None:
    """Write `data` behind a digest of it, all or nothing. Raises StorageError.

    named: the name of the file goes into the digest, so that a copy under another name is not taken for that file.
    """
    write_atomic(path, _digest_in(path, data, named) + data)


def read_cached(path: Path, named: bool = True) -> bytes | None:
    """What `write_cached` wrote there; None when there is nothing, or it is damaged and must be made again."""
    try:
        whole = read_bounded(path)
    except OSError:  # gone, or it cannot be read: either way it must be made again
        return None
    data = whole[32:]
    return data if _digest_in(path, data, named) == whole[:32] else None


def _digest_in(path: Path, data: bytes, named: bool) -> bytes:
    return bytes_digest((path.name.encode() if named else b"") + data).encode()


def checked_json(plain: dict[str, Any]) -> str:
    """JSON text of `plain` with a checksum over everything else in it."""
    return json.dumps({**plain, "checksum": checksum(plain)}, indent=1)


def parse_checked_json(text: str | bytes, may_lack: Callable[[dict[str, Any]], bool] | None = None) -> dict[str, Any]:
    """The inverse of `checked_json`. Raises ValueError when the text is damaged.

    may_lack: says of an object without a checksum whether it may lack one (written by hand, or in an old format).
    """
    plain = parse_json(text)
    if not isinstance(plain, dict):
        raise ValueError("no JSON object")
    if "checksum" not in plain and may_lack is not None and may_lack(plain):
        return plain
    if plain.pop("checksum", None) != checksum(plain):
        raise ValueError("its checksum does not match")
    return plain


def settled(status: os.stat_result) -> bool:
    """Would another change of this file be seen in its times?"""
    return abs(time.time() - status.st_mtime) >= _SETTLED


def sha256_of(path: Path) -> str:
    """64 hex digits of SHA-256 of a file, as sha256sum prints them. Raises OSError."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(MIB):
            state.update(piece)
    return state.hexdigest()


def checksum(plain: Any) -> str:
    """BLAKE2b of a JSON value in canonical form."""
    return bytes_digest(json.dumps(plain, sort_keys=True).encode())


def bytes_digest(data: bytes) -> str:
    """32 hex digits of BLAKE2b."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
