"""The labels that scikit-learn hands to `fit`."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.multiclass import check_classification_targets


def read_labels(y: Any) -> np.ndarray:
    """(N,) strings or numbers, or (N, C) of 0 and 1. Raises ValueError for anything else.

    A class that no image has, or every one, is a ValueError, too: nothing could be learnt of it.
    """
    if y is None:
        raise ValueError("fit requires y to be passed, but the target y is None")
    y = y.detach().cpu() if hasattr(y, "detach") else y
    y = y.tolist() if np.ma.isMaskedArray(y) else y  # what is masked becomes None
    values = np.asarray(y) if hasattr(y, "__array__") else np.asarray(y, dtype=object)  # [nan, "a"] is no text yet
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 2 and values.size and np.isin(values, (0, 1)).all():
        return _several(values.astype(np.uint8))
    if values.ndim != 1:
        raise ValueError(
            f"y has the shape {values.shape}; give one label per image, (N,), or 0 and 1 for every class, (N, C)"
        )
    listed = values.tolist()
    if missing := [row for row, value in enumerate(listed) if _is_missing(value)]:
        raise ValueError(
            f"Input y contains NaN or empty labels: {len(missing)} of {len(listed)}, the first in row {missing[0]}; "
            "give these images a label, or leave them out"
        )
    if values.dtype == object:
        values = np.array([str(value) if isinstance(value, str) else value for value in listed])
    check_classification_targets(values)
    return values


def _is_missing(label: Any) -> bool:
    """None, NaN, NaT, pandas.NA, or a text of blanks."""
    if label is None or (isinstance(label, str) and not label.strip()):
        return True
    try:
        return bool(label != label)
    except TypeError:  # pandas.NA is neither equal nor different
        return True


def _several(labels: np.ndarray) -> np.ndarray:
    count = labels.sum(axis=0)
    for what, columns in (("no image", count == 0), ("every image", count == len(labels))):
        if columns.any():
            raise ValueError(f"{what} has the label in column {int(np.argmax(columns))} of y; leave this column out")
    return labels


def label_names(y: Any, labels: np.ndarray) -> np.ndarray:
    """(C,) the names of the columns of a table, else 0, 1, ..."""
    columns = getattr(y, "columns", None)
    return np.arange(labels.shape[1]) if columns is None else np.array([str(name) for name in columns])
