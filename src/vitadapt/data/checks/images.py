"""What one image is like: readable, turned by EXIF, grey, transparent, of one colour; and which pixels it shows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from PIL import Image

from ..examples import ImageRef
from ..images import UnreadableImage, decoding, orientation, to_rgb, upright
from ..parallel import Progress, each
from ..pixels.hashes import _pixels

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
}


@dataclass(frozen=True)
class Look:
    """`pixels` is the hash of the upright RGB image, empty when it is unreadable; `kinds` what is odd about it."""

    pixels: str
    kinds: tuple[str, ...]
    reason: str = ""


def look_at(refs: Sequence[ImageRef], progress: Progress | None = None, workers: int | None = None) -> list[Look]:
    """A look at every image, in order; unreadable ones do not stop it."""
    return list(each(look, refs, "looking", progress, workers))


def look(ref: ImageRef) -> Look:
    """Decode one image. Never raises for a damaged one: that is what it reports."""
    try:
        image = ref.read()
        shown = to_rgb(upright(image))
    except UnreadableImage as error:
        return Look("", (), error.reason)
    except ValueError as error:  # grey values of unknown scale
        return Look("", (), str(error))
    return Look(_pixels(shown), tuple(_kinds(image, shown, ref.name)))


def _kinds(image: Image.Image, shown: Image.Image, name: str) -> Iterator[str]:
    short, long = sorted(image.size)
    suffix = os.path.splitext(name)[1].lower()
    odd = {
        "turned by EXIF": orientation(image) != 1,
        "greyscale": image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16"),
        "16 bits deep": image.mode in ("I", "F") or image.mode.startswith("I;16"),
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
