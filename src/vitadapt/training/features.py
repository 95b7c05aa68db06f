"""Backbones, decoded images and frozen features: what trainings share, computed once and cached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data import Examples, Geometry, open_pixels
from ..data.pixels.pixels import Pixels
from ..nn.backbone import Backbone, backbone_digest
from ..nn.setting import Setting
from ..utils.array_file import ArrayFile
from ..utils.files import storage_error
from ..utils.locks import locked
from ..weights import load_backbone
from .loop import BATCH, forward_all, forward_batches


@dataclass(frozen=True)
class Environment:
    """Where a run happens: nothing here changes its numbers. `cache` None decodes images anew each time.

    `subset` is the file of the manifest whose digest a configuration names.
    """

    cache: Path | None = None
    data_root: Path | None = None
    setting: Setting = field(default_factory=Setting)
    subset: Path | None = None


@lru_cache(maxsize=2)
def cached_backbone(name: str, image_size: int | None, device: str) -> tuple[Backbone, str]:
    """A frozen backbone and its digest; the last two stay in memory, and nothing ever writes into them."""
    backbone = load_backbone(name, image_size=image_size, device=device)
    return backbone, backbone_digest(backbone)


def pixels_of(examples: Examples, backbone: Backbone, environment: Environment, squash: bool = False) -> Pixels:
    """The images as `backbone` wants them, decoded once per cache. squash: not cropped but squeezed to a square."""
    geometry = geometry_of(backbone, squash)
    return open_pixels(examples, geometry, environment.cache, environment.setting.progress)


def geometry_of(backbone: Backbone, squash: bool = False) -> Geometry:
    """How images become the squares that `backbone` wants. squash: nothing is cropped, whatever it wants."""
    how, size = backbone.preprocess, backbone.image_size
    return Geometry(size, 1.0 if squash else how.resize, squash or how.squash, how.channels, how.interpolation)


def frozen_features(backbone: Backbone, base: str, images: Pixels, environment: Environment, label: str) -> Tensor:
    """Features (N, E) of the unadapted backbone in fp32, computed once per (weights, images) with a cache.

    With a cache they are written batch by batch, and mapped: a run that was killed goes on where it was.
    """
    setting = replace(environment.setting, precision="fp32")
    if not len(images):
        return torch.zeros(0, backbone.features)
    if environment.cache is None:
        return forward_all(backbone, images, setting, label)
    path = environment.cache / "features" / f"{base}-{images.key}.features"
    lock = path.with_suffix(".lock")  # several workers may ask at once: one computes, the others wait

    def make(starts: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        batches = forward_batches(backbone, images, setting, label, starts)
        return ((start, rows.numpy()) for start, rows in zip(starts, batches, strict=True))

    file = ArrayFile(path, (len(images), backbone.features), np.float32, BATCH)
    with locked(lock, path.parent, "as a cache", "--cache"):
        try:
            return torch.from_numpy(file.open_or_build(make))
        except OSError as error:
            raise storage_error(path, error) from error
