"""Files and folders that are being written beside those that they become. What a killed process left is taken over.

A draft is always called .NAME.tmp, and whoever writes it holds its lock, which the operating system lets go of when the
holder dies. So there is at most one abandoned draft of a file, and the next to write that file uses it up.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows has no such locks: every process has drafts of its own
    fcntl = None  # type: ignore[assignment]


@contextmanager
def draft(path: Path) -> Iterator[BinaryIO]:
    """A new file that becomes `path`, on disk for good, when the block ends, and is gone when an error leaves it.

    Raises OSError.
    """
    with _claimed(path) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if fcntl is None:  # pragma: no cover - Windows renames closed files only
                file.close()
            os.replace(file.name, path)
        except BaseException:
            with suppress(OSError):  # what could not be written cannot be flushed either
                file.close()
            with suppress(OSError):
                os.unlink(file.name)
            raise
    _sync(path.parent)


@contextmanager
def draft_folder(path: Path) -> Iterator[Path]:
    """An empty folder that becomes `path` (absent, or an empty folder) when the block ends; else as `draft`.

    It does not become `path` when a file in it went meanwhile, or would not go to the disk.
    """
    folder, lock = _claimed_folder(path)
    try:
        yield folder
        for inner in folder.rglob("*"):
            _sync(inner) if inner.is_dir() else _flush(inner)
        os.replace(folder, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)
    _sync(path.parent)


def _claimed_folder(path: Path) -> tuple[Path, int | None]:
    """As `_claimed`, with what holds the lock."""
    name = path.with_name(f".{path.name}.tmp")
    while fcntl is not None:
        name.mkdir(exist_ok=True)
        lock = os.open(name, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            break
        if _is_at(name, lock):
            for leftover in name.iterdir():
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            return name, lock
        os.close(lock)
    own = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    own.mkdir()
    return own, None


def _claimed(path: Path) -> BinaryIO:
    """The draft of `path`, empty and locked; one of our own while another process, perhaps a sleeping one, has it."""
    name = path.with_name(f".{path.name}.tmp")
    while fcntl is not None:
        try:
            file = open(name, "ab")  # noqa: SIM115 - left to the caller
        except PermissionError:  # somebody else's
            break
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # in use, or a file system without locks
            file.close()
            break
        if _is_at(name, file.fileno()):
            file.truncate(0)
            return file
        file.close()  # its writer had it renamed before we got the lock
    return open(path.with_name(f".{path.name}.{os.getpid()}.tmp"), "wb")


def _is_at(name: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(name), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sync(folder: Path) -> None:
    """The names in the folder survive a power cut, too, where that can be had."""
    with suppress(OSError):
        _flush(folder)


def _flush(path: Path) -> None:
    """What was written is on disk for good. Raises OSError when it is not, such as for want of room."""
    if fcntl is None:  # pragma: no cover - Windows syncs neither folders nor files opened for reading
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
