"""The images that are most similar to one: by the cosine of their features."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.examples import FileRef, ImageRef
from ..utils.errors import ConfigError
from ..utils.progress import Progress
from .embedding import Collection, Embedder
from .features_file import FeaturesFile


@dataclass(frozen=True)
class Neighbour:
    """A similar image. similarity: cosine of the features, at most 1."""

    ref: ImageRef
    similarity: float
    label: str = ""

    @property
    def path(self) -> str:
        return self.ref.name


def nearest(
    embedder: Embedder, picture: Path, collection: Collection, top: int, progress: Progress | None = None
) -> tuple[list[Neighbour], list[str]]:
    """The `top` images of `collection` nearest to `picture`, itself left out, and a line per unreadable image.

    Raises DataError when `picture` cannot be read.
    """
    return closest(embedder, unit(embedder.features([picture]))[0], collection, top, progress, picture)


def closest(
    embedder: Embedder,
    direction: np.ndarray,
    collection: Collection,
    top: int,
    progress: Progress | None = None,
    picture: Path | None = None,
) -> tuple[list[Neighbour], list[str]]:
    """The `top` images of `collection` whose features have the largest cosine with the unit vector `direction` (E,).

    The file `picture` is left out. Also a line per unreadable image.
    """
    rows: list[int] = []
    scores = [np.zeros(0, dtype=np.float32)]
    unreadable: list[str] = []
    for batch in embedder.batches(collection.refs, progress):
        rows += batch.rows
        scores += [unit(found) @ direction for found in batch.outputs]
        unreadable += batch.unreadable
    best = _best(np.concatenate(scores), [collection.refs[row].name for row in rows], picture, top)
    found = [(rows[i], score) for i, score in best]
    return [Neighbour(collection.refs[row], score, collection.labels[row]) for row, score in found], unreadable


def nearest_in_file(embedder: Embedder, picture: Path, stored: FeaturesFile, top: int) -> list[Neighbour]:
    """As `nearest`, of the images whose features are `stored`.

    Raises ConfigError when another network made them, DataError when `picture` cannot be read.
    """
    _check_network(embedder, stored)
    return closest_in_file(embedder, unit(embedder.features([picture]))[0], stored, top, picture)


def closest_in_file(
    embedder: Embedder, direction: np.ndarray, stored: FeaturesFile, top: int, picture: Path | None = None
) -> list[Neighbour]:
    """As `closest`, of the images whose features are `stored`. Raises ConfigError when another network made them."""
    _check_network(embedder, stored)
    best = _best(unit(stored.features) @ direction, stored.path, picture, top)
    return [Neighbour(FileRef(stored.path[i]), score, stored.label[i]) for i, score in best]


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
