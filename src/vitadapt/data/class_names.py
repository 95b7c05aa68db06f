"""Class ids are matched by name, because the same data set is numbered differently wherever it is published."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from ..utils.errors import DataError, first_few
from .examples import IndexArray, LabelArray

_SHOWN = 5  # names that a message gives


def class_key(name: str) -> str:
    """The form under which two publications' spellings of a class are the same: case, blanks and `_ - /`."""
    return " ".join(re.sub(r"[_\-/]", " ", unicodedata.normalize("NFC", name)).split()).casefold()


def map_classes(
    given: Sequence[str], catalog: Sequence[str], aliases: Mapping[str, str] | None = None, where: str = "the data"
) -> IndexArray:
    """(C,) the catalog's id of every class of `given`. `aliases` gives the catalog's spelling of other spellings.

    Raises DataError listing the names when the two do not match one to one.
    """
    ids = {class_key(name): i for i, name in enumerate(catalog)}
    other = {class_key(name): class_key(meant) for name, meant in (aliases or {}).items()}
    keys = [key if (key := class_key(name)) in ids else other.get(key, key) for name in given]
    unknown = [name for name, key in zip(given, keys, strict=True) if key not in ids]
    present = set(keys)
    missing = [name for name in catalog if class_key(name) not in present]
    twice = [catalog[ids[key]] for key, count in Counter(keys).items() if count > 1 and key in ids]
    found = [("unknown", unknown), ("missing", missing), ("given twice", twice)]
    if problems := [f"{what}: {first_few([repr(name) for name in names], _SHOWN)}" for what, names in found if names]:
        raise DataError(
            f"{where} has {len(given)} classes that do not match the {len(catalog)} expected ones "
            f"({'; '.join(problems)}); get the data again, or correct the names"
        )
    return np.array([ids[key] for key in keys], dtype=np.int64)


def relabel(labels: LabelArray, order: Sequence[int] | IndexArray, where: str = "the data") -> LabelArray:
    """`labels`, (N,) or multi-hot (N, C), when what they call class i is class order[i].

    Raises DataError when one of (N,) is outside 0..C-1.
    """
    ids = np.asarray(order, dtype=np.int64)
    if labels.ndim == 2:
        return labels[:, np.argsort(ids)]
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(ids):
        raise DataError(
            f"{where} has labels {labels.min()}..{labels.max()}, outside 0..{len(ids) - 1}; get the data again"
        )
    return ids[labels]
