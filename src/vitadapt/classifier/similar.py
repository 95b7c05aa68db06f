"""The images whose features are nearest to those of an image, or to a direction: by their cosine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.examples import FileRef, ImageRef
from ..utils.errors import ConfigError, DataError
from ..utils.progress import Progress
from .embedding import Collection, Embedder, find_collection
from .features_file import SUFFIXES, FeaturesFile, read_features


@dataclass(frozen=True)
class Neighbour:
    """A similar image. similarity: cosine of the features, at most 1."""

    ref: ImageRef
    similarity: float
    label: str = ""

    @property
    def path(self) -> str:
        return self.ref.name


Photos = Collection | FeaturesFile


def open_photos(places: Sequence[str], root: Path | None = None) -> Photos:
    """The images that `places` name (see `find_collection`), or what is known of them in one file that embed wrote.

    Raises DataError, UnknownName, and StorageError for a damaged file.
    """
    if len(places) == 1 and Path(places[0]).suffix.lower() in SUFFIXES:
        return read_features(Path(places[0]))
    return find_collection(places, root)


def nearest(
    embedder: Embedder, picture: Path, photos: Photos, top: int, progress: Progress | None = None
) -> tuple[list[Neighbour], list[str]]:
    """The `top` images of `photos` nearest to `picture`, itself left out, and a line per unreadable image.

    Raises DataError when `picture` cannot be read, and what `closest` raises.
    """
    return closest(embedder, unit(embedder.features([picture]))[0], photos, top, progress, picture)


def closest(
    embedder: Embedder,
    direction: np.ndarray,
    photos: Photos,
    top: int,
    progress: Progress | None = None,
    picture: Path | None = None,
) -> tuple[list[Neighbour], list[str]]:
    """The `top` images of `photos` whose features have the largest cosine with the unit vector `direction` (E,).

    The file `picture` is left out. Also a line per unreadable image. Raises DataError when none can be read, or is
    left, and ConfigError for features that another network made.
    """
    refs: list[ImageRef]
    if isinstance(photos, FeaturesFile):
        _check_network(embedder, photos)
        refs, labels, unreadable = [FileRef(path) for path in photos.path], photos.label, list[str]()
        scores = unit(photos.features) @ direction
    else:
        rows, parts, unreadable = list[int](), [np.zeros(0, dtype=np.float32)], []
        for batch in embedder.batches(photos.refs, progress):
            rows += batch.rows
            parts += [unit(found) @ direction for found in batch.outputs]
            unreadable += batch.unreadable
        refs, labels = [photos.refs[row] for row in rows], [photos.labels[row] for row in rows]
        scores = np.concatenate(parts)
    best = _best(scores, [ref.name for ref in refs], picture, top)
    if not best:
        raise DataError("no image is left to compare with; name a folder, or a file of embed, with other pictures")
    return [Neighbour(refs[row], score, labels[row]) for row, score in best], unreadable


def _check_network(embedder: Embedder, stored: FeaturesFile) -> None:
    if stored.info.digest != embedder.digest:
        raise ConfigError(
            f"these features were made by {stored.info.network} at {stored.info.image_size} pixels, which is not the "
            f"same network as {embedder.name} at {embedder.network.image_size}; name it with --backbone and "
            "--image-size, or --model"
        )


def unit(features: np.ndarray) -> np.ndarray:
    """Rows (N, E) of length 1; what is zero stays zero."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(lengths, np.finfo(np.float32).tiny))


def _best(scores: np.ndarray, names: Sequence[str], picture: Path | None, top: int) -> list[tuple[int, float]]:
    """(row, score) of the highest scores, without the file `picture` itself."""
    own = None if picture is None else os.path.realpath(picture)
    order = (int(i) for i in np.argsort(-scores, kind="stable"))
    found: list[tuple[int, float]] = []
    while len(found) < top and (row := next(order, None)) is not None:
        if os.path.realpath(names[row]) != own:
            found.append((row, min(float(scores[row]), 1.0)))
    return found
