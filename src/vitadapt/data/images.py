"""From a decoded image to the uint8 square a backbone looks at.

The order is fixed: decode (`image_file.py`), turn upright (EXIF), RGB, resize, crop. On images without EXIF or
transparency the result is bit-equal to torchvision's `Resize` followed by `CenterCrop` on PIL images, extremely long
ones excepted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from ..utils.errors import DataError, VitadaptError
from ..utils.limits import IMAGE_PIXELS

Pixel8 = npt.NDArray[np.uint8]

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif", ".heic", ".heif", ".hif", ".dcm"}
)
CHANNELS = "channels"  # in `info` of an image that is more than RGB: all of its channels, uint8 (H, W, K)
RANGE = "range"  # in `info` of an image of more than 8 bits: the value that stands for white
_TWELVE_BITS = 4095  # the largest value that cameras and scanners of 12 bits write into files of 16
VERSION = 1  # part of the name of every cached file: raise it whenever a pixel may come out differently

_ORIENTATION = 0x0112  # EXIF tag
_TURNS = {  # not ImageOps.exif_transpose: it writes the other tags again, and fails where one of them is damaged
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ELONGATED = 32  # a resized side longer than this many short sides is never materialised


class UnreadableImage(DataError):
    """One image that cannot be used, and why in a few words."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} cannot be read ({reason}); remove or re-save it", (name,))
        self.name, self.reason = name, reason


class TooManyPixels(UnreadableImage):
    """An image whose header says that it is larger than is allowed; none of its pixels was decoded."""


@dataclass(frozen=True)
class Geometry:
    """How an image becomes a square of `size` pixels.

    The shorter side is resized to round(size * resize) pixels and the centre is cropped; with `squash` both sides are,
    and the aspect ratio is lost. channels: 1 for grey, 3 for RGB, or all that a file of more has. `interpolation` is
    Pillow's filter of that name. Raises ValueError when the crop cannot fit, and for an unknown filter.
    """

    size: int
    resize: float = 1.0
    squash: bool = False
    channels: int = field(default=3, repr=False)
    interpolation: str = field(default="bicubic", repr=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, S, S)."""
        return self.channels, self.size, self.size

    def __post_init__(self) -> None:
        if self.size < 1 or not self.resize >= 1:
            raise ValueError(f"size and resize must be at least 1: {self}")
        if self.interpolation.upper() not in Image.Resampling.__members__:
            raise ValueError(f"unknown interpolation {self.interpolation!r}")

    @property
    def side(self) -> int:
        """Pixels of the shorter side, or of both, before the crop."""
        return round(self.size * self.resize)

    @property
    def identity(self) -> str:
        """Text that names it: what the first caches did not have is only in it where it makes other pixels."""
        more = [f"{self.channels} channels"] if self.channels != 3 else []
        more += [self.interpolation] if self.interpolation != "bicubic" else []
        return " ".join([repr(self), *more, *(["cropped"] if self.squash and self.side != self.size else [])])


def load_image(image: Image.Image, name: str) -> Image.Image:
    """`image` with its pixels in memory. Raises UnreadableImage."""
    check_size(image.size, name)
    with decoding(name):
        image.load()
    return image


def check_size(size: tuple[int, int], name: str, most: int | None = None) -> None:
    """Before anything is allocated, and whatever this process has made of Pillow's own limit."""
    wide, high = size
    if wide < 1 or high < 1:
        raise UnreadableImage(name, f"{wide} x {high} pixels, so that there is nothing to see")
    if wide * high > min(IMAGE_PIXELS, most or IMAGE_PIXELS):
        raise TooManyPixels(name, f"{wide} x {high} pixels, at most {most or IMAGE_PIXELS} are taken")


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Within the block, whatever Pillow raises for a damaged image becomes an UnreadableImage."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise UnreadableImage(name, "not an image of a known format") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise TooManyPixels(name, f"more than {IMAGE_PIXELS} pixels") from error
    except MemoryError as error:
        raise UnreadableImage(name, "it needs more memory than there is") from error
    except VitadaptError:
        raise
    except Exception as error:  # its decoders raise nearly every class of error, each release others
        raise UnreadableImage(name, "truncated" if "truncated" in str(error).lower() else "damaged") from error


def to_pixels(image: Image.Image, geometry: Geometry, name: str = "image") -> Pixel8:
    """A decoded image -> uint8 (3, S, S). Raises UnreadableImage when its pixels have no sensible 8-bit meaning."""
    return to_square(to_upright_rgb(image, name), geometry, name)


def to_upright_rgb(image: Image.Image, name: str) -> Image.Image:
    """A decoded image as RGB, turned upright. Raises UnreadableImage when its pixels have no sensible 8-bit meaning."""
    try:
        return to_rgb(upright(image))
    except ValueError as error:
        raise UnreadableImage(name, str(error)) from error


def to_square(image: Image.Image, geometry: Geometry, name: str) -> Pixel8:
    """An upright RGB image -> uint8 (3, S, S); one of K channels, where so many are wanted -> uint8 (K, S, S).

    Raises UnreadableImage for another number of channels.
    """
    if geometry.channels == 1:
        return np.asarray(fit(image.convert("L"), geometry))[None]
    if geometry.channels != 3:
        channels = image.info.get(CHANNELS)
        if channels is None or channels.shape[2] != geometry.channels:
            found = 3 if channels is None else channels.shape[2]
            raise UnreadableImage(name, f"{found} channels, and the backbone is for {geometry.channels}")
        planes = [Image.fromarray(channels[..., k]) for k in range(geometry.channels)]
        return np.stack([np.asarray(fit(plane, geometry)) for plane in planes])
    return np.ascontiguousarray(np.asarray(fit(image, geometry)).transpose(2, 0, 1))  # (S, S, 3) -> (3, S, S)


def cropped(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """The part of an image from (left, top) to (right, bottom), with all its channels."""
    part, (left, top, right, bottom) = image.crop(box), box
    if CHANNELS in image.info:
        part.info[CHANNELS] = image.info[CHANNELS][top:bottom, left:right]
    return part


def upright(image: Image.Image) -> Image.Image:
    """`image` turned as its EXIF orientation asks."""
    turn = _TURNS.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def orientation(image: Image.Image) -> int:
    """1 to 8 as EXIF counts them; 1 without any, and when the EXIF block is damaged, as in every viewer."""
    try:
        with decoding(""):
            turn = image.getexif().get(_ORIENTATION, 1)
    except UnreadableImage:
        return 1
    return turn if isinstance(turn, int) and turn in _TURNS else 1


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB: transparent parts on white, 16-bit grey scaled to 8 bit (`white`). Raises ValueError for other values."""
    if image.mode == "F" or is_deep(image):
        return Image.fromarray(to_8_bit(image.info, np.asarray(image))).convert("RGB")
    if _has_alpha(image):
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _has_alpha(image: Image.Image) -> bool:
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return True
    return image.mode == "P" and image.palette is not None and image.palette.mode.endswith("A")


def is_deep(image: Image.Image) -> bool:
    """Are its values integers of more than 8 bits?"""
    return image.mode == "I" or image.mode.startswith("I;16")


def white(info: Mapping[Any, Any], grey: npt.NDArray[Any]) -> float:
    """The value that stands for white: 1 for floats; that of `info`; else 4095 if none is larger; else 65535."""
    if grey.dtype.kind == "f":
        return 1.0
    measured = _TWELVE_BITS if 0 < grey.max() <= _TWELVE_BITS else 65535
    return float(info.get(RANGE, measured))


def to_8_bit(info: Mapping[Any, Any], values: npt.NDArray[Any]) -> Pixel8:
    """Values of an image with this `info` -> uint8 of the same shape. Raises ValueError for those out of range."""
    return values if values.dtype == np.uint8 else _to_8_bit(values, white(info, values))


def _to_8_bit(grey: npt.NDArray[Any], top: float) -> Pixel8:
    """Values 0..top -> uint8 of the same shape, rounded."""
    if not (grey.min() >= 0 and grey.max() <= top):  # written so that NaN fails too
        raise ValueError(f"grey values outside 0..{top:g}")
    return np.rint(grey * (255.0 / top)).astype(np.uint8)


def fit(image: Image.Image, geometry: Geometry) -> Image.Image:
    """An RGB image resized and cropped to `geometry`."""
    size, short, filter_ = geometry.size, geometry.side, Image.Resampling[geometry.interpolation.upper()]
    width, height = image.size
    if geometry.squash:
        wide, high = short, short
    elif width <= height:
        wide, high = short, int(short * height / width)
    else:
        wide, high = int(short * width / height), short
    left, top = round((wide - size) / 2), round((high - size) / 2)
    if max(wide, high) <= ELONGATED * short:
        return image.resize((wide, high), filter_).crop((left, top, left + size, top + size))
    # The whole resized strip could take gigabytes (1 x 10000 pixels at size 224: 1.5 GB), so only the crop is computed.
    x, y = width / wide, height / high
    box = (left * x, top * y, min((left + size) * x, width), min((top + size) * y, height))
    return image.resize((size, size), filter_, box=box)
