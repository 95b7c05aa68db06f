"""Small pictures inside a page."""

from __future__ import annotations

import base64
import io

from PIL import Image

from ..data.examples import ImageRef
from ..data.images import to_rgb, upright
from ..utils.errors import DataError

THUMBNAIL = 160  # pixels of the longer side


def thumbnail(ref: ImageRef) -> str:
    """A small picture as a data URI; empty when it can no longer be read."""
    try:
        image = to_rgb(upright(ref.read()))
    except (DataError, ValueError):
        return ""  # the page is about answers that were given; the picture may be gone by now
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
