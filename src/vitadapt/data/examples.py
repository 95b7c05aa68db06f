"""Undecoded images with their labels: what every source delivers and everything else consumes."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..utils.errors import DataError
from ..utils.files import read_bounded, settled
from ..utils.limits import IMAGE_FILE
from .image_file import open_image
from .images import UnreadableImage, load_image, orientation

LabelArray = npt.NDArray[Any]  # (N,) int64, or (N, C) uint8 multi-hot for multi-label data
IndexArray = npt.NDArray[np.int64]


class ImageRef(Protocol):
    """One image that has not been decoded yet."""

    @property
    def name(self) -> str:
        """What an error message calls it: a path, `archive.zip@inner.png`, `train[17]`."""

    def read(self) -> Image.Image:
        """The image as stored. Raises DataError naming it when it cannot be decoded."""

    def digest(self) -> str:
        """blake2b-128 of its content, in hex. Raises DataError when it cannot be read."""


@runtime_checkable
class Stamped(Protocol):
    """An `ImageRef` whose content is worth hashing once only."""

    def stamp(self) -> str | None:
        """Cheap to get and different whenever the content may have changed; None when that cannot be promised."""


class EncodedRef(ABC):
    """An image that is stored as the bytes of an image file, somewhere: `data()` reads them."""

    @property
    @abstractmethod
    def name(self) -> str: ...

    @abstractmethod
    def data(self) -> bytes:
        """The bytes of the image file. Raises UnreadableImage."""

    def read(self) -> Image.Image:
        return open_image(self.data(), self.name)

    def digest(self) -> str:
        return hexdigest(self.data())


def read_with_digest(ref: ImageRef) -> tuple[Image.Image, str]:
    """The image and the hash of its content; what is stored as bytes is read once for both. Raises UnreadableImage."""
    if isinstance(ref, EncodedRef):
        data = ref.data()
        return open_image(data, ref.name), hexdigest(data)
    return ref.read(), ref.digest()


def hexdigest(*parts: bytes | str) -> str:
    """blake2b-128 of the parts one after another, in hex."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        state.update(part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part)
    return state.hexdigest()


def is_utf8(name: str) -> bool:
    """Python keeps bytes of a file name that are not UTF-8 as lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def shown(path: Path | str) -> str:
    """A path as text that can be printed, whatever its bytes."""
    return os.fspath(path).encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True)
class FileRef(EncodedRef):
    """An image file."""

    path: Path | str

    @property
    def name(self) -> str:
        return shown(self.path)

    def data(self) -> bytes:
        try:
            return read_bounded(self.path, IMAGE_FILE)
        except FileNotFoundError as error:
            raise UnreadableImage(self.name, "no such file") from error
        except OSError as error:
            raise UnreadableImage(self.name, (error.strerror or str(error)).lower()) from error

    def stamp(self) -> str | None:
        """Digest of path, size and times (ctime too, because copying tools restore the mtime); None for a new file."""
        try:
            status = os.stat(self.path)
        except (OSError, ValueError):  # the latter for a path that no file can have
            return None
        if not settled(status):
            return None
        return hexdigest(os.path.abspath(self.path), f"\0{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}")


@dataclass(frozen=True, eq=False)
class ArrayRef:
    """An image in an array: (H, W) or (H, W, 1 | 3 | 4), uint8, uint16 or bool."""

    array: npt.NDArray[Any]
    name: str

    def read(self) -> Image.Image:
        array = self.array[..., 0] if self.array.ndim == 3 and self.array.shape[2] == 1 else self.array
        if not array.size or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
            raise UnreadableImage(self.name, f"an array of shape {self.array.shape}, not (H, W) or (H, W, 1 | 3 | 4)")
        if array.dtype == np.bool_:
            array = array.astype(np.uint8) * np.uint8(255)
        elif array.dtype == np.uint16 and array.ndim == 3:
            array = np.rint(array / 257.0).astype(np.uint8)  # Pillow knows 16 bits for grey images only
        elif array.dtype not in (np.uint8, np.uint16):
            raise UnreadableImage(self.name, f"an array of {array.dtype}, not uint8, uint16 or bool")
        return Image.fromarray(np.ascontiguousarray(array))

    def digest(self) -> str:
        return hexdigest(np.ascontiguousarray(self.array).tobytes(), f"\0{self.array.shape} {self.array.dtype.str}")


@dataclass(frozen=True, eq=False)
class ImageObjectRef:
    """A PIL image that is in memory already (or opened and not yet loaded)."""

    image: Image.Image
    name: str

    def read(self) -> Image.Image:
        return load_image(self.image, self.name)

    def digest(self) -> str:
        image = self.read()
        palette = bytes(image.getpalette("RGBA") or ()) if image.mode in ("P", "PA") else b""
        facts = f"{image.mode} {image.size} {image.info.get('transparency')!r} {orientation(image)}"
        return hexdigest(image.tobytes(), palette, facts)


@dataclass(frozen=True, eq=False)
class Examples:
    """Images and their labels: (N,) class indices, or (N, C) multi-hot. Raises ValueError when they do not match."""

    refs: Sequence[ImageRef]
    labels: LabelArray

    def __post_init__(self) -> None:
        if self.labels.ndim not in (1, 2) or len(self.labels) != len(self.refs):
            raise ValueError(f"{len(self.refs)} images and labels of shape {self.labels.shape} do not match")

    def __len__(self) -> int:
        return len(self.refs)

    @property
    def multilabel(self) -> bool:
        """Can an image have several labels at once?"""
        return self.labels.ndim == 2

    def take(self, rows: Sequence[int] | npt.NDArray[np.generic]) -> Examples:
        """The examples at `rows`, in that order. Raises IndexError for a row that does not exist."""
        index = np.asarray(rows)
        if index.dtype == np.bool_:
            raise IndexError("take wants row numbers; turn a mask into them with numpy.flatnonzero")
        index = index.astype(np.int64)
        return Examples(tuple(self.refs[row] for row in index.tolist()), self.labels[index])


@dataclass(frozen=True, eq=False)
class Dataset:
    """Named examples. `splits` has "train" and "test", perhaps "val"; `notes` has what the reader decided.

    `order[i]` is the class index of the class that the copy on disk numbers i; empty when both number them alike.
    `split` is the rule behind the splits: "elevater" (the benchmark's), "native" (another one of the same data, so
    that scores do not compare), "given" (as they come), "held-out" (a part of train was set aside for testing) or
    "undivided" (images without a division: "train" or "test" may be missing).
    `doubts` are those of the notes that somebody should look at. `metric` is, unless it is given, "accuracy", or the
    mean average precision "11-point-map" where an image may have several labels.

    Raises DataError when a split is missing or empty, a label is outside the classes, or the metric is not for them.
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Examples]
    metric: str = ""
    squash: bool = False
    notes: tuple[str, ...] = ()
    order: tuple[int, ...] = ()
    split: str = "given"
    doubts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        needed = () if self.split == "undivided" else ("train", "test")
        for split in (*needed, *self.splits):
            if not len(self.splits.get(split, ())):
                raise DataError(f"{self.name}: the {split} split has no images")
        for split, examples in self.splits.items():
            _check_labels(f"{self.name}: the {split} split", examples, len(self.classes))
        several = any(examples.multilabel for examples in self.splits.values())
        if several and self.metric == "accuracy":
            raise DataError(f"{self.name}: accuracy needs one label per image, here are several; use 11-point-map")
        object.__setattr__(self, "metric", self.metric or ("11-point-map" if several else "accuracy"))


def _check_labels(what: str, examples: Examples, classes: int) -> None:
    labels = examples.labels
    if examples.multilabel:
        if labels.shape[1] != classes:
            raise DataError(f"{what} has labels for {labels.shape[1]} classes, expected {classes}")
        if labels.max() > 1:
            raise DataError(f"{what} has multi-hot labels with a {labels.max()}; use 0 and 1 only")
    elif labels.min() < 0 or labels.max() >= classes:
        raise DataError(f"{what} has labels {labels.min()}..{labels.max()}, outside 0..{classes - 1}")
