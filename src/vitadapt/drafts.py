"""A file that is being written beside the one that it will become. What a killed process left is taken over.

A draft is always called .NAME.tmp, and whoever writes it holds its lock, which the operating system lets go of when the
holder dies. So there is at most one abandoned draft of a file, and the next to write that file uses it up.
"""

from __future__ import annotations

import os
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
    _sync_folder(path.parent)


def _claimed(path: Path) -> BinaryIO:
    """The draft of `path`, empty and locked; one of our own while another process, perhaps a sleeping one, has it."""
    name = path.with_name(f".{path.name}.tmp")
    while fcntl is not None:
        file = open(name, "ab")  # noqa: SIM115 - left to the caller
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # in use, or a file system without locks
            file.close()
            break
        if _is_at(name, file):
            file.truncate(0)
            return file
        file.close()  # its writer had it renamed before we got the lock
    return open(path.with_name(f".{path.name}.{os.getpid()}.tmp"), "wb")


def _is_at(name: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(os.stat(name), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _sync_folder(folder: Path) -> None:
    """The new name survives a power cut, too, where folders can be synced."""
    if not hasattr(os, "O_DIRECTORY"):  # pragma: no cover - Windows
        return
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
