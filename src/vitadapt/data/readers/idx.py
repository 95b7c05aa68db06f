"""The idx files of MNIST and its relatives: big-endian magic number, sizes, then bytes; plain or gzipped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...utils.errors import DataError
from ..examples import ArrayRef, Examples
from .helpers import bytes_of, plain_or_gzipped, unzipped
from .reader import READERS, CatalogRow, Options, Reader

_PREFIX = {"train": "train", "test": "t10k"}


def places(options: Options, root: Path | None) -> list[str]:
    """The `folders` below the data root, then those that system packages use."""
    below = [str(root / folder) for folder in options.get("folders", ())] if root else []
    return [*below, *options.get("system", ())]


def has(options: Options, place: str) -> bool:
    """Are all four files there?"""
    files = [path for prefix in _PREFIX.values() for path in _files(Path(place), prefix)]
    return all(path.is_file() or path.with_name(f"{path.name}.gz").is_file() for path in files)


def read(row: CatalogRow, options: Options, place: str) -> Mapping[str, Examples]:
    """Train and test. Raises DataError naming the file that is damaged."""
    return {split: _read_split(Path(place), split, prefix) for split, prefix in _PREFIX.items()}


READERS.register("idx")(Reader(places, has, read))


def _files(folder: Path, prefix: str) -> tuple[Path, Path]:
    return folder / f"{prefix}-images-idx3-ubyte", folder / f"{prefix}-labels-idx1-ubyte"


def _read_split(folder: Path, split: str, prefix: str) -> Examples:
    images, labels = (
        read_idx(plain_or_gzipped(path), axes) for path, axes in zip(_files(folder, prefix), (3, 1), strict=True)
    )
    if len(images) != len(labels):
        raise DataError(f"{folder}: {len(images)} {split} images but {len(labels)} labels; get the files again")
    refs = tuple(ArrayRef(image, f"{split}[{i}]") for i, image in enumerate(images))
    return Examples(refs, labels.astype(np.int64))


def read_idx(path: Path, axes: int) -> npt.NDArray[np.uint8]:
    """An idx file of bytes with `axes` axes. Raises DataError when it is not exactly that."""
    data = unzipped(path) if path.suffix == ".gz" else bytes_of(path)
    start = 4 + 4 * axes
    if data[:4] != bytes([0, 0, 8, axes]) or len(data) < start:  # 8: unsigned bytes
        raise DataError(f"{path} is not an idx file of bytes with {axes} axes; get the file again")
    shape = tuple(int(side) for side in np.frombuffer(data, ">u4", count=axes, offset=4))
    expected = start + int(np.prod(shape, dtype=object))
    if len(data) != expected:
        raise DataError(f"{path} holds {len(data)} bytes instead of {expected}; get the file again")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
