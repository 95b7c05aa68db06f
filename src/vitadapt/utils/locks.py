"""Files that one process at a time may hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from .atomic import make_folder
from .errors import CellBusy, StorageError


@contextmanager
def locked(path: Path, place: Path, use: str, option: str, busy: str = "") -> Iterator[None]:
    """Within the block this process holds the file `path`; the operating system lets go of it when the holder dies.

    Raises StorageError when `place`, where it lies, cannot be used ("as a cache"; "--cache" is the remedy). Whoever
    gives a text for CellBusy, `busy`, does not wait for another holder: it is raised.
    """
    lock = FileLock(path, timeout=0 if busy else -1)
    try:
        make_folder(path.parent)
        lock.acquire()
    except Timeout as error:
        raise CellBusy(busy) from error
    except (OSError, NotImplementedError) as error:  # the latter from a file system without locks
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"{place}: cannot be used {use} ({reason}); choose {option}") from error
    try:
        yield
    finally:
        lock.release()
