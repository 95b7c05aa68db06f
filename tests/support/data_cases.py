"""Small images and a watcher, shared by the tests of the pixel cache."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
from PIL import Image

from vitadapt.data import Examples, FileRef, Geometry
from vitadapt.data.examples import ArrayRef

GEOMETRY = Geometry(8)


def array(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (11, 9, 3), dtype=np.uint8)


def in_memory(count: int = 5) -> Examples:
    refs = tuple(ArrayRef(array(i), f"train[{i}]") for i in range(count))
    return Examples(refs, np.zeros(count, dtype=np.int64))


def in_files(folder: Path, count: int = 5) -> Examples:
    """PNG files that look an hour old, so that their hashes may be remembered."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{i}.png" for i in range(count)]
    for i, path in enumerate(paths):
        Image.fromarray(array(i)).save(path)
        age(path)
    return Examples(tuple(FileRef(path) for path in paths), np.zeros(count, dtype=np.int64))


def age(path: Path) -> None:
    hour_ago = time.time() - 3600
    os.utime(path, (hour_ago, hour_ago))


class Stages(list[tuple[str, int, int]]):
    """A progress callback that remembers its calls."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.append((stage, done, total))

    @property
    def decoded(self) -> bool:
        return any(stage.startswith("decoding") for stage, _, _ in self)


def cached_file(cache: Path) -> Path:
    (file,) = cache.glob("*.pixels")
    return file
