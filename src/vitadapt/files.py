"""Files that are either whole or absent: atomic writes, and one clear error when the disk is full."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import time
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from .errors import StorageError

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

_FULL = {errno.ENOSPC, errno.EDQUOT}
_SETTLED = 2.0  # seconds after which a file's times are trusted; a younger one may change within the clock's tick


def parse_toml(text: str) -> dict[str, Any]:
    """Raises ValueError telling the line when `text` is not TOML."""
    found: dict[str, Any] = tomllib.loads(text)
    return found


@cache
def shipped_table(package: str, name: str) -> dict[str, Any]:
    """A TOML file that ships with `package`, such as protocols.toml; read once, and not to be changed."""
    return parse_toml(resources.files(package).joinpath(name).read_text(encoding="utf-8"))


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` so that `path` holds either all of it or what it held before, even if the machine stops half-way.

    Raises StorageError naming the path when the disk is full or the folder cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise storage_error(path, error) from error


def storage_error(path: Path, error: OSError) -> StorageError:
    """One line for a failed write: which path, why, and what to do about it."""
    if error.errno in _FULL:
        return StorageError(f"{path}: the disk is full; free some space or choose another place, then run again")
    return StorageError(f"{path}: cannot be written ({error.strerror or error}); check the folder's permissions")


def write_sealed(path: Path, data: bytes) -> None:
    """Write `data` behind a digest of it, all or nothing. Raises StorageError."""
    write_atomic(path, bytes_digest(data).encode() + data)


def read_sealed(path: Path) -> bytes | None:
    """What `write_sealed` wrote; None when there is nothing, or it is damaged and must be made again."""
    if not path.exists():
        return None
    whole = path.read_bytes()
    seal, data = whole[:32], whole[32:]
    return data if bytes_digest(data).encode() == seal else None


def settled(status: os.stat_result) -> bool:
    """Would another change of this file be seen in its times?"""
    return abs(time.time() - status.st_mtime) >= _SETTLED


def bytes_digest(data: bytes) -> str:
    """32 hex digits of BLAKE2b."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
