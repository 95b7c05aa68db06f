"""Datasets of the Hugging Face hub, through its library `datasets`: hf:USER/NAME, or hf: and a local folder.

Images stay as they are stored until one is asked for. No code of a dataset is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...utils.errors import DataError, damaged
from ...utils.files import read_bounded
from ...utils.limits import IMAGE_FILE
from ...utils.optional import fetching, package
from ..examples import Dataset, EncodedRef, Examples
from ..images import UnreadableImage
from ..sampling.splits import SPLITS, check_classes, split_rule, with_test

PREFIX = "hf:"


@dataclass(frozen=True, eq=False)
class HubRef(EncodedRef):
    """The image in row `index` of a table, in its column `column`."""

    table: Any
    index: int
    column: str
    split: str

    @property
    def name(self) -> str:
        return f"{self.split}[{self.index}]"

    def data(self) -> bytes:
        cell = self.table[self.index][self.column] or {}
        if cell.get("bytes"):
            return bytes(cell["bytes"])
        try:
            return read_bounded(cell.get("path") or "", IMAGE_FILE)
        except OSError as error:
            raise UnreadableImage(self.name, "no such file") from error


def read_hub(spec: str, whole: bool = False) -> Dataset:
    """The dataset hf:USER/NAME with its one image column and its one column of class labels. `whole`: as `read_folder`.

    Raises MissingPackage without `datasets`, WeightsError when it cannot be fetched, and DataError for other columns.
    """
    repository = spec.removeprefix(PREFIX)
    library = package("datasets", "hf")
    with damaged(spec, "make or fetch it again"):
        with fetching(spec):
            found = library.load_dataset(repository)
        tables = {SPLITS[name]: table for name, table in found.items() if name in SPLITS}
        if "train" not in tables:
            raise DataError(f"{spec} has the splits {', '.join(found)}, and none is called train")
        image, label = _columns(spec, library, tables["train"])
        classes = check_classes(spec, set(_labels(tables["train"], label)))
        examples = {split: _examples(library, table, split, image, label, classes) for split, table in tables.items()}
    keys = [ref.name for ref in examples["train"].refs]
    splits, notes = with_test(spec, classes, examples, keys, whole=whole)
    return Dataset(repository.rpartition("/")[2], classes, splits, notes=notes, split=split_rule(examples, whole))


def _columns(spec: str, library: Any, table: Any) -> tuple[str, str]:
    features = table.features
    images = [name for name, kind in features.items() if isinstance(kind, library.Image)]
    labels = [name for name, kind in features.items() if isinstance(kind, library.ClassLabel)]
    labels = labels or [name for name in ("label", "labels", "class") if name in features]
    if len(images) != 1 or len(labels) != 1:
        raise DataError(
            f"{spec} has the columns {', '.join(features)}; one of images and one of class labels are needed"
        )
    return images[0], labels[0]


def _labels(table: Any, label: str) -> list[str]:
    names = getattr(table.features[label], "names", None)
    return [names[value] if names else str(value) for value in table[label]]


def _examples(library: Any, table: Any, split: str, image: str, label: str, classes: tuple[str, ...]) -> Examples:
    place = {name: c for c, name in enumerate(classes)}
    labels = _labels(table, label)
    if strange := sorted(set(labels) - place.keys()):
        raise DataError(f"{split} has the class {strange[0]!r}, which train lacks")
    stored = table.cast_column(image, library.Image(decode=False))
    refs = tuple(HubRef(stored, i, image, split) for i in range(len(stored)))
    return Examples(refs, np.array([place[name] for name in labels], dtype=np.int64))
