"""Networks that are not plain ViTs, as frozen or fine-tuned feature extractors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..nn.backbone import Backbone, Preprocess
from ..utils.errors import ConfigError, WeightsError
from ..utils.limits import IMAGE_SIDE


@dataclass(frozen=True)
class ExtractorConfig:
    """What identifies a `FeatureExtractor` apart from its weights."""

    name: str
    features: int
    image_size: int
    preprocess: Preprocess


class FeatureExtractor(Backbone):
    """Any network that pools images to vectors: uint8 or 0..1 float images (B, 3, S, S) -> features (B, E).

    Batch norms always use their stored statistics, in training too: a row's output must not depend on the other rows of
    its batch, and a few images per class are no basis for new statistics.
    """

    def __init__(self, network: nn.Module, config: ExtractorConfig) -> None:
        super().__init__()
        self.network = network
        self.config: ExtractorConfig = config
        self.register_scales()

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.network(self.normalise(images)))

    def train(self, mode: bool = True) -> FeatureExtractor:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def resize(self, image_size: int) -> None:
        """Change the input size. Raises ConfigError when the network only takes another one."""
        network: Any = self.network
        try:
            if hasattr(network, "set_input_size"):
                network.set_input_size(img_size=(image_size, image_size))
            width_of_features(network, image_size)
        except (AssertionError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"{self.config.name} cannot take images of {image_size} pixels ({str(error).partition(chr(10))[0]}); "
                f"use its own size, {self.image_size}"
            ) from error
        self.config = replace(self.config, image_size=image_size)


def extractor(name: str, network: nn.Module, image_size: int, preprocess: Preprocess) -> FeatureExtractor:
    """`network` (its classifier removed) as a FeatureExtractor.

    Raises WeightsError when it gives no vectors, or wants images that are too large to try it.
    """
    if not 0 < image_size <= IMAGE_SIDE:
        raise WeightsError(f"{name} is said to take images of {image_size} pixels; 1 to {IMAGE_SIDE} are possible")
    features = width_of_features(network, image_size)
    if not features:
        raise WeightsError(f"{name} gives no single vector per image; choose a network with global pooling")
    return FeatureExtractor(network, ExtractorConfig(name, features, image_size, preprocess)).eval()


def width_of_features(network: nn.Module, image_size: int) -> int:
    """E when `network` maps one image (1, 3, S, S) to (1, E), else 0; found by trying."""
    network.eval()
    with torch.no_grad():
        out = network(torch.zeros(1, 3, image_size, image_size))
    return out.shape[1] if isinstance(out, Tensor) and out.ndim == 2 else 0
