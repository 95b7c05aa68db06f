"""Drawings of the Open Clip Art library as Debian's openclipart-png packs them: category folders of PNG files.

A class is one folder (not the folders below it). The rule, which knows nothing but names and bytes:

* left out: links (Debian's drawings that are in two categories), copies, drawings of more than 20 million pixels;
* drawings come in series (name_01.png, name_02.png) of one object; a series is never split between train and test;
* series are ordered by the MD5 digest of their name; the first 60 % of the drawings (at least 20) are for training, the
  rest for testing; at most 60 and 40 of them are taken;
* a category with fewer than 20 + 8 drawings is no class.

Options: `folders` (below the data root), `system` (where the package puts them), `marker` (a category by which they are
known), `leave_out` (drawings that the rule takes and that are no good, in either split).
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from ...utils.errors import DataError, damaged
from ...utils.files import read_bounded
from ...utils.limits import IMAGE_FILE
from ..examples import Examples
from .idx import places
from .image_folder import class_examples
from .reader import READERS, CatalogRow, Options, Reader

Parts = tuple[list[Path], list[Path]]  # train, test

TRAIN_AT_LEAST, TEST_AT_LEAST = 20, 8
TRAIN_AT_MOST, TEST_AT_MOST = 60, 40
MOST_PIXELS = 20_000_000
_PNG = b"\x89PNG\r\n\x1a\n"


def split_series(paths: Iterable[Path]) -> Parts | None:
    """Drawings of one class as (train, test), whole series together; None when there are too few.

    Raises DataError naming a file that cannot be read or is no PNG file.
    """
    series: dict[str, list[Path]] = defaultdict(list)
    for path in _distinct(sorted(path for path in paths if not path.is_symlink())):
        if _pixels(path) <= MOST_PIXELS:
            series[_series(path)].append(path)
    total = sum(map(len, series.values()))
    train: list[Path] = []
    test: list[Path] = []
    for name in sorted(series, key=lambda name: _md5(name.encode())):
        (train if len(train) < max(TRAIN_AT_LEAST, 0.6 * total) else test).extend(series[name])
    return (train, test) if len(train) >= TRAIN_AT_LEAST and len(test) >= TEST_AT_LEAST else None


def _series(path: Path) -> str:
    """The file name without its running number: drawings that share it show the same object."""
    return re.sub(r"[_-]*\d+$", "", path.stem) or path.stem


def _distinct(paths: list[Path]) -> list[Path]:
    """Without the later ones of equal files; only files of one size can be equal, so that few are read."""
    sizes = [path.stat().st_size for path in paths]
    shared = Counter(sizes)
    seen: set[str] = set()
    distinct = []
    for path, size in zip(paths, sizes, strict=True):
        digest = _md5(_bytes(path)) if shared[size] > 1 else ""
        if not digest or digest not in seen:
            distinct.append(path)
            seen.add(digest)
    return distinct


def _bytes(path: Path) -> bytes:
    with damaged(path, "install openclipart-png again"):
        return read_bounded(path, IMAGE_FILE)


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _pixels(path: Path) -> int:
    """Width times height, from the header."""
    with path.open("rb") as file:
        start = file.read(24)  # signature, length and name of the first chunk, width, height
    if not start.startswith(_PNG) or len(start) < 24:
        raise DataError(f"{path} is not a PNG file; install openclipart-png again")
    return math.prod(struct.unpack(">II", start[16:]))


def category(folder: Path) -> Parts | None:
    """The drawings of one category folder as (train, test), or None when they are too few for a class."""
    parts = split_series(folder.glob("*.png"))
    return parts and (parts[0][:TRAIN_AT_MOST], parts[1][:TEST_AT_MOST])


def has(options: Options, place: str) -> bool:
    """Is the category there that the option `marker` names?"""
    return Path(place, options["marker"]).is_dir()


def read(row: CatalogRow, options: Options, place: str) -> Mapping[str, Examples]:
    """Train and test of the row's classes. Raises DataError naming a category that is missing, small or damaged."""
    folders = {name: folder for folder, name in row.spellings.items()}
    wanted = tuple(folders.get(name, name) for name in row.classes)
    return _read(Path(place), wanted, frozenset(options["leave_out"]))


READERS.register("openclipart")(Reader(places, has, read))


@cache
def _read(root: Path, folders: tuple[str, ...], left_out: frozenset[str]) -> Mapping[str, Examples]:
    """Kept, because two thousand headers are read: a second, for every cell of a benchmark."""
    train: dict[str, list[str]] = {}
    test: dict[str, list[str]] = {}
    for folder in folders:
        parts = category(root / folder)
        if parts is None:
            least = f"{TRAIN_AT_LEAST} + {TEST_AT_LEAST} usable drawings"
            raise DataError(f"{root / folder} is missing or has fewer than {least}; install openclipart-png again")
        for files, paths in zip((train, test), parts, strict=True):
            names = (f"{folder}/{path.name}" for path in paths)
            files[folder] = [name for name in names if name not in left_out]
    return {"train": class_examples(root, train, folders), "test": class_examples(root, test, folders)}
