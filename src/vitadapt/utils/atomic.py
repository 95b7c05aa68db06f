"""Files and folders that are being written beside those that they become. What a killed process left is taken over.

A draft is called .NAME.tmp, or .NAME.2.tmp while another process is writing that one, and so on, and whoever writes it
holds its lock, which the operating system lets go of when the holder dies. So an abandoned draft is known, and the
next to write that file uses it up or takes it away. Where nothing can be locked, drafts have names that nobody else
takes, and those of killed processes stay.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows has no such locks: every process has drafts of its own
    fcntl = None  # type: ignore[assignment]

PLACES = ("", ".2", ".3", ".4")
WITHOUT_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOLCK)  # what such file systems answer


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing, for good: what is synced inside is found after a power cut.

    Raises OSError.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        _sync(folder.parent)


@contextmanager
def draft(path: Path) -> Iterator[BinaryIO]:
    """A new file that becomes `path`, on disk for good, when the block ends, and is gone when an error leaves it.

    Raises OSError.
    """
    name, file = _claimed(path)
    with file:
        try:
            file.truncate(0)  # of what a killed process left
            yield file
            file.flush()
            os.fsync(file.fileno())
            if fcntl is None:  # pragma: no cover - Windows renames closed files only
                file.close()
            os.replace(name, path)
        except BaseException:
            with suppress(OSError):  # what could not be written cannot be flushed either
                if fcntl is None:  # pragma: no cover - Windows removes closed files only
                    file.close()
                os.unlink(name)  # while its lock is ours: nobody else can have begun to write there
                file.close()
            raise
    _sync(path.parent)


@contextmanager
def draft_folder(path: Path) -> Iterator[Path]:
    """An empty folder that becomes `path` (absent, or an empty folder) when the block ends; else as `draft`.

    It does not become `path` when a file in it went meanwhile, or would not go to the disk.
    """
    folder, lock = _claimed_folder(path)
    try:
        for leftover in folder.iterdir():
            _remove(leftover)
        yield folder
        for inner in folder.rglob("*"):
            _sync(inner) if inner.is_dir() else _flush(inner)
        os.replace(folder, path)
    except BaseException:  # only then: once it is renamed, the next to write `path` may have begun under this name
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        if lock is not None:
            os.close(lock)
    _sync(path.parent)


def _claimed(path: Path) -> tuple[Path, BinaryIO]:
    """The name of a draft of `path`, and the draft, locked where that can be had."""
    for name in _places(path):
        lock = _locked(name, os.O_RDWR | os.O_CREAT)
        if lock is not None:
            _take_away_abandoned(path, name)
            return name, os.fdopen(lock, "wb")
    name = _own(path)
    return name, open(name, "xb")


def _claimed_folder(path: Path) -> tuple[Path, int | None]:
    """As `_claimed`, with what holds the lock."""
    for name in _places(path):
        name.mkdir(exist_ok=True)
        lock = _locked(name, os.O_RDONLY)
        if lock is not None:
            _take_away_abandoned(path, name)
            return name, lock
    name = _own(path)
    name.mkdir()
    return name, None


def _places(path: Path) -> list[Path]:
    """Where a draft of `path` may lie that the next to write it finds; none where nothing can be locked."""
    return [] if fcntl is None else [path.with_name(f".{path.name}{place}.tmp") for place in PLACES]


def _own(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def _locked(name: Path, flags: int) -> int | None:
    """What holds the lock of the draft `name`; None when another process has it, or nothing can be locked there.

    Raises OSError.
    """
    try:
        lock = os.open(name, flags | os.O_CLOEXEC, 0o666)
    except (PermissionError, FileNotFoundError):  # somebody else's, or just renamed
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(name, lock):  # else its writer had it renamed before we got the lock
            return lock
    except BlockingIOError:  # it is being written
        pass
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:  # a disk that fails: the other names would be no better
            os.close(lock)
            raise
        _remove(name)
    os.close(lock)
    return None


def _take_away_abandoned(path: Path, ours: Path) -> None:
    """Remove the drafts of `path` that nobody is writing."""
    for name in _places(path):
        with suppress(OSError):  # gone, or somebody else's
            if name != ours and name.exists() and (lock := _locked(name, os.O_RDONLY)) is not None:
                _remove(name)
                os.close(lock)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


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
