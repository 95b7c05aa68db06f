"""The canonical vision transformer: one plain, fast module into which every supported checkpoint is converted.

Notable choices:
- pre-norm blocks, one fused qkv matrix, `scaled_dot_product_attention`;
- every linear layer is a `SlotLinear`: its output rows have names (q, k, v, o, fc1, fc2) and a *delta* can be
  added to any of them, so that no adaptation method ever needs to know that q, k and v are packed;
- each block has *places* where a module can be inserted, behind and beside its attention and its MLP; tokens can be
  added to one block or to all;
- images come in as uint8 or as floats in 0..1 and are normalised here, on the device of the weights.

Shapes are written in one alphabet: B images, N tokens, D width, P patch size, h x w patch grid, E features.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .backbone import Backbone
from .backbone import Preprocess as Preprocess
from .block import Block, append_tokens, norm_of
from .deltas import value_of
from .pooling import Attend, AttentionPooling
from .relative import Places, resample_table
from .rotary import Rotary as Rotary
from .transformer import Transformer
from .vit_config import ACTIVATIONS as ACTIVATIONS
from .vit_config import Activation as Activation
from .vit_config import Pooling as Pooling
from .vit_config import Resampling as Resampling
from .vit_config import ViTConfig as ViTConfig
from .vit_config import quick_gelu as quick_gelu


class ViT(Transformer, Backbone):
    """A plain vision transformer: uint8 or 0..1 float images (B, 3, S, S) -> features (B, E)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config: ViTConfig = config
        D = config.width
        self.patches = nn.Conv2d(config.channels, D, config.patch, stride=config.patch, bias=config.patch_bias)
        self.patch_norm = norm_of(config) if config.patch_norm else None
        self.class_token = nn.Parameter(torch.zeros(D)) if config.class_token else None
        self.registers = nn.Parameter(torch.zeros(config.registers, D)) if config.registers else None
        places = config.table_grid**2 + int(config.class_token and config.class_position)
        self.position = nn.Parameter(torch.zeros(places, D)) if config.positions else None
        self.ln_pre = norm_of(config) if config.ln_pre else nn.Identity()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = self._final_norm()
        self.latent = nn.Parameter(torch.zeros(D)) if config.pooling == "attention" else None
        self.attention_pooling = AttentionPooling(config) if config.pooling == "attention" else None
        out = (config.pooled_width, config.projection, config.projection_bias)
        self.projection = nn.Linear(*out) if config.projection else nn.Identity()
        self.register_scales()
        self.reset_parameters()

    def _final_norm(self) -> nn.Module:
        config = self.config
        if config.final_norm == "none":
            return nn.Identity()
        kind = nn.RMSNorm if config.norm == "rms" else nn.LayerNorm
        return kind(config.width, eps=config.norm_eps, elementwise_affine=config.final_norm == "affine")

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_from(self.forward_to(images, 0), 0, self.places(images))

    def forward_to(self, images: Tensor, last: int) -> Tensor:
        """Images (B, 3, S, S) -> the tokens (B, N, D) that enter block `last`; (B, 2 N, D) with the mirror image's."""
        views = [images, images.flip(-1)] if self.config.mirror else [images]
        places = self.places(images)
        tokens = [self.run_blocks(self.embed(view), last=last, places=places) for view in views]
        return torch.cat(tokens, dim=1) if self.config.mirror else tokens[0]

    def forward_from(self, tokens: Tensor, first: int, places: Places | None = None) -> Tensor:
        """The rest of the network behind `forward_to(images, first)` -> features (B, E).

        `first` is at most the first block whose tokens are pooled; `places` is that of the images, where they are not
        squares of the network's own size.
        """
        if not self.config.mirror:
            return self.forward_tokens(tokens, first, places)
        one, other = (self.forward_tokens(view, first, places) for view in tokens.chunk(2, dim=1))
        return (one + other) / 2

    def forward_tokens(self, x: Tensor, first: int = 0, places: Places | None = None) -> Tensor:
        """Tokens (B, N, D) as they enter block `first` -> features (B, E); the last block makes only what is read.

        `first` and `places` as for `forward_from`.
        """
        depth, pooled, state = self.config.depth, [], None
        places = self.places() if places is None else places
        alone = self.config.pooling == "class" and self.side is None
        for number in range(first, depth):
            read = self.config.class_tokens if alone and number == depth - 1 else None
            x = self.blocks[number](x, read, places)
            x, state = self.beside(number, x, state)
            if number >= depth - self.config.pooled_blocks:
                pooled.append(self.pool(x))
        return torch.cat(pooled, dim=-1) if len(pooled) > 1 else pooled[0]

    def embed(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) -> tokens (B, N, D) with positions, in the order class, registers, patches, added."""
        check_images(images, self.config.patch, self.config.channels)
        x = self.patches(self.normalise(images))  # (B, D, h, w)
        position = self._position(x.shape[-2], x.shape[-1])
        x = x.flatten(2).transpose(1, 2)  # (B, D, h, w) -> (B, h w, D)
        x = self.inserted["patches"](x) if "patches" in self.inserted else x
        x = x if self.patch_norm is None else self.patch_norm(x)
        extra = 0
        if position is not None:
            extra = position.shape[0] - x.shape[1]  # 1 when the class token has a position, else 0
            x = x + position[extra:]
        prefix = []
        if self.class_token is not None:
            own = self.class_token + position[0] if extra and position is not None else self.class_token
            prefix.append(own.unsqueeze(0))
        if self.registers is not None:
            prefix.append(self.registers)
        if prefix:
            x = torch.cat([torch.cat(prefix).expand(x.shape[0], -1, -1), x], dim=1)
        x = self.ln_pre(x)
        return x if self.tokens is None else append_tokens(x, self.tokens)

    def places(self, images: Tensor | None = None) -> Places | None:
        """What blocks with rotary or relative positions need to know of the patches of `images` (B, 3, S, T).

        Without images: those of squares of the network's own size. None where positions are neither.
        """
        config = self.config
        if config.rotary is None and not config.relative_grid:
            return None
        sides = (config.image_size,) * 2 if images is None else images.shape[-2:]
        size, head = (sides[0] // config.patch, sides[1] // config.patch), config.width // config.heads
        if config.rotary is None:
            return size
        return config.rotary.rotation(size, config.prefix, head, like=cast(Tensor, self.mean))

    def run_blocks(self, x: Tensor, first: int = 0, last: int | None = None, places: Places | None = None) -> Tensor:
        """Tokens (B, N, D) through blocks first..last-1."""
        places = self.places() if places is None else places
        state = None
        for number in range(*slice(first, last).indices(self.config.depth)):
            x, state = self.beside(number, self.blocks[number](x, None, places), state)
        return x

    def pool(self, x: Tensor, attend: Attend = F.scaled_dot_product_attention) -> Tensor:
        """Tokens (B, N, D) -> features (B, E): final norm, pooling (by attention: as `attend` does), projection."""
        pooling, after = self.config.pooling, self.config.norm_after_pool
        if pooling == "class":
            return self._projected(self._normed(x[:, : self.config.class_tokens]).flatten(1))
        x = x if after else self._normed(x)
        end = None if self.tokens is None else -len(value_of(self.tokens))
        if pooling == "attention":
            pooled = cast(AttentionPooling, self.attention_pooling)(x[:, :end], cast(Tensor, self.latent), attend)
        else:
            pooled = x[:, self.config.prefix : end].mean(dim=1)
        if pooling == "class+average":
            pooled = torch.cat([x[:, 0], pooled], dim=-1)
        return self._projected(self._normed(pooled) if after else pooled)

    def _projected(self, pooled: Tensor) -> Tensor:
        features = self.projection(pooled)
        return cast(Tensor, self.inserted["features"](features) if "features" in self.inserted else features)

    def _normed(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return cast(Tensor, self.inserted["norm"](y) if "norm" in self.inserted else y)

    def _position(self, h: int, w: int) -> Tensor | None:
        grid = self.config.table_grid
        if self.position is None or (h, w) == (grid, grid):
            return self.position
        return resample_positions(self.position, grid, (h, w), self.config.antialias, self.config.resampling)

    def resize(self, image_size: int) -> None:
        """Resample the position grid once, in place, so that the model's own image size becomes `image_size` pixels."""
        if image_size == self.config.image_size:
            return
        config = replace(self.config, image_size=image_size)
        if self.position is not None and not config.position_grid:
            with torch.no_grad():
                size, how = (config.grid, config.grid), config.resampling
                position = resample_positions(self.position, self.config.grid, size, config.antialias, how)
            self.position = nn.Parameter(position, requires_grad=self.position.requires_grad)
        if config.relative_grid:
            config = replace(config, relative_grid=config.grid)
            for block in self.blocks:
                relative = cast(Any, block).attention.relative
                table = resample_table(relative.table.detach(), (config.grid, config.grid))
                relative.table = nn.Parameter(table, requires_grad=relative.table.requires_grad)
        self.config = config


def check_images(images: Tensor, patch: int, channels: int = 3) -> None:
    """Raises ValueError unless `images` is (B, C, S, T), uint8 or floating, both sides a multiple of the patch size."""
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(f"expected uint8 images 0..255 or floating ones 0..1, got {images.dtype}")
    if images.ndim != 4 or images.shape[1] != channels or any(side % patch or not side for side in images.shape[2:]):
        raise ValueError(
            f"expected images (B, {channels}, S, S) with sides a multiple of {patch}, got {tuple(images.shape)}"
        )


def resample_positions(
    position: Tensor, grid: int, size: tuple[int, int], antialias: bool, how: Resampling = "bicubic"
) -> Tensor:
    """Position embeddings (extra + grid^2, D) -> (extra + h w, D); rows of class tokens are kept.

    "crop": bilinear to a square with the longer side of `size`, of which the upper left part is taken.
    """
    extra = position.shape[0] - grid * grid
    kept, patches = position[:extra], position[extra:]
    square = patches.T.unflatten(1, (grid, grid)).unsqueeze(0)  # (g g, D) -> (1, D, g, g)
    whole = (max(size), max(size)) if how == "crop" else size
    mode = "bicubic" if how == "bicubic" else "bilinear"
    wide = square if square.dtype == torch.float64 else square.float()
    resized = F.interpolate(wide, size=whole, mode=mode, antialias=antialias, align_corners=False)
    resized = resized[0, :, : size[0], : size[1]]
    return torch.cat([kept, resized.flatten(1).T.to(position.dtype)])  # (D, h, w) -> (h w, D)
