"""Road signs: class folders for training, a table for the test images, as the two archives of the benchmark unpack.

Options: `train` and perhaps `val` (folders of class folders, or alternatives), `wrong` (a folder that shows that other
archives were unpacked), `index` (the table of the test images, or alternatives) and `images` (their folder).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...utils.errors import DataError
from ..examples import Examples
from .class_folders import class_files
from .helpers import Stored, file_refs, first_of, integer, register
from .image_folder import class_examples
from .index_files import numbered, semicolon_table
from .reader import Options


def load(folder: Path, options: Options) -> Stored:
    """Raises DataError for other archives than the benchmark's, missing images and damaged tables."""
    train = first_of(folder, options["train"])
    if not train.is_dir() and (folder / options["wrong"]).is_dir():
        raise DataError(
            f"{folder / options['wrong']} mixes the training and the validation images of the benchmark; "
            f"unpack GTSRB-Training_fixed.zip, which makes {train}"
        )
    splits = {"train": in_class_folders(train)}
    if "val" in options and (val := first_of(folder, options["val"])).is_dir():
        splits["val"] = in_class_folders(val)
    index = first_of(folder, options["index"])
    listed = list(semicolon_table(index))
    refs = file_refs(index, folder / options["images"], (image for image, _ in listed))
    splits["test"] = numbered(index, list(zip(refs, (label for _, label in listed), strict=True)))
    return Stored(splits)


def in_class_folders(folder: Path) -> Examples:
    """The images below folders called 00000, 00001, ...; a folder with a table must have the images that it lists.

    Raises DataError when an image of a table is missing or the table gives it another class than its folder.
    """
    files = class_files(folder)
    names = tuple(sorted(files))
    for name in names:
        if (index := folder / name / f"GT-{name}.csv").is_file():
            _check_table(index, integer(f"the folder {folder / name}", name))
    examples = class_examples(folder, files, names)
    numbers = np.array([integer(f"the folder {folder / name}", name) for name in names], dtype=np.int64)
    return Examples(examples.refs, numbers[examples.labels])


def _check_table(index: Path, number: int) -> None:
    """Raises DataError for a missing image, or one of another class, in a class folder's own table."""
    listed = list(semicolon_table(index))
    if strange := [image for image, label in listed if integer(str(index), label) != number]:
        raise DataError(f"{index} gives {strange[0]} another class than its folder; get the data again")
    file_refs(index, index.parent, (image for image, _ in listed))


register("gtsrb", load)
