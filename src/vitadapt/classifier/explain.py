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
from torch import Tensor

from ..data.examples import FileRef
from ..data.images import Geometry, to_pixels
from ..nn.attribution import explain, side_by_side
from ..training.loop import TensorInputs, forward_all
from ..utils.files import write_atomic
from ..utils.registry import unknown
from .model import Model, probabilities_of


@dataclass(frozen=True)
class Explanation:
    """What the model says of the picture, and the class whose heat was drawn; None where the kind knows no class."""

    answer: str
    probability: float
    explained: str | None
    explained_probability: float


def explain_file(
    model: Model, image: Path, out: Path, kind: str = "gradient", name: str | None = None, side: int = 448
) -> Explanation:
    """Write the heat map of `image` to `out`: halves of at least `side` pixels.

    Raises DataError for what is no image, UnknownName for a class or a kind that does not exist, NotApplicable for
    attention of a network that has none, StorageError when `out` cannot be written.
    """
    class_index(model, name)  # before anything is decoded
    ref = FileRef(image)
    picture = ref.read()
    pixels = to_pixels(picture, model.geometry, ref.name)
    found, heat = explain_pixels(model, torch.from_numpy(pixels), kind, name)
    seen = visible_part(picture, model.geometry, ref.name, side)
    write_atomic(out, heat_map_png(side_by_side(seen, heat), found, kind))
    return found


def class_index(model: Model, name: str | None) -> int | None:
    """The number of the class called `name`; None for none. Raises UnknownName."""
    if name is not None and name not in model.classes:
        raise unknown("class", name, model.classes)
    return None if name is None else model.classes.index(name)


def explain_pixels(
    model: Model, pixels: Tensor, kind: str = "gradient", name: str | None = None
) -> tuple[Explanation, Tensor]:
    """What the model says of a square (3, S, S), and the heat (h, w) of a class; raises as `explain_file`."""
    target, images = class_index(model, name), pixels[None]
    probabilities = probabilities_of(
        forward_all(model.classifier, TensorInputs(images), model.setting, "predict"), model.info
    )[0]
    best = int(probabilities.argmax())
    target = best if target is None else target
    heat = explain(model.classifier, images, kind, target)[0]
    wanted = None if kind == "rollout" else model.classes[target]
    return Explanation(model.classes[best], float(probabilities[best]), wanted, float(probabilities[target])), heat


def visible_part(picture: Image.Image, geometry: Geometry, name: str, side: int) -> Image.Image:
    """The part of the picture that the model sees, finely enough to be looked at. Raises UnreadableImage."""
    fine = replace(geometry, size=geometry.size * math.ceil(side / geometry.size), channels=3)
    return Image.fromarray(np.ascontiguousarray(to_pixels(picture, fine, name).transpose(1, 2, 0)))


def heat_map_png(picture: Image.Image, found: Explanation, kind: str) -> bytes:
    """The drawn heat as a PNG that says what it is."""
    about = PngInfo()
    about.add_itxt("Description", f"{kind} heat map for {found.explained or 'all classes'}; answer {found.answer}")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=about, optimize=True)
    return buffer.getvalue()
