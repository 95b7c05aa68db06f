"""Folders for files that a process needs while it runs, and nobody afterwards."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import StorageError


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
