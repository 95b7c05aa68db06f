"""Which classifiers a fit compares, each with the image size that suits it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch

from ..data.sampling.folds import FOLDS
from ..methods import Discriminant, KAdaptation, LinearProbe, ZeroShot
from ..methods.spec import method_text
from ..nn.backbone import Backbone
from ..nn.head_spec import HeadSpec
from ..nn.surgery import Method, adapt, trainable, unchanged_blocks
from ..nn.vit import ViT
from ..text import Prompts
from ..training.config import TrainConfig
from ..training.features import cached_backbone
from ..training.recipe import Recipe, recipe_for
from ..training.views import JITTER, VERSIONS
from ..utils.errors import ConfigError
from .effort import Effort

PASSES = 900  # images times epochs
LEAST_EPOCHS, MOST_EPOCHS = 5, 30
LARGE = 224  # pixels; from this image size on, a CPU uses half of it where all blocks are trained


@dataclass(frozen=True)
class FitConfig:
    """What is to be fitted; nothing else changes the numbers.

    method: compared with simpler ones; None for what the effort prescribes. image_size: None for `usual_size`.
    keep_holdout: the model is not trained on the images that it is measured with. effort: how much is tried.
    time_limit: seconds after which no further training is begun. separator: between the labels in a cell of a CSV file.
    prior: as for `read_prior`; None leaves what is learnt. recipe: instead of the usual one of the method and of the
    number of images; changes: to the fields of this recipe.
    """

    data: str
    backbone: str = "dinov2-s14-offline"
    method: Method | None = None
    image_size: int | None = None
    folds: int = FOLDS
    seed: int = 0
    recipe: Recipe | None = None
    head: HeadSpec | None = None
    prompts: Prompts | None = None
    precision: str = "fp32"
    licence: str = ""
    keep_holdout: bool = False
    effort: Effort = "default"
    time_limit: float | None = None
    separator: str | None = None
    prior: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)

    def train_config(self, method: Method) -> TrainConfig:
        """The configuration of the candidate with `method`. Raises ConfigError."""
        return TrainConfig.of(
            self.backbone,
            method,
            recipe=self.recipe,
            head=self.head,
            prompts=self.prompts,
            seed=self.seed,
            image_size=self.image_size,
            precision=cast(Any, self.precision),
            dataset=self.data,
        )


def asked_config(config: FitConfig, device: str) -> TrainConfig:
    """The configuration with the method that was asked for, or the one with most work that the effort prescribes."""
    backbone, _ = cached_backbone(config.backbone, config.image_size, device)
    return config.train_config(_methods(config, backbone)[-1])


def _methods(config: FitConfig, backbone: Backbone) -> list[Method]:
    """What is compared with the simple classifiers."""
    if config.method is not None:
        return [config.method]
    if config.effort == "quick" or not isinstance(backbone, ViT):
        return [LinearProbe()]
    last = KAdaptation(blocks=f"last:{max(1, backbone.config.depth // 3)}")  # see `training.views` for what it saves
    return [last, KAdaptation()] if config.effort == "best" else [last]


def recipe_of_last_blocks(method: Method, images: int) -> Recipe:
    """The recipe for a method that leaves the first half of the blocks as they are; images: to train on."""
    epochs = min(MOST_EPOCHS, max(LEAST_EPOCHS, PASSES // max(images, 1)))
    return replace(recipe_for("fixed", method), epochs=epochs, jitter=JITTER, flip=True, views=VERSIONS)


def usual_size(backbone: Backbone, device: str, first: int = 0) -> int:
    """The backbone's own image size for a training from block `first` on.

    On a CPU it is half of a large one where more than half of the blocks are trained: four times as fast, a little less
    sharp.
    """
    size: int = backbone.image_size
    if torch.device(device).type != "cpu" or size < LARGE or not isinstance(backbone, ViT):
        return size
    if 2 * first >= backbone.config.depth:
        return size
    patch = backbone.config.patch
    return size // 2 // patch * patch


def candidate_configs(
    config: FitConfig, device: str, images: int, text: bool, several: bool = False
) -> dict[str, TrainConfig]:
    """Name and configuration of every candidate, the simplest first.

    images: how many there are to train on. text: is there a tower for the class names? several: may an image have
    several labels? Raises ConfigError when the method that was asked for gives one.
    """
    if several and config.method is not None and not config.method.several_labels:
        raise ConfigError(f"{method_text(config.method)} gives one label per image; use linear-probe for several")
    plain, _ = cached_backbone(config.backbone, config.image_size, device)
    full = config.image_size or plain.image_size
    found: list[TrainConfig] = []
    for method in _methods(config, plain):
        asked = config.train_config(method)
        adapted = adapt(plain, method)
        first, own = unchanged_blocks(adapted) or 0, bool(trainable(adapted))
        if not found:
            found += _simple(asked, text, discriminant=own or config.method is None)
        if not (method.trains_head or not text):
            continue
        if own and 2 * first >= _depth(plain) and config.recipe is None:
            asked = replace(asked, recipe=recipe_of_last_blocks(method, images))
        asked = replace(asked, recipe=replace(asked.recipe, **config.changes))
        size = usual_size(plain, device, first) if own and config.image_size is None else full
        found.append(replace(asked, image_size=size))
    named: dict[str, TrainConfig] = {}
    for one in found:
        if several and not one.method.several_labels:
            continue
        one = replace(one, image_size=one.image_size or full)
        name = method_text(one.method) + ("" if one.image_size == full else f" at {one.image_size} px")
        named.setdefault(name, one)
    return named


def _depth(backbone: Backbone) -> int:
    return backbone.config.depth if isinstance(backbone, ViT) else 1


def _simple(asked: TrainConfig, text: bool, discriminant: bool) -> list[TrainConfig]:
    """Zero-shot, the discriminant and the linear probe, as far as they are other things than what was asked for."""
    found = [asked.with_method(ZeroShot())] if text else []
    if discriminant:
        found.append(asked.with_method(Discriminant()))
    if asked.method != LinearProbe() and asked.method.trains_head:
        found.append(asked.with_method(LinearProbe(), asked.head if asked.head.start != "text" else None))
    return found
