"""An array on disk that is made piece by piece: what was made before a kill is used, and memory holds one piece.

The file has its final size from the start: 16 bytes of BLAKE2b for every piece, zeros up to a multiple of 64 bytes, and
the array. The name of the file and the place of the piece go into its digest. A piece whose digest does not match was
not written yet, or is damaged; it is made again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .errors import StorageError
from .files import storage_error

_DIGEST, _ALIGNED = 16, 64  # bytes
_KIND = np.dtype("<f4")


def open_or_build(
    path: Path, shape: tuple[int, int], rows: int, make: Callable[[Sequence[int]], Iterator[np.ndarray]]
) -> np.ndarray:
    """The float32 array of `shape` (N, E) in `path`, mapped into memory: what is written into it stays in this process.

    make(starts): for each of the missing pieces, which start at these rows and have `rows` rows (the last one fewer),
    its values. Each is written as it comes. For who holds a lock that every writer takes. Raises StorageError.
    """
    file = _ArrayFile(path, shape, rows)
    missing = file.missing()
    if missing:
        file.resize()
        for start, piece in zip(missing, make(missing), strict=True):
            file.write(start, piece)
    return file.mapped()


class _ArrayFile:
    def __init__(self, path: Path, shape: tuple[int, int], rows: int) -> None:
        self.path, self.shape, self.rows = path, shape, rows
        self.starts = range(0, shape[0], rows)
        self.begin = math.ceil(len(self.starts) * _DIGEST / _ALIGNED) * _ALIGNED

    def missing(self) -> list[int]:
        """Where the pieces start that are not there, or damaged."""
        with suppress(OSError), self.path.open("rb") as file:
            digests = file.read(self.begin)
            file.seek(self.begin)
            return [start for start in self.starts if not self._is_whole(start, digests, file)]
        return list(self.starts)

    def _is_whole(self, start: int, digests: bytes, file: BinaryIO) -> bool:
        data = file.read(self._bytes(min(self.rows, self.shape[0] - start)))
        return digests[self._slot(start) :][:_DIGEST] == self._digest(start, data)

    def resize(self) -> None:
        try:
            with self.path.open("r+b" if self.path.exists() else "xb") as file:
                file.truncate(self.begin + self._bytes(self.shape[0]))
        except OSError as error:
            raise storage_error(self.path, error) from error

    def write(self, start: int, piece: np.ndarray) -> None:
        data = piece.astype(_KIND).tobytes()
        try:
            with self.path.open("r+b") as file:
                file.seek(self.begin + self._bytes(start))
                file.write(data)
                file.seek(self._slot(start))
                file.write(self._digest(start, data))
        except OSError as error:
            raise storage_error(self.path, error) from error

    def mapped(self) -> np.ndarray:
        try:
            return np.asarray(np.memmap(self.path, _KIND, "c", self.begin, self.shape))
        except OSError as error:
            reason = error.strerror or error
            raise StorageError(f"{self.path}: cannot be read ({reason}); run the same command again") from error

    def _slot(self, start: int) -> int:
        return start // self.rows * _DIGEST

    def _bytes(self, rows: int) -> int:
        return rows * self.shape[1] * _KIND.itemsize

    def _digest(self, start: int, data: bytes) -> bytes:
        state = hashlib.blake2b(f"{self.path.name} {self.shape} {start}\n".encode(), digest_size=_DIGEST)
        state.update(data)
        return state.digest()
