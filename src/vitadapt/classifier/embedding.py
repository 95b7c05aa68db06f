"""Features of images: what a backbone, or the adapted backbone of a model, makes of them before any head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..data import Examples, Geometry, open_dataset, open_pixels
from ..data.examples import ImageRef
from ..data.images import SUFFIXES
from ..nn.backbone import Backbone, backbone_digest
from ..nn.setting import Setting
from ..training.adapter_file import ADAPTER
from ..training.features import cached_backbone, geometry_of
from ..training.loop import forward_all
from ..utils.errors import ConfigError, DataError
from ..utils.files import bytes_digest
from ..utils.progress import Progress
from .batches import BATCH, Batch, batches
from .model import Floats, Model, image_refs, load_model
from .predict import find_images


@dataclass(frozen=True)
class Embedder:
    """A network that makes features of images. name: what it is, for people."""

    network: Backbone
    geometry: Geometry
    setting: Setting
    name: str

    @cached_property
    def digest(self) -> str:
        """Features of equal digests can be compared: names the weights, and how images become squares."""
        return bytes_digest(f"{backbone_digest(self.network)} {self.geometry}".encode())

    def features(self, images: Any) -> Floats:
        """(N, E) features of images in any form that `Model.predict_proba` takes. Raises DataError."""
        refs = image_refs(images, "images")
        found = [self._of_refs(refs[start : start + BATCH]) for start in range(0, len(refs), BATCH)]
        return np.concatenate([np.zeros((0, self.network.features), dtype=np.float32), *found])

    def batches(self, refs: Sequence[ImageRef], progress: Progress | None = None) -> Iterator[Batch]:
        """Features (n, E) of all readable images, in order. Raises DataError at the end when none of them was."""
        unreadable, count = list[str](), 0
        for batch in batches(refs, self._of_refs, "embed", progress):
            unreadable += batch.unreadable[:1]
            count += len(batch.rows)
            yield batch
        if unreadable and not count:
            raise DataError(f"none of the {len(refs)} images can be read; name others. The first: {unreadable[0]}")

    def _of_refs(self, refs: Sequence[ImageRef]) -> Floats:
        examples = Examples(tuple(refs), np.zeros(len(refs), dtype=np.int64))
        pixels = open_pixels(examples, self.geometry, None)
        return cast(Floats, forward_all(self.network, pixels, self.setting, "embed").numpy())


def embedder_of(model: Model) -> Embedder:
    """The adapted backbone of a model."""
    name = model.path.parent.name if model.path.name == ADAPTER else model.path.stem
    return Embedder(model.classifier.backbone, model.geometry, model.setting, name or "model")


def load_embedder(
    backbone: str | None, model: Path | None = None, image_size: int | None = None, device: str = "cpu"
) -> Embedder:
    """The backbone of that name, or the adapted one of the model in the folder `model`, whose backbone it then is.

    Raises ConfigError for neither, or an image size with a model, and what `load_backbone` and `load_model` raise.
    """
    if model is not None:
        if image_size is not None:
            raise ConfigError("a model has its own image size; leave --image-size out, or name a --backbone alone")
        return embedder_of(load_model(model, device, backbone=backbone))
    if backbone is None:
        raise ConfigError("name a backbone or a model")
    network, _ = cached_backbone(backbone, image_size, device)
    return Embedder(network, geometry_of(network), Setting(device), backbone)


def load_images(images: Any, backbone: Backbone | Model | str) -> Tensor:
    """Images -> uint8 (B, 3, S, S), resized and cropped as `backbone` was trained: `backbone(load_images(...))`.

    images: paths, PIL images, uint8 arrays (N, H, W, 3) or tensors (N, 3, H, W), or one of them. backbone: what
    `load_backbone` gave, a `Model`, or the name of a backbone. The backbone itself brings the pixels to the
    scale of its weights. Raises DataError naming what is not an image, and ConfigError for another network.
    """
    if isinstance(backbone, str):
        backbone, _ = cached_backbone(backbone, None, "cpu")
    if isinstance(backbone, Model):
        geometry = backbone.geometry
    elif isinstance(backbone, Backbone):
        geometry = geometry_of(backbone)
    else:
        raise ConfigError(f"load_images wants a backbone of load_backbone, a Model or a name, not {type(backbone)}")
    refs = image_refs(images, "images")
    if not len(refs):
        return torch.zeros(0, 3, geometry.size, geometry.size, dtype=torch.uint8)
    examples = Examples(tuple(refs), np.zeros(len(refs), dtype=np.int64))
    return open_pixels(examples, geometry, None).gather(np.arange(len(refs)))


@dataclass(frozen=True)
class Collection:
    """Images with what is known of them. labels: of each image, joined by |; splits: empty where there are none."""

    refs: Sequence[ImageRef]
    labels: Sequence[str]
    splits: Sequence[str]
    notes: Sequence[str] = field(default_factory=tuple)


def find_collection(places: Sequence[str], root: Path | None = None) -> Collection:
    """The images that `places` name: files and folders of images; or one dataset, as for `open_dataset`, with labels.

    A folder of class folders is a dataset; one in which images lie is not. Raises DataError and UnknownName.
    """
    if len(places) == 1 and not _is_plain(Path(places[0])):
        return _of_dataset(places[0], root)
    refs, notes = find_images([Path(place) for place in places])
    return Collection(refs, [""] * len(refs), [""] * len(refs), notes)


def _is_plain(path: Path) -> bool:
    """Is it an image, or a folder in which images lie, rather than a dataset?"""
    if path.is_dir():
        return any(inner.suffix.lower() in SUFFIXES for inner in path.iterdir() if not inner.name.startswith("."))
    return path.suffix.lower() in SUFFIXES


def _of_dataset(spec: str, root: Path | None) -> Collection:
    complaints: list[DataError] = []
    dataset = open_dataset(spec, root, complaints.append, whole=True)
    refs: list[ImageRef] = []
    labels: list[str] = []
    splits: list[str] = []
    for split, examples in dataset.splits.items():
        refs += examples.refs
        rows = examples.labels if examples.multilabel else np.eye(len(dataset.classes))[examples.labels]
        labels += ["|".join(dataset.classes[c] for c in np.flatnonzero(row)) for row in rows]
        splits += [split if dataset.split != "undivided" else ""] * len(examples)
    return Collection(refs, labels, splits, [*map(str, complaints), *dataset.doubts])
