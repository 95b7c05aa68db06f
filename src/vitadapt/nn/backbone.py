"""What every network has in common that turns images into vectors: sizes, and the scale that its pixels must have."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn

Interpolation = Literal["bicubic", "bilinear", "nearest", "lanczos", "box", "hamming"]


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes the tensor a backbone was trained on.

    `resize` is the length in pixels of the shorter side after resizing, before the centre crop to the backbone's image
    size, relative to that size: 1.0 as in CLIP, 256/224 as in DeiT. With `squash` both sides get that length.
    `interpolation` is Pillow's filter of that name. `mean` and `std` are per channel in the 0..1 scale.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    resize: float = 1.0
    squash: bool = False
    interpolation: Interpolation = "bicubic"

    @property
    def channels(self) -> int:
        """Of an image: 3 are red, green and blue."""
        return len(self.mean)

    def settings(self) -> dict[str, Any]:
        """The fields as plain values; those that the first files did not have, only at another value than theirs."""
        later = {"squash": False, "interpolation": "bicubic"}
        return {name: value for name, value in asdict(self).items() if value != later.get(name)}


IMAGENET = Preprocess()


class Shape(Protocol):
    """The part of a configuration that any backbone has."""

    @property
    def features(self) -> int: ...
    @property
    def image_size(self) -> int: ...
    @property
    def preprocess(self) -> Preprocess: ...


class Backbone(nn.Module):
    """A network from images (B, 3, S, S), uint8 or floats in 0..1, to features (B, E)."""

    config: Shape

    def register_scales(self) -> None:
        """Mean and deviation of the configuration as buffers; no checkpoint holds them."""
        for name in ("mean", "std"):
            scale = torch.tensor(getattr(self.config.preprocess, name)).view(-1, 1, 1)
            self.register_buffer(name, scale, persistent=False)

    @property
    def features(self) -> int:
        """Width E of the features."""
        return self.config.features

    @property
    def image_size(self) -> int:
        """S, in pixels."""
        return self.config.image_size

    @property
    def preprocess(self) -> Preprocess:
        return self.config.preprocess

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 0..255 or float 0..1 images -> the scale the weights were trained on; same shape, floating point."""
        mean, std = cast(Tensor, self.mean), cast(Tensor, self.std)
        if images.dtype == torch.uint8:
            return (images.to(mean.dtype) - 255 * mean) / (255 * std)
        return (images.to(mean.dtype) - mean) / std


def backbone_digest(module: nn.Module) -> str:
    """blake2b-128 (hex) over the module's `config` and its sorted state dict: names, types, shapes and bytes.

    A field of the configuration counts when it is not at its default, so that a later version of this package may have
    more fields without changing the digest of what exists.
    """
    return digest_of(cast(Any, module).config, module.state_dict())


def digest_of(config: Any, state: Mapping[str, Tensor]) -> str:
    """The same of a configuration and tensors."""
    whole = hashlib.blake2b(json.dumps(_settings(config), sort_keys=True).encode(), digest_size=16)
    for name, tensor in sorted(state.items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        whole.update(memoryview(cast(Any, tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())))
    return whole.hexdigest()


def _settings(config: Any) -> dict[str, Any]:
    plain = asdict(config)
    if hasattr(config, "preprocess"):  # of images; a text tower has none
        plain["preprocess"] = config.preprocess.settings()
    return {f.name: plain[f.name] for f in fields(config) if getattr(config, f.name) != f.default}
