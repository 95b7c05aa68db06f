"""From a name to a frozen backbone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from ..errors import ConfigError, WeightsError
from ..registry import Registry, unknown
from ..surgery import seeded
from ..vit import ViT, ViTConfig
from .converter import NORMALISATIONS
from .names import Backbone, architecture, backbones
from .offline import load_offline

SOURCES: Registry[Callable[[str], nn.Module]] = Registry("backbone source")
"""Scheme -> loader of everything behind the colon."""


def load_backbone(name: str, image_size: int | None = None, device: str = "cpu") -> nn.Module:
    """The named backbone, frozen and in eval mode.

    `name` is a row of `list_backbones()` or one of the general forms timm:NAME, open_clip:ARCH/TAG, hf:REPO, file:PATH
    and random:ARCH[@SEED]. `image_size` (pixels) resamples the position embeddings of a ViT. Raises UnknownName,
    WeightsError when the weights cannot be had or used, and ConfigError for an impossible `image_size`.
    """
    scheme, colon, rest = name.partition(":")
    if name in backbones():
        backbone = _load_row(backbones()[name])
    elif colon and scheme in SOURCES:
        backbone = SOURCES[scheme](rest)
    else:
        raise unknown(
            "backbone", name, backbones(), "(or timm:NAME, open_clip:ARCH/TAG, hf:REPO, file:PATH, random:ARCH)"
        )
    if image_size is not None:
        resize(backbone, image_size)
    return backbone.requires_grad_(False).eval().to(device)


def resize(backbone: nn.Module, image_size: int) -> None:
    """Change the backbone's input size. Raises ConfigError unless `image_size` is a multiple of the patch size."""
    if isinstance(backbone, ViT):
        patch = backbone.config.patch
        if image_size < patch or image_size % patch:
            near = max(image_size // patch, 1) * patch
            raise ConfigError(
                f"image size {image_size} is not a multiple of the patch size {patch}; use {near} or {near + patch}"
            )
        backbone.resize(image_size)


def _load_row(row: Backbone) -> nn.Module:
    scheme, _, rest = row.source.partition(":")
    backbone = SOURCES[scheme](rest)
    if isinstance(backbone, ViT):
        backbone.resize(row.image_size)
        if row.resize is not None:
            preprocess = replace(backbone.config.preprocess, resize=row.resize)
            backbone.config = replace(backbone.config, preprocess=preprocess)
    return backbone


@SOURCES.register("offline")
def _offline(_: str) -> nn.Module:
    return load_offline()


@SOURCES.register("random")
def _random(rest: str) -> nn.Module:
    """random:ARCH or random:ARCH@SEED: the same name gives the same bytes."""
    name, at, seed = rest.partition("@")
    if at and not seed.isdigit():
        raise WeightsError(f"random:{rest}: the seed behind @ must be a whole number, e.g. random:{name}@7")
    fields = dict(architecture(name))
    preprocess = NORMALISATIONS[fields.pop("normalise", "imagenet")]
    with seeded(int(seed or 0)):
        return ViT(ViTConfig(**fields, preprocess=preprocess))
