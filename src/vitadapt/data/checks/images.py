"""What one image is like: readable, turned by EXIF, grey, transparent, of one colour; and which pixels it shows.

`scan` learns from a single reading and decoding of every image all that is needed later: hashes, oddities, thumbnails
to compare, and the squares that a backbone looks at.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from ...utils.progress import Progress
from ..examples import Examples, ImageRef, IndexArray, read_with_digest
from ..image_file import MEASURED
from ..images import (
    CHANNELS,
    RANGE,
    Geometry,
    Pixel8,
    UnreadableImage,
    decoding,
    is_deep,
    orientation,
    to_square,
    to_upright_rgb,
    white,
)
from ..parallel import each
from ..pixels.cache import TemporaryArray
from ..pixels.hashes import rgb_digest
from ..pixels.pixels import IN_MEMORY, ArrayPixels, Pixels, open_pixels
from .near_duplicates import SIDE, groups, thumbnail

_TINY = 16  # pixels of the shorter side, below which nothing can be recognised
_ELONGATED = 10  # times longer than wide: the crop sees a tenth of it at most
_SUFFIXES = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "MPO": {".jpg", ".jpeg", ".mpo"},
    "PNG": {".png", ".apng"},
    "WEBP": {".webp"},
    "GIF": {".gif"},
    "BMP": {".bmp", ".dib"},
    "TIFF": {".tif", ".tiff"},
    "HEIF": {".heic", ".heif", ".hif"},
}
TWELVE = "12 bits deep"


@dataclass(frozen=True)
class ImageCheck:
    """`pixels` is the hash of the upright RGB image, empty when it is unreadable; `kinds` what is odd about it."""

    pixels: str
    kinds: tuple[str, ...]
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Scan:
    """The result of one reading of every image; entry i is that of refs[i]. Unreadable images have an empty digest.

    thumbnails: uint8 (N, 48, 48, 3). squares: uint8 (N, 3, S, S) for `geometry`, or None.
    """

    refs: Sequence[ImageRef]
    digests: list[str]
    checks: list[ImageCheck]
    thumbnails: Pixel8
    geometry: Geometry | None = None
    squares: Pixel8 | None = None
    _rows: dict[int, int] = field(default_factory=dict, repr=False)

    def rows(self, examples: Examples) -> IndexArray:
        """(M,) where the images of `examples`, which are some of those that were scanned, stand here."""
        if not self._rows:
            self._rows.update((id(ref), row) for row, ref in enumerate(self.refs))
        return np.array([self._rows[id(ref)] for ref in examples.refs], dtype=np.int64)

    def digests_of(self, examples: Examples) -> list[str]:
        """The content hash of each of `examples`."""
        return [self.digests[row] for row in self.rows(examples)]

    def pixels(
        self, examples: Examples, geometry: Geometry, cache: Path | None, progress: Progress | None = None
    ) -> Pixels:
        """The decoded `examples`; opened anew where the scan did not keep them, or for another geometry."""
        if self.squares is None or geometry != self.geometry:
            return open_pixels(examples, geometry, cache, progress)
        return ArrayPixels(self.squares, self.digests_of(examples), geometry, self.rows(examples))

    def groups(self, examples: Examples, progress: Progress | None = None) -> IndexArray:
        """(M,) the number of each image's group of near-duplicates, as `near_duplicates.groups` has them."""
        return groups(self.thumbnails, self.rows(examples), progress)


def scan(
    refs: Sequence[ImageRef],
    geometry: Geometry | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
) -> Scan:
    """Read and decode every image once, in order; unreadable ones do not stop it.

    With a `geometry` the squares are kept, too: in a temporary file of the folder `cache`, or without one in memory, if
    they take less than a gigabyte. Raises StorageError when such a file cannot be written.
    """
    if geometry and cache is None and len(refs) * geometry.channels * geometry.size**2 > IN_MEMORY:
        geometry = None
    small = TemporaryArray(cache, (len(refs), SIDE, SIDE, 3))
    squares = TemporaryArray(cache, (len(refs), *geometry.shape)) if geometry else None
    digests, checks = [], []
    for digest, check, whole, square in each(partial(_scan_one, geometry), refs, "looking", progress, workers):
        digests.append(digest)
        checks.append(check)
        small.append(whole)
        if squares:
            squares.append(square)
    return Scan(refs, digests, checks, small.array(), geometry, squares.array() if squares else None)


def _scan_one(geometry: Geometry | None, ref: ImageRef) -> tuple[str, ImageCheck, Pixel8, Pixel8]:
    """(digest, check, thumbnail, square) of one image. Never raises for a damaged one: that is what it reports."""
    shape = geometry.shape if geometry else (0,)
    try:
        image, digest = read_with_digest(ref)
        shown = to_upright_rgb(image, ref.name)
        square = to_square(shown, geometry, ref.name) if geometry else np.zeros(shape, dtype=np.uint8)
    except UnreadableImage as error:
        blank = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
        return "", ImageCheck("", (), error.reason), blank, np.zeros(shape, dtype=np.uint8)
    seen = ImageCheck(rgb_digest(shown), tuple(_kinds(image, shown, ref.name)))
    return digest, seen, thumbnail(shown), square


def _kinds(image: Image.Image, shown: Image.Image, name: str) -> Iterator[str]:
    short, long = sorted(image.size)
    suffix = os.path.splitext(name)[1].lower()
    deep, colour = is_deep(image), RANGE in image.info and image.mode in ("RGB", "RGBA")
    odd = {
        "turned by EXIF": orientation(image) != 1,
        "greyscale": deep or image.mode in ("1", "L", "LA", "F"),
        "16 bits deep": deep or colour or image.mode == "F",
        TWELVE: (deep or colour) and white(image.info, np.asarray(image)) < 65535,
        "of more than three channels, of which a page shows three": CHANNELS in image.info,
        "scaled by the range of their own values": bool(image.info.get(MEASURED)),
        "transparent": "A" in image.mode or "transparency" in image.info,
        "CMYK": image.mode == "CMYK",
        "animated": _is_animated(image),
        "suffix of another format": bool(suffix) and suffix not in _SUFFIXES.get(image.format or "", {suffix}),
        "tiny": short < _TINY,
        "elongated": long > _ELONGATED * short,
        "one colour only": all(low == high for low, high in cast(Any, shown.getextrema())),
    }
    yield from (kind for kind, holds in odd.items() if holds)


def _is_animated(image: Image.Image) -> bool:
    """Is there a second frame? One that is damaged counts as none: only the first is ever used."""
    try:
        with decoding(""):
            return bool(getattr(image, "is_animated", False)) and image.format != "MPO"
    except UnreadableImage:
        return False
