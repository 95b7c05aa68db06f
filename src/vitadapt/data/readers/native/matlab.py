"""Labels in MATLAB files: Oxford Flowers (labels and split by image number) and Stanford Cars (annotation records)."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ....errors import DataError
from ....limits import IMAGE_FILE
from ...catalog import Options
from ...examples import Examples
from .storage import Stored, bytes_of, file_refs, first_of, register

# What scipy raises on damaged files; MatReadError derives from Exception directly and is added where it is known.
_DAMAGE = (OSError, ValueError, TypeError, LookupError, NotImplementedError, OverflowError, EOFError, MemoryError)


def read_mat(path: Path, *keys: str) -> list[npt.NDArray[Any]]:
    """The variables `keys` of a .mat file, each flattened to one axis.

    Raises DataError when the file is missing, is damaged or lacks one of them, or when scipy is not installed.
    """
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise DataError(f'{path} needs scipy to be read; pip install "vitadapt[data]"') from error
    data = bytes_of(path, IMAGE_FILE)
    try:
        _check_unfolded(data)
        table = loadmat(io.BytesIO(data), squeeze_me=True, variable_names=keys)
    except (*_DAMAGE, struct.error, zlib.error, MatReadError) as error:
        raise DataError(f"{path} is not a readable MATLAB file; get the data again") from error
    if absent := [key for key in keys if key not in table]:
        raise DataError(f"{path} has no {', '.join(absent)}; get the data again")
    return [np.atleast_1d(table[key]) for key in keys]


_COMPRESSED = 15  # the type of an element that unfolds into another one


def _check_unfolded(data: bytes) -> None:
    """Raises ValueError when the compressed elements of a file of version 5 unfold into more than any list needs."""
    order = ">" if data[126:128] == b"MI" else "<"
    at, room = 128, IMAGE_FILE
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        stream = zlib.decompressobj() if kind == _COMPRESSED else None
        rest = data[at + 8 : at + 8 + size]
        while stream and rest and not stream.eof:
            room -= len(stream.decompress(rest, IMAGE_FILE // 16))
            rest = stream.unconsumed_tail
            if room < 0:
                raise ValueError("unfolds without end")
        at += 8 + size


def whole_numbers(path: Path, key: str, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """`values` as integers. Raises DataError when they are anything else."""
    numbers = values.ndim == 1 and values.dtype.kind in "iuf" and bool((np.abs(values) < 2**53).all())
    if not numbers or (values != np.floor(values)).any():
        raise DataError(f"{path}: {key} is not a list of whole numbers; get the data again")
    return values.astype(np.int64)


def load_numbered(folder: Path, options: Options) -> Stored:
    """Images called by number, `labels` from 1 in one file and the image numbers of each split in another.

    Options: `labels`, `lists` (split -> variable), `split_file`, `images`, `pattern` (the name of image number {}).
    Raises DataError when the numbers lead beyond the labels or one image is in two splits.
    """
    path, split_path = folder / options["labels"], folder / options["split_file"]
    labels = whole_numbers(path, "labels", read_mat(path, "labels")[0])
    lists = options["lists"]
    rows = {
        split: whole_numbers(split_path, key, values)
        for (split, key), values in zip(lists.items(), read_mat(split_path, *lists.values()), strict=True)
    }
    listed = np.concatenate(list(rows.values()))
    if not len(listed) or listed.min() < 1 or listed.max() > len(labels):
        raise DataError(f"{split_path} lists images outside 1..{len(labels)}, the labels of {path.name}")
    if len(np.unique(listed)) < len(listed):
        raise DataError(f"{split_path} lists an image twice; get the data again")
    splits = {}
    for split, numbers in rows.items():
        names = [options["pattern"].format(number) for number in numbers.tolist()]
        splits[split] = Examples(file_refs(split_path, folder / options["images"], names), labels[numbers - 1] - 1)
    return Stored(splits)


def load_records(folder: Path, options: Options) -> Stored:
    """Records with `fname` and `class` (from 1), one file per split, and a file of class names.

    Options: `names` (the file with `class_names`), `lists` (split -> file, or alternatives), `images` (split -> folder,
    or alternatives). Raises DataError when records lack labels: the official file of the test set does.
    """
    names_path = first_of(folder, options["names"])
    classes = tuple(str(name) for name in read_mat(names_path, "class_names")[0].tolist())
    splits = {}
    for split, names in options["lists"].items():
        path = first_of(folder, names)
        records = read_mat(path, "annotations")[0]
        fields = records.dtype.names or ()
        if "fname" not in fields or "class" not in fields:
            raise DataError(f"{path} has no fname and class for every image; take the file with labels")
        files = file_refs(path, first_of(folder, options["images"][split]), (str(name) for name in records["fname"]))
        labels = whole_numbers(path, "class", _flat(records["class"]))
        splits[split] = Examples(files, labels - 1)
    return Stored(splits, classes)


def _flat(cells: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """One number per record as an array of numbers; of anything else an array that is none."""
    try:
        return np.array(cells.tolist())
    except ValueError:  # records that hold arrays of several lengths
        return cells


register("mat-numbered", load_numbered)
register("mat-records", load_records)
