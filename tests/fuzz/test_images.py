"""Every odd image has a stated outcome: this table, which docs/input.md shows, is tested line by line."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_cases import DATA, chunk, deep_png
from picture_cases import tiff as deep_tiff
from pictures import image_seeds, moving, picture, saved
from PIL import Image

from vitadapt.data.checks.images import scan
from vitadapt.data.examples import FileRef
from vitadapt.data.images import Geometry, UnreadableImage, to_pixels
from vitadapt.utils.errors import printable
from vitadapt.utils.limits import IMAGE_FILE

DOCUMENT = Path(__file__).parents[2] / "docs" / "input.md"
DEEP = np.arange(16 * 16 * 3, dtype=np.uint16).reshape(16, 16, 3) * 5
BOMB = (25_000, 20_000)  # 500 megapixels


def png(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")


def gif(width: int, height: int) -> bytes:
    sides = struct.pack("<HH", width, height)
    return b"GIF89a" + sides + b"\x80\0\0" + bytes(6) + b"," + bytes(4) + sides + b"\0\x02\x02D\x01\0;"


def jpeg(width: int, height: int) -> bytes:
    data = saved(picture(), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def tiff(width: int, height: int) -> bytes:
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 122), (277, 3, 1)]
    tags += [(278, 4, height), (279, 4, width * height)]
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + body + bytes(16)


def webp(kind: bytes, width: int, height: int) -> bytes:
    if kind == b"VP8X":
        body = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    else:
        body = b"\x2f" + (width - 1 | (height - 1) << 14).to_bytes(4, "little") + bytes(20)
    inside = b"WEBP" + kind + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", len(inside)) + inside


def with_broken_exif() -> bytes:
    data = saved(picture(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xffrubbish")
    return data


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(picture(), "JPEG", exif=exif)


TOO_MANY = "more than|at most"  # Pillow's own limit or ours, which is the same
Case = tuple[Callable[[], bytes], str]  # the file; what the refusal says, or nothing when it is read
CASES: dict[str, Case] = {
    "no bytes": (lambda: b"", "empty file"),
    "0 x 0 pixels (PNG)": (lambda: png(0, 0), "nothing to see|damaged|known format"),
    "0 x 0 pixels (GIF)": (lambda: gif(0, 0), "nothing to see|damaged|known format"),
    "1 x 1": (lambda: saved(picture(size=(1, 1)), "PNG"), ""),
    "1 x 10000": (lambda: saved(picture(size=(1, 10000)), "PNG"), ""),
    "10000 x 1": (lambda: saved(picture(size=(10000, 1)), "PNG"), ""),
    "16-bit grey": (lambda: image_seeds()["grey16.png"], ""),
    "16-bit grey TIFF": (lambda: image_seeds()["grey16.tif"], ""),
    "16-bit RGB": (lambda: deep_png(DEEP), ""),
    "16-bit RGB TIFF": (lambda: deep_tiff(DEEP, photometric="rgb"), ""),
    "1 bit": (lambda: image_seeds()["bit.png"], ""),
    "palette with transparency": (lambda: image_seeds()["palette.png"], ""),
    "grey with alpha (LA)": (lambda: image_seeds()["alpha.png"], ""),
    "CMYK": (lambda: image_seeds()["cmyk.jpg"], ""),
    "YCbCr TIFF": (lambda: image_seeds()["ycbcr.tif"], ""),
    "LAB TIFF": (lambda: saved(Image.new("LAB", (4, 4)), "TIFF"), ""),
    "float TIFF in 0..1": (lambda: image_seeds()["float.tif"], ""),
    "float TIFF beyond 0..1": (lambda: saved(Image.new("F", (4, 4), 7.5), "TIFF"), "grey values outside 0..1"),
    "float TIFF with NaN": (lambda: saved(Image.new("F", (4, 4), float("nan")), "TIFF"), "grey values outside 0..1"),
    "animated GIF": (lambda: moving("GIF"), ""),
    "animated PNG": (lambda: moving("PNG"), ""),
    "animated WebP": (lambda: moving("WEBP"), ""),
    "TIFF of several pages": (lambda: moving("TIFF"), ""),
    **{f"turned by EXIF ({n} of 8)": (lambda n=n: turned(n), "") for n in range(1, 9)},
    "broken EXIF": (with_broken_exif, ""),
    "ICC profile": (lambda: image_seeds()["rgb.jpg"], ""),
    "broken ICC profile": (lambda: saved(picture(), "PNG", icc_profile=b"rubbish"), ""),
    "wrong suffix": (lambda: image_seeds()["rgb.bmp"], ""),
    "truncated PNG": (lambda: image_seeds()["rgb.png"][:-200], "truncated|damaged"),
    "truncated JPEG": (lambda: image_seeds()["steps.jpg"][:400], "truncated|damaged"),
    "SVG": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image of a known format"),
    "HEIC": (lambda: DATA["heic"], ""),
    "broken HEIC": (lambda: struct.pack(">I", 24) + b"ftypheic" + bytes(12), "not an image of a known format"),
    "DICOM": (lambda: DATA["dcm"], ""),
    "TIFF of five channels": (lambda: DATA["tif"], ""),
    "broken DICOM": (lambda: DATA["dcm"][:-9], "truncated|damaged"),
    "EPS": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
    "text": (lambda: b"hello, this is no image", "not an image of a known format"),
    "500 megapixels in a PNG header": (lambda: png(*BOMB), TOO_MANY),
    "4 gigapixels in a GIF header": (lambda: gif(65_000, 65_000), "more than|at most"),
    "500 megapixels in a TIFF header": (lambda: tiff(*BOMB), "more than|at most"),
    "500 megapixels in a JPEG header": (lambda: jpeg(*BOMB), "more than|at most"),
    "500 megapixels in a WebP header": (lambda: webp(b"VP8X", *BOMB), TOO_MANY),
    "268 megapixels in a lossless WebP header": (lambda: webp(b"VP8L", 16_384, 16_384), TOO_MANY),
}


def outcome(path: Path) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return to_pixels(FileRef(path).read(), Geometry(16), str(path))


@pytest.mark.parametrize("kind", CASES)
def test_every_odd_image_has_its_stated_outcome(kind: str, tmp_path: Path) -> None:
    make, refusal = CASES[kind]
    path = tmp_path / "x.png"
    path.write_bytes(make())
    (seen,) = scan([FileRef(path)]).checks  # what the doctor says never stops it
    if not refusal:
        assert outcome(path).shape == (3, 16, 16) and seen.pixels
        return
    with pytest.raises(UnreadableImage, match=refusal) as caught:
        outcome(path)
    text = str(caught.value)
    assert str(path) in text and text == printable(text) and "\n" not in text and "remove or re-save" in text
    assert not seen.pixels and seen.reason


@pytest.mark.parametrize("kind", CASES)
def test_the_document_lists_every_odd_image(kind: str) -> None:
    words = kind if "EXIF (" not in kind else "turned by EXIF (all 8)"
    refused = bool(CASES[kind][1])
    line = next((line for line in DOCUMENT.read_text("utf-8").splitlines() if line.startswith(f"| {words} |")), None)
    assert line is not None, f"docs/input.md says nothing of {words!r}"
    assert ("refused" in line) == refused


def test_the_limits_hold_whatever_pillow_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    (tmp_path / "x.png").write_bytes(png(*BOMB))
    with pytest.raises(UnreadableImage, match=TOO_MANY):
        FileRef(tmp_path / "x.png").read()
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(IMAGE_FILE + 1)
    with pytest.raises(UnreadableImage, match=r"larger than 256 mib"):
        FileRef(tmp_path / "large.png").digest()


def test_what_is_no_file_never_keeps_a_reader_waiting(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.png")
    for place in (tmp_path / "pipe.png", "/dev/zero", tmp_path, "a\0b", "x" * 5000):
        with pytest.raises(UnreadableImage):
            FileRef(place).read()


def test_an_image_object_without_pixels_is_refused() -> None:
    from vitadapt.data.examples import ImageObjectRef

    empty: Any = Image.new("RGB", (0, 0))
    with pytest.raises(UnreadableImage, match="nothing to see"):
        ImageObjectRef(empty, "x").read()
