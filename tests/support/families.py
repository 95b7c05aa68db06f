"""The kinds of backbone that the laws are tried on, at toy size: data, and one function that builds them."""

from __future__ import annotations

import copy
from functools import cache

import torch
from torch import Tensor, nn

from vitadapt.nn.rotary import Rotary
from vitadapt.nn.surgery import seeded
from vitadapt.nn.text_transformer import TextConfig, TextTransformer
from vitadapt.nn.vit import Preprocess, ViT, ViTConfig

TINY = {"width": 64, "depth": 2, "heads": 2, "patch": 8, "image_size": 32}

CLIP_LIKE = ViTConfig(
    **TINY,
    patch_bias=False,
    ln_pre=True,
    projection=48,
    activation="quick_gelu",
    norm_eps=1e-5,
    preprocess=Preprocess(),
)

FAMILIES: dict[str, ViTConfig] = {
    "clip-like": CLIP_LIKE,
    "deit-like": ViTConfig(**TINY),
    "dinov2-like": ViTConfig(**TINY, layer_scale=True, registers=2, class_position=False, antialias=True),
    "gap-like": ViTConfig(**TINY, class_token=False, pooling="average", norm_after_pool=True),
    "class+average": ViTConfig(**TINY, pooling="class+average", hidden=96, activation="gelu_tanh"),
    "no-qkv-bias": ViTConfig(**TINY, qkv_bias=False, activation="relu"),
    "plain-norm": ViTConfig(**TINY, final_norm="plain"),
}

PARTS: dict[str, ViTConfig] = {
    "dinov3-like": ViTConfig(**TINY, positions=False, rotary=Rotary(), registers=2, layer_scale=True, norm_eps=1e-5),
    "dinov3-plus-like": ViTConfig(
        **TINY,
        positions=False,
        rotary=Rotary(),
        registers=2,
        layer_scale=True,
        gated=True,
        hidden=80,
        activation="silu",
    ),
    "siglip-like": ViTConfig(**TINY, class_token=False, pooling="attention", pool_heads=2, activation="gelu_tanh"),
    "pe-like": ViTConfig(
        **TINY,
        rotary=Rotary(10000.0, "patches", 4, 1.0, "xy", "neighbours"),
        ln_pre=True,
        patch_bias=False,
        pooling="attention",
        pool_heads=4,
        projection=48,
    ),
    "eva02-like": ViTConfig(
        **TINY,
        rotary=Rotary(10000.0, "patches", 4, pairs="neighbours"),
        gated=True,
        hidden=80,
        activation="silu",
        attention_norm=True,
        mlp_norm=True,
        qk_norm=True,
    ),
    "aimv2-like": ViTConfig(
        **TINY,
        class_token=False,
        pooling="average",
        norm="rms",
        norm_eps=1e-5,
        patch_norm=True,
        qkv_bias=False,
        linear_bias=False,
        gated=True,
        hidden=80,
        activation="silu",
    ),
    "beit-like": ViTConfig(
        **TINY,
        positions=False,
        relative_grid=4,
        layer_scale=True,
        pooling="average",
        norm_after_pool=True,
    ),
    "radio-like": ViTConfig(
        **TINY,
        class_position=False,
        registers=3,
        class_tokens=2,
        resampling="crop",
        position_grid=8,
        patch_bias=False,
        final_norm="none",
    ),
}
"""Those with parts that no plain ViT has, all of which are here; `FAMILIES` are the plain ones."""
ALL = FAMILIES | PARTS
_TEXT = {"width": 64, "depth": 2, "heads": 2, "context": 9, "vocabulary": 40}
TEXTS = {
    "clip-text-like": TextConfig(**_TEXT, projection=48, activation="quick_gelu", end=39),
    "siglip-text-like": TextConfig(
        **_TEXT,
        projection=48,
        projection_bias=True,
        activation="gelu_tanh",
        causal=False,
        pooling="last",
        hidden=96,
        end=39,
    ),
}
"""Text towers."""


class ConvNet(nn.Module):
    """A network without slots, with the attributes that every feature extractor has: (B, 3, S, S) -> (B, E)."""

    features, image_size, preprocess = 24, 32, Preprocess()

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 4, stride=4), nn.BatchNorm2d(16)
        self.body, self.last = nn.Conv2d(16, 24, 3), nn.GroupNorm(4, 24)

    def train(self, mode: bool = True) -> ConvNet:
        super().train(mode)
        self.norm.eval()  # as the package's own extractor does: its statistics are the pretrained ones
        return self

    def forward(self, images: Tensor) -> Tensor:
        x = images.to(self.stem.weight.dtype) / (255 if images.dtype == torch.uint8 else 1)
        return self.last(self.body(self.norm(self.stem(x)).relu())).mean(dim=(2, 3))


@cache
def common(family: str) -> nn.Module:
    """The backbone of the family that all tests share, "convnet" included: frozen, in eval mode; for reading only.

    An adapted one shares its memory. tests/conftest.py checks behind every file of tests that it is as it was.
    """
    with seeded(0):
        if family in TEXTS:
            model = TextTransformer(TEXTS[family])
        else:
            model = ViT(ALL[family]) if family in ALL else ConvNet()
        for parameter in model.parameters():  # no tensor at zero or one: a swapped or forgotten one must show
            parameter.data += 0.1 * torch.randn_like(parameter)
    _SHARED[family] = model.eval().requires_grad_(False), numbers_of(model)
    return model


_SHARED: dict[str, tuple[nn.Module, list[float]]] = {}


def numbers_of(model: nn.Module) -> list[float]:
    """A number for each tensor, that a change of the tensor changes."""
    return [float(tensor.double().norm()) for tensor in model.state_dict().values()]


def changed_backbones() -> list[str]:
    """The families whose common backbone is not what it was."""
    return [family for family, (model, before) in _SHARED.items() if numbers_of(model) != before]


def build(family: str) -> nn.Module:
    """A copy of the common backbone of the family, to be changed at will."""
    return copy.deepcopy(common(family))


def random_images(count: int = 3, size: int = 32, seed: int = 0) -> Tensor:
    """uint8 images (count, 3, size, size)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
