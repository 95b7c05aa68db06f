"""The canonical vision transformer: one plain, fast module into which every supported checkpoint is converted.

Notable choices:
- pre-norm blocks, one fused qkv matrix, `scaled_dot_product_attention`;
- every linear layer is a `SlotLinear`: its output rows have names (q, k, v, o, fc1, fc2) and a *delta* can be
  added to any of them, so that no adaptation method ever needs to know that q, k and v are packed;
- each block has two *places* where a module can be inserted: behind its attention and behind its MLP;
- images come in as uint8 or as floats in 0..1 and are normalised here, on the device of the weights.

Shapes are written in one alphabet: B images, N tokens, D width, H heads, P patch size, h x w patch grid, E features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .backbone import IMAGENET, Backbone
from .backbone import Preprocess as Preprocess
from .deltas import goes_in_place, is_thin, thin_linear

Slot = Literal["q", "k", "v", "o", "fc1", "fc2"]
Place = Literal["attention", "mlp"]
Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu"]
Pooling = Literal["class", "average", "class+average"]

SLOTS: tuple[Slot, ...] = get_args(Slot)
PLACES: tuple[Place, ...] = get_args(Place)


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
    preprocess: Preprocess = IMAGENET

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads", "patch", "image_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1: {self}")
        for name, value in (("heads", self.width % self.heads), ("patch", self.image_size % self.patch)):
            if value:
                raise ValueError(f"{name} does not divide: {self}")
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
        return self.projection or pooled


class SlotLinear(nn.Linear):
    """A linear layer whose output rows belong to named slots, each of which may carry a delta.

    Returns one tensor per slot, (B, N, D_in) -> (B, N, D_out / slots) each; only the neighbouring `slots` that are
    asked for, when not all are. A delta is a module with `branch(x)`, `matrix()` and `bias()` (see `deltas.Delta`); as
    a registered sub-module it moves and is saved with the layer.
    """

    def __init__(self, in_features: int, out_features: int, slots: tuple[Slot, ...], bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.slots = slots
        self.deltas = nn.ModuleDict()

    def rows(self, slot: Slot) -> slice:
        """The rows of `weight` that compute `slot`."""
        size, place = self.out_features // len(self.slots), self.slots.index(slot)
        return slice(place * size, (place + 1) * size)

    def forward(self, x: Tensor, slots: tuple[Slot, ...] | None = None) -> tuple[Tensor, ...]:  # type: ignore[override]
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if slots is None:
            slots = self.slots
        else:
            rows = slice(self.rows(slots[0]).start, self.rows(slots[-1]).stop)
            weight, bias = weight[rows], None if bias is None else bias[rows]
        deltas = {slot: cast(Any, self.deltas[slot]) for slot in slots if slot in self.deltas}
        if goes_in_place(x, weight):
            size = len(weight) // len(slots)
            thin = {slot: deltas.pop(slot) for slot in slots if slot in deltas and is_thin(deltas[slot])}
            places = {slot: slice(i * size, (i + 1) * size) for i, slot in enumerate(slots)}
            y = thin_linear(x, weight, bias, [(places[slot], delta) for slot, delta in thin.items()])
        else:
            y = F.linear(x, weight, bias)
        parts = y.chunk(len(slots), dim=-1)
        return tuple(
            part + deltas[slot].branch(x) if slot in deltas else part for slot, part in zip(slots, parts, strict=True)
        )


class LayerScale(nn.Module):
    """Multiplication by a learnt vector (Touvron et al. 2021, CaiT)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Attention(nn.Module):
    """Multi-head self-attention over all tokens, (B, N, D) -> (B, N, D), or (B, first, D) for the `first` tokens."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = SlotLinear(config.width, 3 * config.width, ("q", "k", "v"), bias=config.qkv_bias)
        self.out = SlotLinear(config.width, config.width, ("o",))

    def forward(self, x: Tensor, first: int | None = None) -> Tensor:
        parts = self.qkv(x) if first is None else (*self.qkv(x[:, :first], ("q",)), *self.qkv(x, ("k", "v")))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)  # (B, H, N, D/H)
        mixed = F.scaled_dot_product_attention(q, k, v)
        (y,) = self.out(mixed.transpose(1, 2).flatten(2))  # (B, H, N, D/H) -> (B, N, D)
        return cast(Tensor, y)


class MLP(nn.Module):
    """Two linear layers around an activation, (B, N, D) -> (B, N, D)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.fc1 = SlotLinear(config.width, config.mlp_width, ("fc1",))
        self.fc2 = SlotLinear(config.mlp_width, config.width, ("fc2",))
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        (hidden,) = self.fc1(x)
        (y,) = self.fc2(self.activation(hidden))
        return cast(Tensor, y)


class Block(nn.Module):
    """Pre-norm transformer block. `inserted` holds the modules put behind the attention or the MLP by a method.

    Where only the `first` tokens are read, queries, projection and MLP are computed for these alone, which changes no
    number: the other tokens act through their keys and values. An inserted module must say that it treats every token
    by itself (`tokenwise = True`) for this.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        norm = partial(nn.LayerNorm, config.width, eps=config.norm_eps)
        scale = partial(LayerScale, config.width) if config.layer_scale else nn.Identity
        self.norm1, self.attention, self.scale1 = norm(), Attention(config), scale()
        self.norm2, self.mlp, self.scale2 = norm(), MLP(config), scale()
        self.inserted = nn.ModuleDict()

    def forward(self, x: Tensor, first: int | None = None) -> Tensor:
        if not all(getattr(module, "tokenwise", False) for module in self.inserted.values()):
            first = None
        x = x[:, :first] + self._behind("attention", self.scale1(self.attention(self.norm1(x), first)))
        return x + self._behind("mlp", self.scale2(self.mlp(self.norm2(x))))

    def _behind(self, place: Place, y: Tensor) -> Tensor:
        return cast(Tensor, self.inserted[place](y)) if place in self.inserted else y


class ViT(Backbone):
    """A plain vision transformer: uint8 or 0..1 float images (B, 3, S, S) -> features (B, E).

    `shared` holds modules that a method uses in several layers (for example the Kronecker rules of KAdaptation), so
    that they appear, are counted and are saved once.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config: ViTConfig = config
        D = config.width
        self.shared = nn.ModuleDict()
        self.patches = nn.Conv2d(3, D, config.patch, stride=config.patch, bias=config.patch_bias)
        self.class_token = nn.Parameter(torch.zeros(D)) if config.class_token else None
        self.registers = nn.Parameter(torch.zeros(config.registers, D)) if config.registers else None
        positions = config.grid**2 + int(config.class_token and config.class_position)
        self.position = nn.Parameter(torch.zeros(positions, D))
        self.ln_pre = nn.LayerNorm(D, eps=config.norm_eps) if config.ln_pre else nn.Identity()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = self._final_norm()
        pooled = 2 * D if config.pooling == "class+average" else D
        self.projection = nn.Linear(pooled, config.projection, bias=False) if config.projection else nn.Identity()
        self.register_scales()
        self.reset_parameters()

    def _final_norm(self) -> nn.Module:
        config = self.config
        if config.final_norm == "none":
            return nn.Identity()
        return nn.LayerNorm(config.width, eps=config.norm_eps, elementwise_affine=config.final_norm == "affine")

    def reset_parameters(self) -> None:
        """Random weights of a sensible size from torch's global generator (for tests, counting and timing)."""
        for name, parameter in self.named_parameters():
            if parameter.is_meta:
                continue  # holds no numbers; torch would load its compiler to draw none, two seconds of every command
            if parameter.ndim > 1 or name == "class_token":
                nn.init.normal_(parameter, std=0.02 if "patches" not in name else 0.05)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_tokens(self.embed(images))

    def forward_tokens(self, x: Tensor, first: int = 0) -> Tensor:
        """Tokens (B, N, D) as they enter block `first` -> features (B, E); the last block makes only what is read."""
        x = self.run_blocks(x, first, self.config.depth - 1)
        if first < self.config.depth:
            x = self.blocks[-1](x, 1 if self.config.pooling == "class" else None)
        return self.pool(x)

    def embed(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) -> tokens (B, N, D) with positions, in the order class, registers, patches."""
        check_images(images, self.config.patch)
        x = self.patches(self.normalise(images))  # (B, D, h, w)
        position = self._position(x.shape[-2], x.shape[-1])
        x = x.flatten(2).transpose(1, 2)  # (B, D, h, w) -> (B, h w, D)
        extra = position.shape[0] - x.shape[1]  # 1 when the class token has a position, else 0
        x = x + position[extra:]
        prefix = []
        if self.class_token is not None:
            prefix.append((self.class_token + position[0] if extra else self.class_token).unsqueeze(0))
        if self.registers is not None:
            prefix.append(self.registers)
        if prefix:
            x = torch.cat([torch.cat(prefix).expand(x.shape[0], -1, -1), x], dim=1)
        return cast(Tensor, self.ln_pre(x))

    def run_blocks(self, x: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """Tokens (B, N, D) through blocks first..last-1."""
        for block in self.blocks[first:last]:
            x = block(x)
        return x

    def pool(self, x: Tensor) -> Tensor:
        """Tokens (B, N, D) -> features (B, E): final norm, pooling, projection."""
        pooling, after = self.config.pooling, self.config.norm_after_pool
        if pooling == "class":
            return cast(Tensor, self.projection(self.norm(x[:, 0])))
        x = x if after else self.norm(x)
        pooled = x[:, self.config.prefix :].mean(dim=1)
        if pooling == "class+average":
            pooled = torch.cat([x[:, 0], pooled], dim=-1)
        return cast(Tensor, self.projection(self.norm(pooled) if after else pooled))

    def _position(self, h: int, w: int) -> Tensor:
        grid = self.config.grid
        if (h, w) == (grid, grid):
            return self.position
        return resample_positions(self.position, grid, (h, w), self.config.antialias)

    def resize(self, image_size: int) -> None:
        """Resample the position grid once, in place, so that the model's own image size becomes `image_size` pixels."""
        if image_size == self.config.image_size:
            return
        config = replace(self.config, image_size=image_size)
        with torch.no_grad():
            position = resample_positions(self.position, self.config.grid, (config.grid, config.grid), config.antialias)
        self.position = nn.Parameter(position, requires_grad=self.position.requires_grad)
        self.config = config


def check_images(images: Tensor, patch: int) -> None:
    """Raises ValueError unless `images` is (B, 3, S, T), uint8 or floating, both sides a multiple of the patch size."""
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(f"expected uint8 images 0..255 or floating ones 0..1, got {images.dtype}")
    if images.ndim != 4 or images.shape[1] != 3 or any(side % patch or not side for side in images.shape[2:]):
        raise ValueError(f"expected images (B, 3, S, S) with sides a multiple of {patch}, got {tuple(images.shape)}")


def resample_positions(position: Tensor, grid: int, size: tuple[int, int], antialias: bool) -> Tensor:
    """Position embeddings (extra + grid^2, D) -> (extra + h w, D), bicubic; rows of class tokens are kept."""
    extra = position.shape[0] - grid * grid
    kept, patches = position[:extra], position[extra:]
    square = patches.T.unflatten(1, (grid, grid)).unsqueeze(0)  # (g g, D) -> (1, D, g, g)
    resized = F.interpolate(square.float(), size=size, mode="bicubic", antialias=antialias, align_corners=False)
    return torch.cat([kept, resized[0].flatten(1).T.to(position.dtype)])  # (D, h, w) -> (h w, D)
