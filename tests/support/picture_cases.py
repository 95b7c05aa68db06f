"""Small pictures in formats that Pillow alone does not write: of telephones, medical ones, colours of 16 bits."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def heic(image: Image.Image) -> bytes:
    import pillow_heif

    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, format="HEIF", quality=-1)
    return buffer.getvalue()


def dicom(pixels: np.ndarray, **fields: Any) -> bytes:
    """A DICOM file of stored values (H, W) or (H, W, 3); fields: further elements, or others than the usual ones."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
        SecondaryCaptureImageStorage,
        generate_uid(entropy_srcs=["a picture"]),
    )
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    bits = 8 * pixels.dtype.itemsize
    file = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    usual = {"Rows": pixels.shape[0], "Columns": pixels.shape[1], "BitsAllocated": bits, "BitsStored": bits}
    usual |= {"HighBit": bits - 1, "PixelRepresentation": int(pixels.dtype.kind == "i")}
    usual |= {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"}
    if pixels.ndim == 3:
        usual |= {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    for name, value in {**usual, "PixelData": pixels.tobytes(), **fields}.items():
        setattr(file, name, value)
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def tiff(channels: np.ndarray, **options: Any) -> bytes:
    """A TIFF file of channels (H, W, K)."""
    import tifffile

    buffer = io.BytesIO()
    tifffile.imwrite(buffer, channels, **{"photometric": "minisblack", "planarconfig": "contig"} | options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    """A part of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def deep_png(values: np.ndarray, *more: bytes) -> bytes:
    """A PNG file of uint16 values (H, W, 3 or 4), with more chunks before them."""
    high, wide, channels = values.shape
    header = struct.pack(">IIBBBBB", wide, high, 16, 2 if channels == 3 else 6, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = (chunk(b"IHDR", header), *more, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


DATA = {
    "tif": tiff(np.zeros((4, 4, 5), dtype=np.uint8)),
    "heic": heic(Image.new("RGB", (16, 16), (200, 30, 60))),
    "dcm": dicom(np.zeros((4, 4), dtype=np.uint16)),
}
