"""Opening a dataset, whatever it is given as: a registered name, a folder, a CSV file, arrays."""

from __future__ import annotations

import os
from pathlib import Path

from ..utils.errors import DataError
from ..utils.files import expanded
from ..utils.registry import unknown
from . import catalog
from .examples import Dataset
from .readers.arrays import from_arrays
from .readers.csv_table import read_table
from .readers.hf_datasets import PREFIX, read_hub
from .readers.image_folder import read_folder
from .readers.reader import READERS
from .sampling.splits import Complain, refuse

__all__ = ["READERS", "check_spec", "from_arrays", "list_datasets", "open_dataset"]

_TABLES = (".csv",)


def open_dataset(
    spec: str | Path | Dataset, root: Path | None = None, complain: Complain = refuse, whole: bool = False
) -> Dataset:
    """The dataset that `spec` names: a registered name (its files are looked for below `root`), a folder of class
    folders, a CSV file, or hf:USER/NAME. A name wins over a folder of the same name; write ./name for the folder. The
    leaderboard's and other names of a registered dataset are understood too, where no such file or folder exists.

    Where no test part is given, one is held out of the training images; with `whole` all images stay together, and one
    class or one image is enough. Raises UnknownName for a misspelt name and DataError for data that is missing or
    cannot be used as it is. Defects of a folder that leave something to work with go to `complain`, which raises them
    unless another one is given.
    """
    if isinstance(spec, Dataset):
        return spec
    known = catalog.catalog()
    if isinstance(spec, str) and spec.startswith(PREFIX):
        return read_hub(spec, whole)
    if isinstance(spec, str) and spec in known:
        return catalog.read(known[spec], root)
    path = expanded(spec)
    if os.path.isdir(path):  # which takes impossible names for absent
        return read_folder(path, complain, whole)
    if os.path.isfile(path):
        if path.suffix.lower() not in _TABLES:
            raise DataError(f"{path} is a file; give a folder of class folders or a .csv file")
        return read_table(path, whole)
    if isinstance(spec, str):
        if row := catalog.resolve(spec):
            return catalog.read(row, root)
        check_spec(spec)
    raise DataError(f"{path}: no such file or folder")


def check_spec(spec: str) -> None:
    """Raises UnknownName, with the near ones, when `spec` is neither a registered name nor looks like a path."""
    path = expanded(spec)
    if (
        spec.startswith(PREFIX)
        or os.sep in spec
        or path.suffix.lower() in _TABLES
        or os.path.exists(path)
        or catalog.resolve(spec)
    ):
        return
    if spec not in catalog.catalog():
        raise unknown("dataset", spec, catalog.catalog(), "(and there is no folder or file of that name)")


def list_datasets(root: Path | None = None) -> list[dict[str, object]]:
    """One row per registered dataset: what it is, and where it was found (None: nowhere; `get` says how to get it)."""
    rows: list[dict[str, object]] = []
    for row in catalog.catalog().values():
        found = catalog.find(row, root)
        rows.append(
            {
                "name": row.name,
                "classes": len(row.classes),
                **{split: row.sizes.get(split) for split in ("train", "val", "test")},
                "metric": row.metric,
                "leaderboard": row.leaderboard or None,
                "split": "published" if row.rebuildable else "published in the hub's copy only",
                "licence": row.licence,
                "home": row.home,
                "get": row.get,
                "fetchable": row.fetchable,
                "found": None if found is None else found[1],
            }
        )
    return rows
