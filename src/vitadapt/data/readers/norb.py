"""The matrix files of small NORB, plain or gzipped: magic number, number of axes, sizes and numbers, little-endian.

Images are those of the first of the two cameras, as in VTAB (task_adaptation/data/smallnorb.py). Options: `files`
(split -> the stem that -dat.mat and -info.mat follow), `column` of the information that is the label, and `step`, by
which it is divided (azimuths are 0, 2, .. 34).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...utils.errors import DataError
from ..examples import ArrayRef, Examples
from .helpers import Stored, bytes_of, plain_or_gzipped, register, unzipped
from .reader import Options

_BYTES, _INTEGERS = 0x1E3D4C55, 0x1E3D4C54
_TYPES: dict[int, np.dtype[Any]] = {_BYTES: np.dtype("u1"), _INTEGERS: np.dtype("<i4")}
_WORDS = 3  # sizes that a header has at least, whatever the number of axes


def load(folder: Path, options: Options) -> Stored:
    """Raises DataError for a file that is missing or damaged, and for images and labels that do not match."""
    return Stored({split: _split(folder, split, stem, options) for split, stem in options["files"].items()})


def _split(folder: Path, split: str, stem: str, options: Options) -> Examples:
    images, facts = (plain_or_gzipped(folder / f"{stem}-{part}.mat") for part in ("dat", "info"))
    pixels, table = read_matrix(images, _BYTES, 4), read_matrix(facts, _INTEGERS, 2)
    if len(pixels) != len(table) or table.shape[1] <= options["column"]:
        raise DataError(f"{facts} does not describe the {len(pixels)} images of {images.name}; get the files again")
    first = np.ascontiguousarray(pixels[:, 0])  # (N, 2, H, W) -> (N, H, W)
    refs = tuple(ArrayRef(image, f"{split}[{i}]") for i, image in enumerate(first))
    return Examples(refs, table[:, options["column"]].astype(np.int64) // options["step"])


def read_matrix(path: Path, magic: int, axes: int) -> npt.NDArray[Any]:
    """A file of that kind of numbers with `axes` axes. Raises DataError when it is not exactly that."""
    data = unzipped(path) if path.suffix == ".gz" else bytes_of(path)
    kind, start = _TYPES[magic], 4 * (2 + max(_WORDS, axes))
    if len(data) < start or np.frombuffer(data, "<u4", 2).tolist() != [magic, axes]:
        raise DataError(f"{path} is not a NORB matrix of {kind.name} with {axes} axes; get the file again")
    shape = tuple(int(side) for side in np.frombuffer(data, "<u4", axes, 8))
    expected = start + int(np.prod(shape, dtype=object)) * kind.itemsize
    if len(data) != expected:
        raise DataError(f"{path} holds {len(data)} bytes instead of {expected}; get the file again")
    return np.frombuffer(data, kind, offset=start).reshape(shape)


register("norb-matrices", load)
