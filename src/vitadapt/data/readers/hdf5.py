"""Arrays in HDF5 files, one file of images and one of labels per split; each plain or gzipped.

Options: `files` (split -> the stem that `_x.h5` and `_y.h5` follow).
"""

from __future__ import annotations

import io
import math
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...utils.errors import DataError, damaged
from ...utils.limits import ARCHIVE_MEMBERS, ARRAY_FILE, IMAGE_FILE
from ...utils.optional import package
from ..examples import ArrayRef, Examples, FileRef, hexdigest
from ..images import UnreadableImage
from .helpers import Stored, plain_or_gzipped, register, unzipped
from .reader import Options


@dataclass(eq=False)
class H5Images:
    """The images `x` (N, H, W, C) of one HDF5 file, read one by one through one handle per process, in turns."""

    path: Path
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _open: tuple[int, Any] | None = field(default=None, repr=False)

    def __getstate__(self) -> Path:
        return self.path

    def __setstate__(self, path: Path) -> None:
        self.path, self._lock, self._open = path, threading.Lock(), None

    def row(self, row: int) -> npt.NDArray[Any]:
        """Image `row`, (H, W, C). Raises DataError when it cannot be read."""
        with self._lock:
            if self._open is None or self._open[0] != os.getpid():  # a handle does not survive a fork
                self._open = os.getpid(), open_variable(self.path, "x", 4)
            try:
                return np.asarray(self._open[1][row])
            except Exception as error:  # whatever h5py raises for a damaged file
                raise UnreadableImage(f"{self.path}[{row}]", "damaged") from error


@dataclass(frozen=True, eq=False)
class H5Ref:
    """One image of an HDF5 file."""

    images: H5Images
    row: int

    @property
    def name(self) -> str:
        return f"{self.images.path}[{self.row}]"

    def read(self) -> Image.Image:
        return self._array().read()

    def digest(self) -> str:
        return self._array().digest()

    def stamp(self) -> str | None:
        """That of the file, and the row."""
        stamp = FileRef(self.images.path).stamp()
        return None if stamp is None else hexdigest(stamp, f"\0{self.row}")

    def _array(self) -> ArrayRef:
        return ArrayRef(self.images.row(self.row), self.name)


def load(folder: Path, options: Options) -> Stored:
    """Raises DataError for a file that is missing or damaged, and for images and labels that do not match."""
    return Stored({split: load_split(folder, stem) for split, stem in options["files"].items()})


def load_split(folder: Path, stem: str) -> Examples:
    """The images of `stem`_x.h5 with the labels of `stem`_y.h5; nothing is decoded yet. Raises DataError."""
    images, labels = (plain_or_gzipped(folder / f"{stem}_{part}.h5") for part in "xy")
    count = len(open_variable(images, "x", 4))
    with damaged(labels, "get it again", DataError, "is damaged"):
        values = np.asarray(open_variable(labels, "y", 4)).reshape(-1)  # (N, 1, 1, 1) -> (N,)
    if count != len(values):
        raise DataError(f"{images} has {count} images but {labels.name} {len(values)} labels; get the files again")
    store = H5Images(images)
    return Examples(tuple(H5Ref(store, row) for row in range(count)), values.astype(np.int64))


def open_variable(path: Path, key: str, axes: int) -> Any:
    """The array `key` of an HDF5 file, not read yet. Raises DataError for a file that is damaged or lacks it."""
    h5py = package("h5py", "data")
    source = io.BytesIO(unzipped(path, ARRAY_FILE)) if path.suffix == ".gz" else path
    with damaged(path, "get it again", DataError, "is not a readable HDF5 file"):
        file = h5py.File(source, "r")
        variable = file.get(key) if type(file.get(key, getlink=True)) is h5py.HardLink else None
        if not isinstance(variable, h5py.Dataset) or variable.ndim != axes or variable.dtype.kind not in "iu":
            raise DataError(f"{path} has no array {key} of whole numbers with {axes} axes; get it again")
        if variable.external or variable.is_virtual:
            raise DataError(f"{path} keeps {key} in other files, which are not read; get it again")
        if _too_large(variable):
            raise DataError(f"{path} declares {key} of shape {variable.shape}, larger than images are; get it again")
        return variable


def _too_large(variable: Any) -> bool:
    """Would one image, or what has to be decompressed for it, or the number of images, fill the memory?"""
    count, *image = variable.shape
    pieces = (image, variable.chunks or ())
    return count > ARCHIVE_MEMBERS or any(math.prod(p) * variable.dtype.itemsize > IMAGE_FILE for p in pieces)


register("h5-arrays", load)
