"""From a name to a frozen backbone."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, cast

from ..nn.backbone import Backbone
from ..nn.vit import Pooling, ViT
from ..utils.errors import ConfigError, UnknownName, WeightsError
from ..utils.limits import CHANNELS, IMAGE_SIDE
from ..utils.optional import MissingPackage
from ..utils.registry import unknown
from .catalog import GENERAL_FORMS, BackboneRow, architecture, backbones, names_elsewhere
from .feature_extractor import FeatureExtractor
from .sources import SOURCES

_log = logging.getLogger(__name__)
FORMS = ", ".join(GENERAL_FORMS)


def load_backbone(name: str, image_size: int | None = None, device: str = "cpu") -> Backbone:
    """The named backbone, frozen and in eval mode: a `ViT`, or a `FeatureExtractor` for other timm networks.

    `name` is a row of `list_backbones()` or one of the general forms timm:NAME, open_clip:ARCH/TAG, hf:REPO, file:PATH
    and random:ARCH[@SEED]. `image_size` (pixels) resamples the position embeddings of a ViT. Raises UnknownName,
    WeightsError when the weights cannot be had or used, and ConfigError for an impossible `image_size` or `device`.
    """
    check_name(name)
    if name in backbones():
        backbone = _load_row(backbones()[name], image_size)
    else:
        scheme, _, rest = name.partition(":")
        backbone = SOURCES[scheme](rest)
        resize(backbone, image_size)
    backbone.requires_grad_(False).eval()
    try:
        return backbone.to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"the backbone cannot be put on device {device!r} ({reason}); use cpu") from error


@SOURCES.register("channels")
def _of_more_channels(rest: str) -> Backbone:
    """channels:K/NAME: the backbone NAME, a ViT, for images of K channels (`inflated`)."""
    count, _, name = rest.partition("/")
    if not (count.isascii() and count.isdigit() and 1 <= int(count) <= CHANNELS) or not name:
        raise ConfigError(f"channels:{rest}: use channels:K/NAME with K from 1 to {CHANNELS}")
    backbone = load_backbone(name)
    if not isinstance(backbone, ViT):
        raise ConfigError(f"channels:{rest}: {name} is no plain vision transformer, and takes RGB alone")
    return inflated(backbone, int(count))


def inflated(vit: ViT, count: int) -> ViT:
    """`vit` for images of K channels: the filters of channel k are those of colour k modulo 3, times 3 / K.

    So an image whose channels are red, green and blue over and over keeps its tokens where K is a multiple of 3. Mean
    and deviation of channel k are those of colour k modulo 3.
    """
    old = vit.config.preprocess
    colours = [k % old.channels for k in range(count)]
    preprocess = replace(old, mean=tuple(old.mean[k] for k in colours), std=tuple(old.std[k] for k in colours))
    wide = ViT(replace(vit.config, channels=count, preprocess=preprocess))
    state = vit.state_dict()
    state["patches.weight"] = state["patches.weight"][:, colours] * (old.channels / count)  # (D, K, P, P)
    wide.load_state_dict(state)
    return wide


def check_name(name: str) -> None:
    """Raises UnknownName when `name` cannot be a backbone; whether its weights can be had shows when it is loaded."""
    scheme, colon, rest = name.partition(":")
    if name in backbones():
        return
    if not colon or scheme not in SOURCES:
        if found := names_elsewhere(name):
            names = " or ".join(found[:3])
            raise UnknownName(f"unknown backbone {name!r}; what is called so elsewhere is {names} here")
        raise unknown("backbone", name, backbones(), f"(vitadapt list backbones shows all; or {FORMS})")
    if scheme == "random" and not rest.startswith("timm/"):
        architecture(rest.partition("@")[0])


def resize(backbone: Backbone, image_size: int | None) -> None:
    """Change the backbone's input size (None: leave it). Raises ConfigError for a size that it cannot take."""
    if image_size is None:
        return
    if image_size > IMAGE_SIDE:
        raise ConfigError(f"image size {image_size} is more than {IMAGE_SIDE} pixels; choose a smaller one")
    if isinstance(backbone, FeatureExtractor):
        backbone.resize(image_size)
    elif isinstance(backbone, ViT):
        patch = backbone.config.patch
        if image_size < patch or image_size % patch:
            near = max(image_size // patch, 1) * patch
            raise ConfigError(
                f"image size {image_size} is not a multiple of the patch size {patch}; use {near} or {near + patch}"
            )
        backbone.resize(image_size)


def _load_row(row: BackboneRow, image_size: int | None) -> Backbone:
    """The first of the row's sources whose package is installed."""
    missing = []
    for source in row.sources:
        scheme, _, rest = source.partition(":")
        try:
            backbone = SOURCES[scheme](rest)
        except MissingPackage as error:
            missing.append(str(error))
            continue
        if not row.permissive:
            _log.warning(f"the weights of {row.name} come under the licence {row.licence}, which restricts their use")
        resize(backbone, image_size or row.image_size)
        if isinstance(backbone, ViT) and row.pooling is not None:
            backbone.config = replace(backbone.config, pooling=cast(Pooling, row.pooling))
        how: dict[str, Any] = {name: getattr(row, name) for name in ("resize", "squash", "interpolation")}
        config: Any = backbone.config
        backbone.config = replace(config, preprocess=replace(backbone.preprocess, **how))
        return backbone
    raise WeightsError(f"{row.name}: {'; or '.join(missing)}")
