"""The file behind cached pixels, as `utils.array_file` has it, and arrays of pixels that are gone with the process."""

from __future__ import annotations

import errno
import io
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from ...utils.array_file import ArrayFile, Make
from ...utils.errors import StorageError
from ..images import Pixel8

Shape = tuple[int, ...]

PIECE = 64  # images
_REMEDY = "choose another folder with --cache DIR, or decode on the fly with --no-cache"


def array_file(path: Path, shape: Shape) -> ArrayFile:
    """The file of the images of `shape` (N, C, S, S)."""
    return ArrayFile(path, shape, np.uint8, PIECE)


def open_or_build(path: Path, shape: Shape, make: Make) -> Pixel8:
    """The array of `shape` in `path`, memory-mapped; what is absent or damaged is built by `make`, piece by piece.

    Several processes may ask at once: one builds, the others wait. Raises StorageError when there is no room or no
    permission, and whatever `make` raises; what was written until then is used the next time.
    """
    file = array_file(path, shape)
    try:
        if (array := file.opened()) is not None:
            return array
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            return file.open_or_build(make)
    except (OSError, NotImplementedError) as error:  # the latter from a file system without locks
        raise _refusal(path, file.size, error) from error


class TemporaryArray:
    """An array of `shape` that is written row by row and is gone with the process: in a nameless file, or in memory.

    Raises StorageError when there is no room or no permission.
    """

    def __init__(self, folder: Path | None, shape: Shape, kind: npt.DTypeLike = np.uint8) -> None:
        self.place, self.shape, self.kind = (folder or Path()) / "images", shape, np.dtype(kind)
        with self._explained():
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            self.file: Any = io.BytesIO() if folder is None else tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by `array`

    def append(self, rows: np.ndarray) -> None:
        """Write the next row, or rows."""
        with self._explained():
            self.file.write(rows.tobytes())

    def array(self) -> np.ndarray:
        """The whole, read-only, once all rows are written."""
        if isinstance(self.file, io.BytesIO):
            return np.frombuffer(self.file.getbuffer(), dtype=self.kind).reshape(self.shape)
        with self._explained(), self.file:
            self.file.flush()
            return np.memmap(self.file, dtype=self.kind, mode="r", shape=self.shape)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            size = math.prod(self.shape) * self.kind.itemsize
            raise _refusal(self.place, size, error) from error


def _refusal(path: Path, size: int, error: OSError | NotImplementedError) -> StorageError:
    amount = f"{size / 2**20:.1f} MiB"
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageError(f"no room for {amount} of decoded images in {path.parent}; free some, {_REMEDY}")
    reason = (getattr(error, "strerror", None) or str(error)).lower()
    return StorageError(f"cannot keep {amount} of decoded images in {path.parent} ({reason}); {_REMEDY}")
