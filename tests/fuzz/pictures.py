"""Small images of every format and of every kind of pixels that a decoder treats in its own way."""

from __future__ import annotations

import io
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
from picture_cases import DATA, deep_png, dicom, tiff
from PIL import Image


def picture(mode: str = "RGB", size: tuple[int, int] = (19, 13)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    if mode == "F":
        return Image.fromarray(pixels[..., 0].astype(np.float32) / 255)
    if mode == "P":
        return image.quantize(16)
    return image.convert(mode)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def moving(kind: str) -> bytes:
    """Three frames, or pages."""
    frames = [picture(size=(9, 7)), picture("L", (9, 7)).convert("RGB"), picture(size=(9, 7))]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:])


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "scene"
    return exif


def _icc() -> bytes:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@cache
def image_seeds() -> dict[str, bytes]:
    """File name -> bytes of every format, and of every kind of pixels that its decoder treats in its own way."""
    seeds = {
        "rgb.png": saved(picture(), "PNG", exif=_exif(), icc_profile=_icc()),
        "grey16.png": saved(picture("I;16"), "PNG"),
        "bit.png": saved(picture("1"), "PNG"),
        "palette.png": saved(picture("P"), "PNG", transparency=0),
        "alpha.png": saved(picture("LA"), "PNG"),
        "moving.png": moving("PNG"),
        "rgb.jpg": saved(picture(), "JPEG", exif=_exif(), icc_profile=_icc()),
        "steps.jpg": saved(picture(), "JPEG", progressive=True),
        "cmyk.jpg": saved(picture("CMYK"), "JPEG"),
        "two.mpo": moving("MPO"),
        "rgb.webp": saved(picture(), "WEBP", exif=_exif()),
        "exact.webp": saved(picture("RGBA"), "WEBP", lossless=True),
        "moving.webp": moving("WEBP"),
        "moving.gif": moving("GIF"),
        "rgb.bmp": saved(picture(), "BMP"),
        "palette.bmp": saved(picture("P"), "BMP"),
        "rgb.tif": saved(picture(), "TIFF", exif=_exif()),
        "float.tif": saved(picture("F"), "TIFF"),
        "ycbcr.tif": saved(picture("YCbCr"), "TIFF"),
        "lzw.tif": saved(picture(), "TIFF", compression="tiff_lzw"),
        "jpeg.tif": saved(picture(), "TIFF", compression="jpeg"),
        "fax.tif": saved(picture("1"), "TIFF", compression="group4"),
        "pages.tif": moving("TIFF"),
        "grey16.tif": saved(picture("I;16"), "TIFF"),
        "rgb.ppm": saved(picture(), "PPM"),
        "plain.pgm": b"P2\n# remark\n3 2\n255\n1 2 3\n4 5 6\n",
        "bit.pbm": saved(picture("1"), "PPM"),
        "rgb.jp2": saved(picture(), "JPEG2000"),
    }
    with suppress(KeyError, OSError):  # a Pillow without it
        seeds["rgb.avif"] = saved(picture(), "AVIF", exif=_exif())
    deep = np.arange(6 * 5 * 3, dtype=np.uint16).reshape(6, 5, 3) * 700
    seeds |= {
        "deep.png": deep_png(deep),
        "deep.tif": tiff(deep, photometric="rgb"),
        "five.tif": tiff(np.zeros((4, 4, 5), dtype=np.uint8)),
        "lab.tif": saved(picture("LAB"), "TIFF"),
        "a.heic": DATA["heic"],
        "a.dcm": dicom(deep[..., 0]),
        "colour.dcm": dicom(deep.astype(np.uint8)),
    }
    return seeds
