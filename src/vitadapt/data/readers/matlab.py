"""Labels in MATLAB files: Oxford Flowers (labels and split by image number) and Stanford Cars (annotation records).

And images in them: the house numbers of SVHN.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...utils.errors import DataError, damaged
from ...utils.limits import IMAGE_FILE
from ..examples import ArrayRef, Examples
from . import load_mat
from .helpers import Stored, bytes_of, file_refs, first_of, register
from .reader import Options

_CHECKED = {  # MD5, published with torchvision's Flowers102
    "e0620be6f572b9609742df49c70aed4d",  # imagelabels.mat
    "a5357ecc9cb78c4bef273ce3793fc85c",  # setid.mat
}
_SECONDS = 60


def read_mat(path: Path, *keys: str) -> list[Any]:
    """The variables `keys` of a .mat file, as `load_mat.variables` has them.

    Raises DataError when the file is missing, is damaged or lacks one of them.
    """
    data = bytes_of(path, IMAGE_FILE)
    with damaged(path, "get the data again", what="is not a readable MATLAB file"):
        if hashlib.md5(data, usedforsecurity=False).hexdigest() in _CHECKED:
            table = load_mat.variables(data)
        else:
            table = json.loads(_in_a_process(data))
    if absent := [key for key in keys if key not in table]:
        raise DataError(f"{path} has no {', '.join(absent)}; get the data again")
    return [table[key] for key in keys]


def read_arrays(path: Path, *keys: str) -> list[npt.NDArray[Any]]:
    """The arrays of numbers `keys` of a .mat file. Raises DataError when it is missing, damaged or lacks one."""
    data = bytes_of(path, IMAGE_FILE)
    with damaged(path, "get the data again", DataError, f"is not a readable MATLAB file with {' and '.join(keys)}"):
        stream = io.BytesIO(_in_a_process(data, *keys))
        return [np.lib.format.read_array(stream, allow_pickle=False) for _ in keys]


def _in_a_process(data: bytes, *names: str) -> bytes:
    """What the program `load_mat` writes of a file. Raises ValueError when it fails, or its process ends."""
    command = [sys.executable, "-I", str(load_mat.__file__), *names]
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # each of them would take memory
    done = subprocess.run(command, input=data, capture_output=True, timeout=_SECONDS, env={**os.environ, **threads})
    if done.returncode:
        raise ValueError("damaged, or too large")
    return done.stdout


def whole_numbers(path: Path, key: str, values: Any) -> npt.NDArray[np.int64]:
    """`values` (numbers, or one in each entry of a list) as integers. Raises DataError when they are anything else."""
    given = values if isinstance(values, list) else [None]
    numbers = [one[0] if isinstance(one, list) and len(one) == 1 else one for one in given]
    if not all(isinstance(one, (int, float)) and abs(one) < 2**53 and one == int(one) for one in numbers):
        raise DataError(f"{path}: {key} is not a list of whole numbers; get the data again")
    return np.array(numbers, dtype=np.int64)


def texts(path: Path, key: str, values: Any) -> Sequence[str]:
    """`values` as texts. Raises DataError when they are anything else."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise DataError(f"{path}: {key} is not a list of texts; get the data again")
    return values


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
    classes = tuple(texts(names_path, "class_names", read_mat(names_path, "class_names")[0]))
    splits = {}
    for split, names in options["lists"].items():
        path = first_of(folder, names)
        records = read_mat(path, "annotations")[0]
        if not isinstance(records, dict) or not {"fname", "class"} <= records.keys():
            raise DataError(f"{path} has no fname and class for every image; take the file with labels")
        files = file_refs(path, first_of(folder, options["images"][split]), texts(path, "fname", records["fname"]))
        labels = whole_numbers(path, "class", records["class"])
        splits[split] = Examples(files, labels - 1)
    return Stored(splits, classes)


def load_images(folder: Path, options: Options) -> Stored:
    """Images X (H, W, 3, N) and digits y (N, 1), where 10 stands for 0, in one file per split.

    Options: `files` (split -> file). Raises DataError for anything else.
    """
    splits = {}
    for split, name in options["files"].items():
        pixels, digits = read_arrays(folder / name, "X", "y")
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or digits.size != pixels.shape[3] or digits.dtype.kind != "u":
            raise DataError(f"{folder / name} does not hold images X with a digit y for each; get the data again")
        refs = (ArrayRef(pixels[..., i], f"{split}[{i}]") for i in range(digits.size))
        splits[split] = Examples(tuple(refs), digits.reshape(-1).astype(np.int64) % 10)
    return Stored(splits)


register("mat-images", load_images)
register("mat-numbered", load_numbered)
register("mat-records", load_records)
