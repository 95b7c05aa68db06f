"""Decoded pixels: every image is decoded, resized and cropped once, into a memory-mapped file of uint8.

The file is named by what it contains (the content of the images in their order, the geometry, the version of the
pipeline and of the decoders), so it is never stale and can be shared by runs, seeds and methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import PIL
import platformdirs
from PIL import features

from ...utils.errors import DataError, StorageError
from ...utils.progress import Progress
from ..examples import Examples, ImageRef, hexdigest, read_with_digest
from ..images import VERSION, Geometry, Pixel8, UnreadableImage, to_pixels
from ..parallel import attempts, each, raise_all
from . import cache as pixelfile
from .hashes import content_digests

__all__ = ["Geometry", "Pixels", "cache_size", "content_digests", "default_cache", "open_pixels"]

if TYPE_CHECKING:  # torch takes seconds to import and only `gather` needs it
    from torch import Tensor

_DEEP = 3  # which rule scales images of more than 8 bits
IN_MEMORY = 1 << 30  # bytes of decoded images that streaming keeps


class Pixels(ABC):
    """uint8 images (N, 3, S, S), decoded already or on demand."""

    geometry: Geometry

    @property
    @abstractmethod
    def digests(self) -> list[str]:
        """The content hash of every image, in order. Raises DataError as `content_digests`."""

    @property
    def key(self) -> str:
        """Names the content of all images in their order and how they were decoded; equal keys mean equal bytes."""
        return _key(self.digests, self.geometry)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _fetch(self, rows: npt.NDArray[np.int64]) -> Pixel8:
        """A new array (n, 3, S, S)."""

    def gather(self, rows: npt.NDArray[np.integer[Any]] | Tensor) -> Tensor:
        """The images at `rows` as a contiguous uint8 copy (n, 3, S, S). Raises IndexError for rows outside 0..N-1."""
        import torch

        index = rows.cpu().numpy() if isinstance(rows, torch.Tensor) else np.asarray(rows)
        if index.size and not (index.min() >= 0 and index.max() < len(self)):
            raise IndexError(f"rows {index.min()}..{index.max()} of {len(self)} images")
        return torch.from_numpy(self._fetch(index.astype(np.int64).reshape(-1)))


class ArrayPixels(Pixels):
    """Images in an array (M, 3, S, S), in memory or memory-mapped; `rows` (N,) of it, or all."""

    def __init__(
        self, array: Pixel8, digests: list[str], geometry: Geometry, rows: npt.NDArray[np.int64] | None = None
    ) -> None:
        self.array, self.geometry, self.rows = array, geometry, rows
        self._digests = digests

    @property
    def digests(self) -> list[str]:
        return self._digests

    def __len__(self) -> int:
        return len(self._digests)

    def _fetch(self, rows: npt.NDArray[np.int64]) -> Pixel8:
        return np.ascontiguousarray(self.array[rows if self.rows is None else self.rows[rows]])


class StreamedPixels(Pixels):
    """Images decoded when they are asked for; the first gigabyte of them stays in memory."""

    def __init__(self, examples: Examples, geometry: Geometry, workers: int | None = None) -> None:
        self.examples, self.geometry, self.workers = examples, geometry, workers
        self._cached: dict[int, Pixel8] = {}
        self._known: dict[int, str] = {}  # digests of the images that were read

    @property
    def digests(self) -> list[str]:
        missing = [row for row in range(len(self)) if row not in self._known]
        fresh = content_digests(self.examples.take(missing), None, workers=self.workers)
        self._known.update(zip(missing, fresh, strict=True))
        return [self._known[row] for row in range(len(self))]

    def __len__(self) -> int:
        return len(self.examples)

    def _fetch(self, rows: npt.NDArray[np.int64]) -> Pixel8:
        refs = self.examples.refs
        wanted = [row for row in dict.fromkeys(rows.tolist()) if row not in self._cached]
        decoded = each(lambda row: _decode(refs[row], self.geometry), wanted, "decoding", workers=self.workers)
        fresh: dict[int, Pixel8] = {}
        for row, (pixels, digest) in zip(wanted, decoded, strict=True):
            fresh[row] = pixels
            if self._known.setdefault(row, digest) != digest:
                raise _changed(refs[row])
        size = self.geometry.size
        images = np.empty((len(rows), self.geometry.channels, size, size), dtype=np.uint8)
        for place, row in enumerate(rows.tolist()):
            images[place] = fresh[row] if row in fresh else self._cached[row]
        room = IN_MEMORY // (self.geometry.channels * size * size) - len(self._cached)
        self._cached.update(list(fresh.items())[: max(room, 0)])
        return images


def _decode(ref: ImageRef, geometry: Geometry) -> tuple[Pixel8, str]:
    """One image as uint8 (3, S, S), and the hash of its content. Raises DataError naming it."""
    image, digest = read_with_digest(ref)
    return to_pixels(image, geometry, ref.name), digest


def _changed(ref: ImageRef) -> UnreadableImage:
    return UnreadableImage(ref.name, "its content is not what it was when it was hashed")


def default_cache() -> Path:
    """Where pixels are kept unless the user says otherwise. Raises StorageError when the user has no home."""
    try:
        folder = Path(platformdirs.user_cache_dir("vitadapt"))
    except RuntimeError:  # from newer platformdirs; older ones give the text "~/.cache" back
        folder = Path()
    if not folder.is_absolute():
        raise StorageError("this user has no home folder for a cache; name one with --cache DIR, or use --no-cache")
    return folder / "pixels"


def cache_size(examples: Examples, geometry: Geometry) -> int:
    """Bytes that `open_pixels` would write for these images."""
    return pixelfile.array_file(Path(), _shape(examples, geometry)).size


def open_pixels(
    examples: Examples,
    geometry: Geometry,
    cache: Path | None,
    progress: Progress | None = None,
    workers: int | None = None,
) -> Pixels:
    """The decoded `examples`, from the folder `cache` when they were decoded before; None decodes on demand.

    Both ways give the same bytes. `progress(stage, done, total)` is called now and then; the stage of decoding has
    how large the cache will be. Raises one DataError that
    names all unreadable images (streaming: when they are gathered) and StorageError when the cache cannot be written.
    """
    if cache is None or not len(examples):
        return StreamedPixels(examples, geometry, workers)
    digests = content_digests(examples, cache, progress, workers)
    key = _key(digests, geometry)
    stage = f"decoding {len(examples)} images into {cache_size(examples, geometry) / 1e6:.1f} MB of cache"

    def decode(row: int) -> Pixel8:
        pixels, digest = _decode(examples.refs[row], geometry)
        if digest != digests[row]:  # rewritten meanwhile, or damaged by a disk that changes no times
            raise _changed(examples.refs[row])
        return pixels

    def make(starts: Sequence[int]) -> Iterator[tuple[int, Pixel8]]:
        rows = [row for start in starts for row in range(start, min(start + pixelfile.PIECE, len(examples)))]
        outcomes = zip(rows, attempts(decode, rows, stage, progress, workers), strict=True)
        broken: list[DataError] = []
        for start, piece in groupby(outcomes, lambda outcome: outcome[0] // pixelfile.PIECE * pixelfile.PIECE):
            found = [outcome for _, outcome in piece]
            images = [outcome for outcome in found if not isinstance(outcome, DataError)]
            broken += [outcome for outcome in found if isinstance(outcome, DataError)]
            if len(images) == len(found):
                yield start, np.stack(images)
        raise_all(broken)

    array = pixelfile.open_or_build(cache / f"{key}.pixels", _shape(examples, geometry), make)
    return ArrayPixels(array, digests, geometry)


def _shape(examples: Examples, geometry: Geometry) -> tuple[int, ...]:
    return (len(examples), geometry.channels, geometry.size, geometry.size)


def _key(digests: list[str], geometry: Geometry) -> str:
    codecs = [features.version(codec) for codec in ("jpg", "webp", "jpg_2000")]  # other decoders, other bytes
    return hexdigest(f"{VERSION} {_DEEP} {PIL.__version__} {codecs} {geometry.identity}\n", "\n".join(digests))
