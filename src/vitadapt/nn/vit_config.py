"""The configuration of a `ViT`: everything that fixes its shape and its function apart from its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .backbone import IMAGENET, Preprocess
from .rotary import Rotary

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"]
Pooling = Literal["class", "average", "class+average", "attention"]
Resampling = Literal["bicubic", "bilinear", "crop"]


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), the approximation that OpenAI's CLIP was trained with."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": quick_gelu,
    "relu": F.relu,
    "silu": F.silu,
}


PARTS = (
    *("positions", "rotary", "norm", "patch_norm", "qk_norm", "attention_norm", "mlp_norm", "gated", "linear_bias"),
    *("class_tokens", "pool_heads", "resampling", "position_grid", "projection_bias", "channels", "relative_grid"),
)
"""Fields of `ViTConfig` that make another network than a plain ViT."""


@dataclass(frozen=True)
class BlockConfig:
    """What fixes the shape and the function of the blocks of a transformer, of images or of text."""

    width: int
    depth: int
    heads: int
    _: KW_ONLY
    hidden: int = 0  # width of the MLP; 0 means 4 x width
    activation: Activation = "gelu"
    norm_eps: float = 1e-6
    norm: Literal["layer", "rms"] = "layer"
    qkv_bias: bool = True
    linear_bias: bool = True  # have the slots o, gate, fc1 and fc2 biases?
    layer_scale: bool = False
    rotary: Rotary | None = None  # queries and keys of patches are turned by angles of their places
    qk_norm: bool = False  # norms of the queries and of the keys of every head
    attention_norm: bool = False  # a norm in front of the output layer of the attention
    mlp_norm: bool = False  # a norm in front of the output layer of the MLP
    gated: bool = False  # the MLP multiplies its hidden units by an activated gate
    relative_grid: int = 0  # places along one side of the tables of relative positions; 0 means none
    causal: bool = False  # a token sees those before it and itself alone

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1: {self}")
        if self.width % self.heads:
            raise ValueError(f"heads does not divide: {self}")

    @property
    def mlp_width(self) -> int:
        return self.hidden or 4 * self.width


@dataclass(frozen=True)
class ViTConfig(BlockConfig):
    """Everything that fixes the shape and the function of a `ViT` apart from its weights."""

    patch: int
    image_size: int = 224
    class_token: bool = True
    class_position: bool = True  # does the class token have a position of its own?
    registers: int = 0
    patch_bias: bool = True
    ln_pre: bool = False
    final_norm: Literal["affine", "plain", "none"] = "affine"  # plain: no weight and bias
    norm_after_pool: bool = False
    pooling: Pooling = "class"
    projection: int = 0  # width of the output projection; 0 means none
    projection_bias: bool = False
    antialias: bool = False  # how the position grid is resampled to another image size
    resampling: Resampling = "bicubic"  # crop: bilinear to a square, of which an oblong image takes the upper left
    positions: bool = True  # is there a learnt vector for every place?
    position_grid: int = 0  # places along one side of their table; 0 means as many as patches
    class_tokens: int = 1  # how many of the first tokens pooling "class" reads, one behind another
    patch_norm: bool = False  # a norm behind the patch embedding, before the positions
    pool_heads: int = 0  # heads of the pooling by attention
    pool_hidden: int = 0  # width of its MLP; 0 means 4 x width
    channels: int = 3
    pooled_blocks: int = 1  # the features of the last so many blocks, each pooled, behind one another
    mirror: bool = False  # features are the mean over the image and its mirror image
    preprocess: Preprocess = IMAGENET

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("patch", "image_size", "pooled_blocks", "class_tokens", "channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1: {self}")
        if self.image_size % self.patch:
            raise ValueError(f"patch does not divide: {self}")
        for holds, otherwise in self._conditions():
            if not holds:
                raise ValueError(f"{otherwise}: {self}")

    def _conditions(self) -> Iterator[tuple[bool, str]]:
        """What must hold, and what is wrong otherwise."""
        pooling = self.pooling
        yield self.pooled_blocks <= self.depth, "pooled_blocks is larger than depth"
        yield "class" not in pooling or self.class_token, f"pooling {pooling!r} needs a class token"
        yield (
            not self.norm_after_pool or pooling != "class+average",
            "norm_after_pool does not fit pooling 'class+average': the norm has half its width",
        )
        has_heads = self.pool_heads > 0 and self.width % self.pool_heads == 0
        right = has_heads if pooling == "attention" else not self.pool_heads
        yield right, "pooling 'attention', and no other, needs pool_heads that divide the width"
        most = self.prefix if pooling == "class" else 1
        yield self.class_tokens <= most, f"class_tokens is more than the {most} that pooling {pooling!r} can read"
        fits = self.rotary is None or self.width // self.heads % 4 == 0
        yield fits, "rotary positions need heads of a width that 4 divides"
        single = self.class_token and not self.registers and self.rotary is None
        yield not self.relative_grid or single, "relative positions need one class token and no rotary positions"
        scales = (len(self.preprocess.mean), len(self.preprocess.std))
        yield scales == (self.channels,) * 2, f"no mean and std for each of the {self.channels} channels in preprocess"

    @property
    def parts(self) -> list[str]:
        """Those of `PARTS` that this network has."""
        return [name for name in PARTS if getattr(self, name) != getattr(ViTConfig, name)]

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch

    @property
    def table_grid(self) -> int:
        """Places along one side of the table of positions."""
        return self.position_grid or self.grid

    @property
    def prefix(self) -> int:
        """Tokens in front of the patches: the class token and the registers."""
        return int(self.class_token) + self.registers

    @property
    def features(self) -> int:
        """Width E of the output."""
        return (self.projection or self.pooled_width) * self.pooled_blocks

    @property
    def pooled_width(self) -> int:
        """Width of what the tokens are pooled to, before the projection."""
        return self.width * (2 if self.pooling == "class+average" else self.class_tokens)
