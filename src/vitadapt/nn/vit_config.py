"""The configuration of a `ViT`: everything that fixes its shape and its function apart from its weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .backbone import IMAGENET, Preprocess

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu"]
Pooling = Literal["class", "average", "class+average"]


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), the approximation that OpenAI's CLIP was trained with."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": quick_gelu,
    "relu": F.relu,
}


@dataclass(frozen=True)
class ViTConfig:
    """Everything that fixes the shape and the function of a `ViT` apart from its weights."""

    width: int
    depth: int
    heads: int
    patch: int
    image_size: int = 224
    hidden: int = 0  # width of the MLP; 0 means 4 x width
    activation: Activation = "gelu"
    norm_eps: float = 1e-6
    class_token: bool = True
    class_position: bool = True  # does the class token have a position of its own?
    registers: int = 0
    patch_bias: bool = True
    qkv_bias: bool = True
    ln_pre: bool = False
    layer_scale: bool = False
    final_norm: Literal["affine", "plain", "none"] = "affine"  # plain: no weight and bias
    norm_after_pool: bool = False
    pooling: Pooling = "class"
    projection: int = 0  # width of the output projection; 0 means none
    antialias: bool = False  # how the position grid is resampled to another image size
    pooled_blocks: int = 1  # the features of the last so many blocks, each pooled, behind one another
    mirror: bool = False  # features are the mean over the image and its mirror image
    preprocess: Preprocess = IMAGENET

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads", "patch", "image_size", "pooled_blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1: {self}")
        for name, value in (("heads", self.width % self.heads), ("patch", self.image_size % self.patch)):
            if value:
                raise ValueError(f"{name} does not divide: {self}")
        if self.pooled_blocks > self.depth:
            raise ValueError(f"pooled_blocks is larger than depth: {self}")
        if "class" in self.pooling and not self.class_token:
            raise ValueError(f"pooling {self.pooling!r} needs a class token")
        if self.norm_after_pool and self.pooling == "class+average":
            raise ValueError("norm_after_pool does not fit pooling 'class+average': the norm has half its width")

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch

    @property
    def mlp_width(self) -> int:
        return self.hidden or 4 * self.width

    @property
    def prefix(self) -> int:
        """Tokens in front of the patches: the class token and the registers."""
        return int(self.class_token) + self.registers

    @property
    def features(self) -> int:
        """Width E of the output."""
        pooled = 2 * self.width if self.pooling == "class+average" else self.width
        return (self.projection or pooled) * self.pooled_blocks
