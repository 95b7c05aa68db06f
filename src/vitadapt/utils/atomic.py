"""Files and folders that are either whole or absent: written beside their place under another name, then renamed.

The other name, .NAME.RANDOM.tmp, cannot be guessed and must be new, so that nothing of anybody else is opened, followed
or emptied. (The files of `tempfile` would be readable by their owner alone, also under their final name.) An error
removes it; what a killed process left stays.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_SHOWN = 50  # characters of the final name in the other one: names have at most 255 bytes


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing, for good: what is synced inside is found after a power cut.

    Raises OSError.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        _sync_names(folder.parent)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A new file that becomes `path`, on disk for good, when the block ends, and is gone when an error leaves it.

    Raises OSError.
    """
    temporary = _temporary(path)
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    _sync_names(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """An empty folder that becomes `path` (absent, or an empty folder) when the block ends; else as `atomic_file`.

    It does not become `path` when a file in it went meanwhile, or would not go to the disk. Its files become readable
    for whom the folder is, whatever the library that wrote them thinks.
    """
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        mode = temporary.stat().st_mode & 0o666
        for inner in temporary.rglob("*"):
            if inner.is_dir():
                _sync_names(inner)
            else:
                inner.chmod(mode)
                _sync(inner)
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_names(path.parent)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name[:_SHOWN]}.{secrets.token_hex(8)}.tmp")


def _sync_names(folder: Path) -> None:
    """The names in the folder survive a power cut, too, where that can be had."""
    with suppress(OSError):
        _sync(folder)


def _sync(path: Path) -> None:
    """What was written is on disk for good. Raises OSError when it is not, such as for want of room."""
    if os.name == "nt":  # pragma: no cover - Windows syncs neither folders nor files opened for reading
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
