"""An array on disk that is made piece by piece: what was made before a kill is used, and memory holds one piece.

The file has its final size from the start: 16 bytes of BLAKE2b for every piece, zeros up to a multiple of 64 bytes, and
the array. The name of the file and the place of the piece go into its digest. A piece whose digest does not match was
not written yet, or is damaged; it is made again.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

Make = Callable[[Sequence[int]], Iterable[tuple[int, np.ndarray]]]

_DIGEST, _ALIGNED = 16, 64  # bytes
_log = logging.getLogger(__name__)
_verified: set[tuple[str, int, int, int]] = set()  # files whose pieces this process has all checked


class ArrayFile:
    """The array of `shape` (N, ..) and `kind` in `path`, in pieces of `rows` rows (the last one has fewer).

    Its methods raise OSError.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], kind: npt.DTypeLike, rows: int) -> None:
        self.path, self.shape, self.kind, self.rows = path, shape, np.dtype(kind), rows
        self.starts = range(0, shape[0], rows)
        self.begin = math.ceil(len(self.starts) * _DIGEST / _ALIGNED) * _ALIGNED
        self.size = self.begin + math.prod(shape) * self.kind.itemsize  # bytes on disk

    def missing(self) -> list[int]:
        """The rows where the pieces start that are not there, or damaged."""
        try:
            if self.path.stat().st_size != self.size:
                return list(self.starts)
        except FileNotFoundError:
            return list(self.starts)
        if self._identity() in _verified:
            return []
        digests, array = self._digests(), self._map("r")
        with ThreadPoolExecutor() as pool:  # hashlib releases the interpreter lock
            is_whole = pool.map(lambda start: self._is_whole(start, digests, array), self.starts)
            missing = [start for start, whole in zip(self.starts, is_whole, strict=True) if not whole]
        if not missing:
            _verified.add(self._identity())
        return missing

    def open_or_build(self, make: Make) -> np.ndarray:
        """The array, mapped into memory: what is written into it stays in this process.

        make(starts): for missing pieces, the row where it starts, and its values. Each is written as it comes. For who
        holds a lock that every writer takes. Raises what `make` raises, and OSError without room on the disk; what was
        written until then stays.
        """
        if missing := self.missing():
            self._tell(missing)
            if shutil.disk_usage(self.path.parent).free < self.size * len(missing) // len(self.starts):
                raise OSError(errno.ENOSPC, "not enough free space")
            for start, piece in make(missing):
                self._write(start, piece)
            _verified.add(self._identity())
        return self._map("c")

    def opened(self) -> np.ndarray | None:
        """The array where all of it is there; without a lock."""
        return None if self.missing() else self._map("c")

    def _tell(self, missing: list[int]) -> None:
        if not self.path.exists():
            return
        digests = self._digests()
        if self.path.stat().st_size != self.size or any(any(self._kept(start, digests)) for start in missing):
            _log.warning("%s is damaged, or of an older version; what is wrong is made again", self.path)

    def _digests(self) -> bytes:
        with self.path.open("rb") as file:
            return file.read(self.begin)

    def _is_whole(self, start: int, digests: bytes, array: np.ndarray) -> bool:
        return self._kept(start, digests) == self._digest(start, array[start : start + self.rows])

    def _write(self, start: int, piece: np.ndarray) -> None:
        values = np.ascontiguousarray(piece, self.kind)
        if not self.path.exists() or self.path.stat().st_size != self.size:
            self._create()
        with self.path.open("r+b") as file:
            file.seek(self.begin + start * math.prod(self.shape[1:]) * self.kind.itemsize)
            file.write(values.data)
            file.seek(self._slot(start))
            file.write(self._digest(start, values))

    def _create(self) -> None:
        """Of its final size, with no piece in it."""
        try:
            with self.path.open("wb") as file:
                file.truncate(self.size)
        except OSError:
            self.path.unlink(missing_ok=True)
            raise

    def _map(self, mode: str) -> np.ndarray:
        return np.asarray(np.memmap(self.path, self.kind, mode, self.begin, self.shape))  # type: ignore[call-overload]

    def _identity(self) -> tuple[str, int, int, int]:
        status = self.path.stat()
        return str(self.path.absolute()), status.st_ino, status.st_size, status.st_mtime_ns

    def _slot(self, start: int) -> int:
        return start // self.rows * _DIGEST

    def _kept(self, start: int, digests: bytes) -> bytes:
        return digests[self._slot(start) :][:_DIGEST]

    def _digest(self, start: int, values: np.ndarray) -> bytes:
        name = f"{self.path.name} {self.shape} {self.kind.str} {self.rows} {start}\n"
        state = hashlib.blake2b(name.encode(), digest_size=_DIGEST)
        state.update(np.ascontiguousarray(values).data)
        return state.digest()
