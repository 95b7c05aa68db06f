"""What a fetched file was when it arrived: its SHA-256 in NAME.sum beside it, so that later damage is noticed.

A file is hashed again only when its size or times are no longer those of the last look at it.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from ..utils.errors import DataError, StorageError, damaged
from ..utils.files import read_cached, sha256_of, write_cached


def remember(path: Path, arrived: Path) -> str:
    """Keep the SHA-256 of `arrived`, which is about to be called `path`. Raises OSError and StorageError."""
    digest = sha256_of(arrived)
    _write(path, digest, None)
    return digest


def is_whole(path: Path, look_again: bool = False) -> bool:
    """Is the file what it was when it arrived? True for one that nothing is known of. Raises OSError."""
    body = read_cached(_beside(path), named=False)
    if body is None:
        return True
    known, status = json.loads(body), os.stat(path)
    stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    if known["stamp"] == stamp and not look_again:
        return True
    if sha256_of(path) != known["sha256"]:
        return False
    if known["stamp"] != stamp:
        with suppress(StorageError):  # in a folder that one may only read it is hashed every time
            _write(path, known["sha256"], stamp)
    return True


def require_whole(path: Path, remedy: str) -> None:
    """Raises DataError when the file is not what it was when it arrived."""
    with damaged(path, remedy):
        whole = is_whole(path)
    if not whole:
        raise DataError(f"{path} is not what was fetched (SHA-256 differs); {remedy}")


def _write(path: Path, digest: str, stamp: list[int] | None) -> None:
    write_cached(_beside(path), json.dumps({"sha256": digest, "stamp": stamp}).encode(), named=False)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.sum")
