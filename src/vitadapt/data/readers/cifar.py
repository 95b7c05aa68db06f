"""CIFAR-10 and CIFAR-100: batches of 32 x 32 pixels, as pickles of Python 2 or as plain binary records.

Options: `batches` (split -> files), `labels` (the pickles' key), `meta` (the file of class names) and `names`
(its key); for the binary form `batches`, `meta` (a text file) and `skip` (bytes of a record before its label).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...utils.errors import DataError
from ..examples import ArrayRef, Examples
from .helpers import Stored, bytes_of, lines_of, register
from .reader import Options
from .restricted_pickle import read_pickle

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
Batch = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]  # images (N, 3 * 32 * 32), labels (N,)


def load_pickles(folder: Path, options: Options) -> Stored:
    """Raises DataError naming the batch that is missing, damaged, dangerous or inconsistent."""
    names = read_pickle(folder / options["meta"]).get(options["names"])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{folder / options['meta']} has no {options['names']}; get the data again")
    return _stored(folder, options, tuple(names), lambda path: _pickled(path, options["labels"]))


def load_records(folder: Path, options: Options) -> Stored:
    """Raises DataError naming the file that is missing or is not a whole number of records."""
    names = tuple(name for _, name in lines_of(folder / options["meta"]))
    return _stored(folder, options, names, lambda path: _recorded(path, options["skip"]))


def _pickled(path: Path, key: str) -> Batch:
    table = read_pickle(path)
    pixels, labels = table.get("data"), table.get(key)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (_PIXELS,):
        raise DataError(f"{path} has no data of N x {_PIXELS} bytes; get the data again")
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise DataError(f"{path} has no list of {key}; get the data again")
    if len(labels) != len(pixels):
        raise DataError(f"{path} has {len(pixels)} images but {len(labels)} labels; get the data again")
    return pixels, np.array(labels, dtype=np.int64)


def _recorded(path: Path, skip: int) -> Batch:
    data, size = np.frombuffer(bytes_of(path), np.uint8), skip + 1 + _PIXELS
    if not len(data) or len(data) % size:
        raise DataError(f"{path} holds {len(data)} bytes, not a multiple of {size}; get the data again")
    records = data.reshape(-1, size)  # (N, skip + label + pixels)
    return records[:, skip + 1 :], records[:, skip].astype(np.int64)


def _stored(folder: Path, options: Options, names: tuple[str, ...], read: Callable[[Path], Batch]) -> Stored:
    splits = {}
    for split, files in options["batches"].items():
        pixels, labels = map(np.concatenate, zip(*(read(folder / file) for file in files), strict=True))
        images = pixels.reshape(-1, *_SHAPE).transpose(0, 2, 3, 1)  # (N, 3, 32, 32) -> (N, 32, 32, 3)
        splits[split] = Examples(tuple(ArrayRef(image, f"{split}[{i}]") for i, image in enumerate(images)), labels)
    return Stored(splits, names)


register("cifar-pickles", load_pickles)
register("cifar-records", load_records)
