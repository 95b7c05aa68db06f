"""From the bytes of one image file to a decoded image: a closed list of formats, each with its bounds."""

from __future__ import annotations

import io
import logging
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from ..utils.optional import MissingPackage, package
from .images import CHANNELS, RANGE, UnreadableImage, check_size, decoding, is_deep, to_8_bit, white

# A closed list: data sets come from others, and some of Pillow's other formats start programs (EPS: Ghostscript).
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")
MEASURED = "measured"  # in `info` of a medical image without a window, whose range is that of its values
_BITS, _LARGEST = 258, 281  # TIFF tags: BitsPerSample, MaxSampleValue
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")  # brands of pictures of telephones
_MAGIC = b"DICM"  # behind 128 bytes of a medical image
_TIFF = (b"II*\0", b"MM\0*")
_SAMPLES, _EXTRA, _KIND, _TURN = (
    277,
    338,
    262,
    274,
)  # TIFF tags: SamplesPerPixel, ExtraSamples, Photometric, Orientation
_ORDERS = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}  # of bytes, and the other one
_DEFLATED = b"1.2.840.10008.1.2.1.99"  # a DICOM file that would be unfolded without a bound
_WINDOW = ("WindowCenter", "WindowWidth")
_SWAPPED = {f"{mode};16{order}": f"{mode};16{other}" for mode in ("RGB", "RGBA") for order, other in _ORDERS.items()}
_opening, _QUIET = threading.Lock(), logging.NullHandler()


def open_image(data: bytes, name: str, most: int | None = None) -> Image.Image:
    """The decoded image (first frame) in `data`, as stored. Raises UnreadableImage, and TooManyPixels above `most`."""
    if not data:
        raise UnreadableImage(name, "empty file")
    check_size(_canvas_of_webp(data), name, most)
    with decoding(name):
        if data[128:132] == _MAGIC:
            return _open_medical(data, name, most)
        if data[4:8] == b"ftyp" and any(brand in data[8:40] for brand in _HEIF):
            with _optional(name):
                package("pillow_heif", "heif").register_heif_opener()
        try:
            image = _open_header(data)
        except UnidentifiedImageError:
            if data[:4] not in _TIFF or not _is_wide(_tags_of(data)):
                raise
            return _open_channels(data, name, most)
        if image.format == "TIFF" and _is_wide(cast(Any, image).tag_v2):
            return _open_channels(data, name, most)
        check_size(image.size, name, most)
        deep = bool(image.tile) and all(_raw_mode(tile.args) in _SWAPPED for tile in image.tile)
        image.load()
        for key in (CHANNELS, RANGE, MEASURED):  # a text in the file may have any name
            image.info.pop(key, None)
        if deep:
            _scale(image, _deep_colours(image, data), data, name)
        elif is_deep(image) and (declared := _declared_range(image, data, np.asarray(image))):
            image.info[RANGE] = declared
    return image


def _canvas_of_webp(data: bytes) -> tuple[int, int]:
    """(width, height) of a WebP file, whose decoder allocates all of it on opening; (1, 1) of other files."""
    kind = data[12:16] if data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) >= 30 else b""
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":  # 14 bits each
        sides = int.from_bytes(data[21:25], "little")
        return 1 + sides % 2**14, 1 + sides // 2**14 % 2**14
    if kind == b"VP8 ":
        return int.from_bytes(data[26:28], "little") % 2**14 or 1, int.from_bytes(data[28:30], "little") % 2**14 or 1
    return 1, 1


def _open_header(data: bytes) -> ImageFile.ImageFile:
    # Pillow only warns about a moderate decompression bomb. Warning filters belong to the whole process, so changing
    # them needs the lock; it covers the header alone, decoding runs in parallel. Its other warnings are about formats
    # that it tried in vain.
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.init()
        return Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN])


def _raw_mode(args: Any) -> Any:
    """How Pillow names the layout of the values that a decoder with these arguments reads, where it names one."""
    return args[0] if isinstance(args, tuple) and args else args


def _deep_colours(image: Image.Image, data: bytes) -> np.ndarray:
    """uint16 values (H, W, 3 or 4) of an RGB or RGBA image with 16 bits per channel.

    Pillow keeps the upper byte of each value. It is the lower one where the file is read in the other byte order.
    """
    other = _open_header(data)
    for i, tile in enumerate(other.tile):
        args: Any = tile.args
        mode = _SWAPPED[_raw_mode(args)]
        other.tile[i] = tile._replace(args=mode if isinstance(args, str) else (mode, *args[1:]))
    values: np.ndarray = np.asarray(image).astype(np.uint16) * 256 + np.asarray(other)
    return values


def _scale(image: Image.Image, values: np.ndarray, data: bytes, name: str) -> None:
    """Give an RGB or RGBA image its 16-bit values (H, W, 3 or 4) in 8 bits; `info` tells what stands for white."""
    colours, alpha = values[..., :3], values[..., 3:]
    declared = _declared_range(image, data, colours)
    image.info[RANGE] = declared or white({}, colours)
    try:
        parts = [to_8_bit(image.info, colours), *([to_8_bit({}, alpha)] if alpha.size else [])]
    except ValueError as error:
        raise UnreadableImage(name, str(error)) from error
    image.paste(Image.fromarray(np.concatenate(parts, axis=2)))


def _declared_range(image: Image.Image, data: bytes, values: np.ndarray) -> int | None:
    """The largest value that a file of more than 8 bits says it may hold; None where it does not say.

    values: that it holds. PNG's sBIT tells how many bits there were before the values were stretched to 16 bits, or how
    many are used where they were not.
    """
    if image.format == "TIFF":
        tags = cast(Any, image).tag_v2
        largest = tags.get(_LARGEST, 2 ** tags.get(_BITS, (16,))[0] - 1)
        found = int(largest[0] if isinstance(largest, tuple) else largest)
    else:
        place = data.find(b"sBIT", 8, data.find(b"IDAT")) if image.format == "PNG" else -1
        found = 2 ** data[place + 4] - 1 if place > 0 else 0
        found = found if values.max() <= found else 0
    return found if 255 < found < 65535 else None


@contextmanager
def _optional(name: str) -> Iterator[None]:
    """Within the block a decoder that is not installed makes this image unreadable, and no other."""
    try:
        yield
    except MissingPackage as error:
        raise UnreadableImage(name, str(error)) from error


def _open_medical(data: bytes, name: str, most: int | None) -> Image.Image:
    """A DICOM image as it is meant to be seen: by its first window, else from its smallest to its largest value.

    Values are slope times stored plus intercept; a window (c, w) shows c - 0.5 - (w - 1) / 2 as black and
    c - 0.5 + (w - 1) / 2 as white (DICOM PS3.3, C.11.2.1.2.1). Raises UnreadableImage for what is shown in another way.
    """
    with _optional(name):
        pydicom = package("pydicom", "dicom")
    if _DEFLATED in data[:4096]:
        raise UnreadableImage(name, "a deflated DICOM file; save it without compression")
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = pydicom.dcmread(io.BytesIO(data))
        if "PixelData" not in file:
            raise UnreadableImage(name, "a DICOM file without a picture")
        check_size((int(file.Columns), int(file.Rows)), name, most)
        if int(file.get("NumberOfFrames", None) or 1) > 1:
            raise UnreadableImage(name, f"a DICOM file of {file.NumberOfFrames} pictures; save one as a file")
        kind = str(file.PhotometricInterpretation)
        if kind not in ("MONOCHROME1", "MONOCHROME2", "RGB") and not kind.startswith("YBR"):
            raise UnreadableImage(name, f"a DICOM file in {kind}; save it as grey or RGB")
        if str(file.get("VOILUTFunction", "LINEAR")) != "LINEAR":
            raise UnreadableImage(name, f"a DICOM file with a {file.VOILUTFunction} window; save it with a linear one")
        try:
            pixels = file.pixel_array
        except (RuntimeError, NotImplementedError) as error:  # of a compression that needs another package
            raise UnreadableImage(
                name, f"a DICOM file compressed as {file.file_meta.TransferSyntaxUID.name}"
            ) from error
    if pixels.ndim == 2:
        return _windowed(pixels, file, kind == "MONOCHROME1")
    if pixels.dtype != np.uint8:
        raise UnreadableImage(name, "a DICOM file in colour of more than 8 bits; save it with 8")
    return Image.fromarray(pixels)


def _windowed(pixels: np.ndarray, file: Any, inverse: bool) -> Image.Image:
    """Stored values (H, W) -> grey; the largest value is black if `inverse`."""
    values = pixels * float(file.get("RescaleSlope", 1)) + float(file.get("RescaleIntercept", 0))
    known = all(file.get(name) not in (None, "") for name in _WINDOW)
    if known:
        centre, width = (float(np.ravel(file[name].value)[0]) for name in _WINDOW)
        low, high = centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
    else:
        low, high = float(values.min()), float(values.max())
    share = ((values - low) / max(high - low, 1e-9)).clip(0, 1)
    image = Image.fromarray(np.rint(255 * (1 - share if inverse else share)).astype(np.uint8))
    image.info[MEASURED] = not known
    return image


def _tags_of(data: bytes) -> Mapping[int, Any]:
    """The tags of the first image in a TIFF file."""
    tags, stream = TiffImagePlugin.ImageFileDirectory_v2(data[:8]), io.BytesIO(data)
    stream.seek(tags.next)
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tags.load(stream)
    return tags


def _is_wide(tags: Mapping[int, Any]) -> bool:
    """Has a TIFF image more than RGB: over four samples per pixel, or four of which none is transparency or ink?"""
    samples, extra = tags.get(_SAMPLES, 1), tags.get(_EXTRA, (0,))
    alpha = any(one in (1, 2) for one in (extra if isinstance(extra, tuple) else (extra,)))
    return samples > 4 or (samples == 4 and not alpha and tags.get(_KIND) in (1, 2))


def _open_channels(data: bytes, name: str, most: int | None) -> Image.Image:
    """The first three channels of a TIFF image that has more, as RGB, with all of them in `info`."""
    with _optional(name):
        tifffile = package("tifffile", "tiff")
    logging.getLogger("tifffile").addHandler(_QUIET)  # a damaged file is told by our error alone
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        check_size((page.imagewidth, page.imagelength * (1 + page.samplesperpixel // 4)), name, most)
        if int(getattr(page.tags.get(_TURN), "value", 1)) != 1:
            raise UnreadableImage(name, "a turned image of more than three channels; save it upright")
        values, largest = page.asarray(), getattr(page.tags.get(_LARGEST), "value", None)
    if values.shape[-1] != page.samplesperpixel:
        values = np.moveaxis(values, 0, -1)  # (K, H, W) -> (H, W, K)
    if values.ndim != 3 or values.dtype not in (np.uint8, np.uint16, np.float32):
        raise UnreadableImage(name, f"channels of {values.dtype}, not of 8 or 16 bits, or floats from 0 to 1")
    known = {} if largest is None or values.dtype != np.uint16 else {RANGE: float(np.max(largest))}
    try:
        channels = np.ascontiguousarray(to_8_bit(known, values))
    except ValueError as error:
        raise UnreadableImage(name, str(error)) from error
    shown = Image.fromarray(np.ascontiguousarray(channels[..., :3]))
    shown.info[CHANNELS], shown.format = channels, "TIFF"
    return shown
