"""Files that one process at a time may hold."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


class ScratchFolder:
    """A folder `path` of its own below the system's temporary one, until `close` or the end of the process.

    What processes left that were killed is removed by the next to make one for the same `purpose`: whoever lives holds
    the lock of its folder. Raises StorageError where there is no room for one.
    """

    def __init__(self, purpose: str) -> None:
        prefix = f"vitadapt-{purpose}-"
        try:
            for other in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
                _remove_if_abandoned(other)
            folder, lock = _held_folder(prefix)
            self.path = folder / "files"
            self.path.mkdir()
        except OSError as error:
            why = error.strerror or error
            raise StorageError(f"no temporary folder can be made ({why}); name one with room in TMPDIR") from error
        self.close = weakref.finalize(self, _leave, folder, lock)


def _lock(folder: Path) -> FileLock:
    return FileLock(folder / ".lock", timeout=0, thread_local=False)


def _held_folder(prefix: str) -> tuple[Path, FileLock]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        lock = _lock(folder)
        try:
            lock.acquire()
        except (Timeout, FileNotFoundError):  # taken for abandoned while it had no lock yet
            continue
        except NotImplementedError:  # nothing can be locked there, and so nobody takes it for abandoned
            return folder, lock
        if (folder / ".lock").exists():
            return folder, lock
        lock.release()


def _remove_if_abandoned(folder: Path) -> None:
    lock = _lock(folder)
    with suppress(Timeout, OSError, NotImplementedError):  # somebody's, or gone
        lock.acquire()
        shutil.rmtree(folder)
    lock.release()


def _leave(folder: Path, lock: FileLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.release()
