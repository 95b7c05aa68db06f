"""The distance to the closest vehicle, made out of KITTI's object detection data as VTAB defines the task.

Label: z of the closest Car, Van or Truck; 0 up to 8 m, 1 up to 20 m, 2 beyond, 3 without any. Split: by drive, so that
neighbouring frames never end up on both sides. 10 % of the drives (at least one) are drawn for test, then as many of
the remaining ones for val, by numpy's legacy generator with seed 123; that is how the published split was made.

Options: `images`, `objects` (folders) and `mapping` (the devkit's folder of that name, or alternatives).
"""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path

import numpy as np

from ...utils.errors import DataError
from ..examples import Examples
from .helpers import Stored, file_refs, first_of, integer, lines_of, register, text_of
from .reader import Options

_VEHICLES = ("Car", "Van", "Truck")
_BOUNDS = (8.0, 20.0)  # metres
_FIELDS = 15
_Z = 13  # column of the distance along the optical axis
_SEED = 123
_PERCENT = 10


def load(folder: Path, options: Options) -> Stored:
    """Frames in ascending order. Raises DataError for missing devkit files, frames or labels, and damaged ones."""
    mapping = first_of(folder, options["mapping"])
    if not mapping.is_dir():
        raise DataError(f"{mapping} is missing; unpack KITTI's devkit_object.zip there, it has the drive of each frame")
    drives = drives_of(mapping / "train_rand.txt", mapping / "train_mapping.txt")
    parts = split_by_drive(drives, str(mapping))
    index, splits = mapping / "train_rand.txt", {}
    for split, frames in parts.items():
        refs = file_refs(index, folder / options["images"], (f"{frame:06d}.png" for frame in frames))
        objects = file_refs(index, folder / options["objects"], (f"{frame:06d}.txt" for frame in frames))
        labels = [distance_class(nearest(Path(ref.path))) for ref in objects]
        splits[split] = Examples(refs, np.array(labels, dtype=np.int64))
    return Stored(splits)


def drives_of(order: Path, table: Path) -> list[str]:
    """The drive of frame 0, 1, ...: entry i of `order` is the line, from 1, of frame i in `table`; column 2 its drive.

    Raises DataError when the two files do not fit together.
    """
    lines = text_of(table).splitlines()
    numbers = [integer(str(order), entry) for entry in text_of(order).replace("\n", ",").split(",") if entry.strip()]
    drives = []
    for number in numbers:
        columns = lines[number - 1].split() if 0 < number <= len(lines) else []
        if len(columns) < 2:
            raise DataError(f"{table} has no drive in line {number}, which {order.name} asks for; get the devkit again")
        drives.append(columns[1])
    if not drives:
        raise DataError(f"{order} lists no frames; get the devkit again")
    return drives


def split_by_drive(drives: list[str], where: str) -> dict[str, list[int]]:
    """Frame numbers of train, val and test. Raises DataError for fewer than three drives."""
    frames: dict[str, list[int]] = defaultdict(list)
    for frame, drive in enumerate(drives):
        frames[drive].append(frame)
    if len(frames) < 3:
        raise DataError(f"{where} knows {len(frames)} drives, too few to split frames by them; get the devkit again")
    draw, count = np.random.RandomState(_SEED), max(1, len(frames) * _PERCENT // 100)
    test = set(draw.choice(sorted(frames), count, replace=False).tolist())
    val = set(draw.choice(sorted(frames.keys() - test), count, replace=False).tolist())
    chosen = {"train": frames.keys() - test - val, "val": val, "test": test}
    return {split: sorted(frame for drive in part for frame in frames[drive]) for split, part in chosen.items()}


def nearest(path: Path) -> float | None:
    """z in metres of the closest vehicle in a label file, None without one. Raises DataError naming a damaged line."""
    distances = []
    for where, line in lines_of(path):
        fields = line.split()
        if len(fields) < _FIELDS:
            raise DataError(f"{where} has {len(fields)} fields instead of {_FIELDS}; get the labels again")
        if fields[0] in _VEHICLES:
            distances.append(_metres(where, fields[_Z]))
    return min(distances, default=None)


def _metres(where: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where} has {text[:30]!r} where a distance was expected; get the labels again")
    return value


def distance_class(z: float | None) -> int:
    """0: z <= 8 m, 1: z <= 20 m, 2: farther, 3: no vehicle."""
    return len(_BOUNDS) + 1 if z is None else sum(z > bound for bound in _BOUNDS)


register("kitti-distance", load)
