"""What VTAB asks about the scenes of CLEVR (task_adaptation/data/clevr.py): how many objects, and how near the nearest.

Options: `lists` (split -> file of scenes), `images` (split -> folder) and `task`: "count" (3 to 10 objects are the
classes 0 to 7) or "distance" (of the object nearest to the camera).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...utils.errors import DataError
from ..examples import Examples
from .helpers import Stored, file_refs, register, text_of
from .index_files import parsed
from .reader import Options

_BOUNDS = np.array([8.0, 8.5, 9.0, 9.5, 10.0], np.float32)
_FEWEST = 3  # objects in a scene


def count_class(objects: list[Any]) -> int:
    """The number of objects, from 0 for three."""
    return len(objects) - _FEWEST


def distance_class(objects: list[Any]) -> int:
    """0 up to 8, then a class for every half up to 10, 5 beyond: of the least distance, in single precision."""
    nearest = np.float32(min(one["pixel_coords"][2] for one in objects))
    return int((nearest > _BOUNDS).sum())


TASKS: Mapping[str, Callable[[list[Any]], int]] = {"count": count_class, "distance": distance_class}


def load(folder: Path, options: Options) -> Stored:
    """The scenes in the order of the files. Raises DataError for a damaged file or a missing image."""
    splits, label = {}, TASKS[options["task"]]
    for split, name in options["lists"].items():
        index = folder / name
        table = parsed(str(index), text_of(index))
        try:
            scenes = [(str(scene["image_filename"]), label(scene["objects"])) for scene in table["scenes"]]
        except (TypeError, KeyError, IndexError, ValueError) as error:
            raise DataError(f"{index} is not a list of scenes with their objects; get the data again") from error
        refs = file_refs(index, folder / options["images"][split], (image for image, _ in scenes))
        splits[split] = Examples(refs, np.array([label for _, label in scenes], dtype=np.int64))
    return Stored(splits)


register("clevr", load)
