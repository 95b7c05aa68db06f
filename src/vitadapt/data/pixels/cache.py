"""The file behind cached pixels: a plain .npy of uint8 with a checksum behind it, checked on opening.

The checksum is the blake2b of the file's name, the header and the blake2b of every image: a flipped byte, a cut-off
file and a copy under another name are noticed. numpy itself can open the file: it ignores what stands behind the array.
"""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from ...utils.atomic import atomic_file, remove_abandoned
from ...utils.errors import StorageError
from ..images import Pixel8
from ..parallel import each

Shape = tuple[int, ...]

_CHECKSUM = 32  # bytes
_REMEDY = "choose another folder with --cache DIR, or decode on the fly with --no-cache"
_log = logging.getLogger(__name__)
_verified: set[tuple[str, int, int, int]] = set()  # files whose checksum this process has checked


def file_size(shape: Shape) -> int:
    """Bytes on disk of an array of `shape`."""
    return len(_header(shape)) + math.prod(shape) + _CHECKSUM


def open_or_build(path: Path, shape: Shape, images: Iterator[Pixel8]) -> Pixel8:
    """The array of `shape` in `path`, read-only and memory-mapped; built from `images` when absent or damaged.

    Several processes may ask at once: one builds, the others wait. Raises StorageError when there is no room or no
    permission (nothing half-written is kept), and whatever `images` raises.
    """
    try:
        if (array := _open(path, shape)) is not None:
            return array
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if (array := _open(path, shape)) is not None:  # another process built it meanwhile
                return array
            return _build(path, shape, images)
    except (OSError, NotImplementedError) as error:  # the latter from a file system without locks
        raise _refusal(path, shape, error) from error


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
            size = (math.prod(self.shape) * self.kind.itemsize,)
            raise _refusal(self.place, size, error) from error


def _build(path: Path, shape: Shape, images: Iterator[Pixel8]) -> Pixel8:
    if path.exists():
        _log.warning("%s is damaged, or of an older version, and is built again", path)
    if shutil.disk_usage(path.parent).free < file_size(shape):
        raise OSError(errno.ENOSPC, "not enough free space")
    remove_abandoned(path)
    leaves = []
    with atomic_file(path) as file:
        file.write(_header(shape))
        for image in images:
            file.write(image.tobytes())
            leaves.append(_leaf(image))
        file.write(_checksum(path.name, shape, leaves))
    _verified.add(_identity(path))
    return _map(path, shape)


def _refusal(path: Path, shape: Shape, error: OSError | NotImplementedError) -> StorageError:
    size = f"{file_size(shape) / 2**20:.1f} MiB"
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageError(f"no room for {size} of decoded images in {path.parent}; free some, {_REMEDY}")
    reason = (getattr(error, "strerror", None) or str(error)).lower()
    return StorageError(f"cannot keep {size} of decoded images in {path.parent} ({reason}); {_REMEDY}")


def _open(path: Path, shape: Shape) -> Pixel8 | None:
    """The array in `path`, or None when it is absent or damaged."""
    try:
        identity = _identity(path)
    except FileNotFoundError:
        return None
    if identity not in _verified:
        if not _is_whole(path, shape):
            return None
        _verified.add(identity)
    return _map(path, shape)


def _identity(path: Path) -> tuple[str, int, int, int]:
    status = path.stat()
    return str(path.absolute()), status.st_ino, status.st_size, status.st_mtime_ns


def _is_whole(path: Path, shape: Shape) -> bool:
    if path.stat().st_size != file_size(shape):
        return False
    with path.open("rb") as file:
        header = file.read(len(_header(shape)))
        file.seek(-_CHECKSUM, os.SEEK_END)
        checksum = file.read()
    array = _map(path, shape)
    leaves = each(lambda row: _leaf(array[row]), range(shape[0]), "checking")
    return header == _header(shape) and checksum == _checksum(path.name, shape, leaves)


def _map(path: Path, shape: Shape) -> Pixel8:
    return np.memmap(path, dtype=np.uint8, mode="r", offset=len(_header(shape)), shape=shape)


def _header(shape: Shape) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _leaf(image: Pixel8) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=_CHECKSUM).digest()


def _checksum(name: str, shape: Shape, leaves: Iterable[bytes]) -> bytes:
    """Of the file: its name, too, so that a copy under another name is not taken for that file."""
    state = hashlib.blake2b(name.encode() + _header(shape), digest_size=_CHECKSUM)
    for leaf in leaves:
        state.update(leaf)
    return state.digest()
