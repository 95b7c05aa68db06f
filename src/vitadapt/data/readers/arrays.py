"""Images that are in memory already: numpy arrays, torch tensors, PIL images, or paths."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...utils.errors import DataError
from ..examples import ArrayRef, Dataset, Examples, FileRef, ImageObjectRef, ImageRef, LabelArray
from ..sampling.splits import check_classes

_CHANNELS = (1, 3, 4)


def from_arrays(
    train_images: Any,
    train_labels: Any,
    test_images: Any,
    test_labels: Any,
    classes: Sequence[str] | None = None,
    name: str = "arrays",
) -> Dataset:
    """A dataset from what is in memory.

    Images: an array (N, H, W) or (N, H, W, 1 | 3 | 4), a torch tensor (N, 1 | 3 | 4, H, W), both uint8 0..255, uint16,
    bool or float 0..1; or a sequence of arrays, PIL images and paths. Labels: N integers or names, or multi-hot (N, C).
    Without `classes` they are the labels that occur in train, sorted; with it integers count from 0 in it.
    Raises DataError when images and labels do not fit together.
    """
    refs = {"train": to_refs(train_images, "train"), "test": to_refs(test_images, "test")}
    raw = {"train": _plain(train_labels), "test": _plain(test_labels)}
    for split in refs:
        if raw[split].ndim not in (1, 2) or len(raw[split]) != len(refs[split]):
            raise DataError(f"{name}: {len(refs[split])} {split} images, but labels of shape {raw[split].shape}")
    known, values = _classes(raw["train"], classes)
    check_classes(name, known)
    splits = {split: Examples(refs[split], _to_labels(f"{name}: {split}", raw[split], values)) for split in refs}
    return Dataset(name, known, splits)


def to_refs(images: Any, prefix: str) -> tuple[ImageRef, ...]:
    """One reference per image, called `prefix[i]` unless it has a path. Raises DataError for what is not an image."""
    if isinstance(images, (str, os.PathLike, Image.Image)):
        raise DataError(f"{prefix}: one image was given where a sequence of images was expected")
    if hasattr(images, "__array__"):
        return tuple(ArrayRef(image, f"{prefix}[{i}]") for i, image in enumerate(_to_arrays(images, prefix)))
    return tuple(_to_ref(image, f"{prefix}[{i}]") for i, image in enumerate(cast(Iterable[Any], images)))


def _to_ref(image: Any, name: str) -> ImageRef:
    if isinstance(image, (str, os.PathLike)):
        return FileRef(Path(image))
    if isinstance(image, Image.Image):
        return ImageObjectRef(image, name)
    if hasattr(image, "__array__"):
        return ArrayRef(_to_arrays(image[None], name)[0], name)
    raise DataError(f"{name} is a {type(image).__name__}, not an array, a PIL image or a path")


def _to_arrays(images: Any, name: str) -> npt.NDArray[Any]:
    """(N, H, W) or (N, H, W, c), of integers or bool; floats 0..1 become uint8."""
    tensor = hasattr(images, "detach")
    array = _plain(images)
    if tensor and array.ndim == 4:
        array = np.moveaxis(array, 1, -1)  # torch's channels come first: (N, c, H, W) -> (N, H, W, c)
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[-1] not in _CHANNELS):
        order = "(N, 1 | 3 | 4, H, W)" if tensor else "(N, H, W) or (N, H, W, 1 | 3 | 4)"
        raise DataError(f"{name}: images of shape {_plain(images).shape}, expected {order}")
    if array.dtype.kind != "f":
        return array
    if array.size and not (array.min() >= 0 and array.max() <= 1):  # written so that NaN fails too
        raise DataError(f"{name}: floating-point images must lie in 0..1; scale them, or give uint8 0..255")
    grey: npt.NDArray[Any] = np.rint(array * 255).astype(np.uint8)
    return grey


def _plain(values: Any) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    return array


def _classes(labels: npt.NDArray[Any], classes: Sequence[str] | None) -> tuple[tuple[str, ...], dict[Any, int]]:
    """Class names, and the class index of every value that a label may have."""
    if labels.ndim == 2:
        names = tuple(classes or map(str, range(labels.shape[1])))
        return names, {}
    if classes is None:
        found = np.unique(labels).tolist()
        return tuple(map(str, found)), {value: i for i, value in enumerate(found)}
    by_name = labels.dtype.kind in "UO"
    return tuple(classes), {(label if by_name else i): i for i, label in enumerate(classes)}


def _to_labels(where: str, labels: npt.NDArray[Any], values: dict[Any, int]) -> LabelArray:
    if labels.ndim == 2:
        if not np.isin(labels, (0, 1)).all():
            raise DataError(f"{where} has multi-hot labels other than 0 and 1")
        return labels.astype(np.uint8)
    listed = labels.tolist()
    unknown = sorted({str(label) for label in listed if label not in values})
    if unknown:
        raise DataError(f"{where} has labels outside the classes: {', '.join(unknown[:3])}")
    return np.array([values[label] for label in listed], dtype=np.int64)
