"""One picture explained: from a model and an image file to a PNG."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .data.examples import FileRef
from .data.images import to_pixels
from .data.pixels import decode
from .explain import explain, side_by_side
from .files import write_atomic
from .own.model import Model
from .registry import unknown


@dataclass(frozen=True)
class Explained:
    """What the model says of the picture, and the class whose heat was drawn; None where the kind knows no class."""

    answer: str
    probability: float
    explained: str | None
    explained_probability: float


def explain_file(
    model: Model, image: Path, out: Path, kind: str = "gradient", name: str | None = None, side: int = 448
) -> Explained:
    """Write the heat map of `image` to `out`: halves of at least `side` pixels.

    Raises DataError for what is no image, UnknownName for a class or a kind that does not exist, NotApplicable for
    attention of a network that has none, StorageError when `out` cannot be written.
    """
    if name is not None and name not in model.classes:
        raise unknown("class", name, model.classes)
    ref = FileRef(image)
    pixels = torch.from_numpy(decode(ref, model.geometry))[None]  # (1, 3, S, S)
    probabilities = model.predict_refs([ref])[0]
    target = int(probabilities.argmax()) if name is None else model.classes.index(name)
    heat = explain(model.classifier, pixels, kind, target)[0]
    best = int(probabilities.argmax())
    wanted = None if kind == "rollout" else model.classes[target]
    found = Explained(model.classes[best], float(probabilities[best]), wanted, float(probabilities[target]))
    write_atomic(out, _png(side_by_side(_seen(model, ref, side), heat), found, kind))
    return found


def _seen(model: Model, ref: FileRef, side: int) -> Image.Image:
    """The part of the picture that the model sees, finely enough to be looked at."""
    size = model.info.image_size
    geometry = replace(model.geometry, size=size * math.ceil(side / size))
    return Image.fromarray(np.ascontiguousarray(to_pixels(ref.read(), geometry, ref.name).transpose(1, 2, 0)))


def _png(picture: Image.Image, found: Explained, kind: str) -> bytes:
    about = PngInfo()
    about.add_itxt("Description", f"{kind} heat map for {found.explained or 'all classes'}; answer {found.answer}")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=about, optimize=True)
    return buffer.getvalue()
