"""From tensors in our words to a configuration and a module."""

from __future__ import annotations

from dataclasses import fields
from math import isqrt
from typing import Any

import torch

from ..nn.vit import ViT, ViTConfig
from .hints import Hints
from .renaming import State


def config_of_tensors(ours: State, depth: int, hints: Hints) -> ViTConfig:
    """The configuration that the shapes of `ours` and the complete `hints` describe. Raises ValueError."""
    width, channels, patch, other = ours["patches.weight"].shape
    if channels != 3 or patch != other:
        raise ValueError(f"patch embedding of shape {tuple(ours['patches.weight'].shape)}; expected (D, 3, P, P)")
    class_token, rows = "class_token" in ours, len(ours["position"])
    class_position = class_token and isqrt(rows - 1) ** 2 == rows - 1
    patches = rows - int(class_position)
    if isqrt(patches) ** 2 != patches:
        raise ValueError(f"{rows} positions do not form a square grid (with or without one for the class token)")
    hidden = ours["blocks.0.mlp.fc1.weight"].shape[0]
    known: dict[str, Any] = {f.name: getattr(hints, f.name) for f in fields(hints)}
    return ViTConfig(
        width=width,
        depth=depth,
        patch=patch,
        image_size=isqrt(patches) * patch,
        hidden=0 if hidden == 4 * width else hidden,
        class_token=class_token,
        class_position=class_position or not class_token,
        registers=len(ours["registers"]) if "registers" in ours else 0,
        patch_bias="patches.bias" in ours,
        qkv_bias="blocks.0.attention.qkv.bias" in ours,
        ln_pre="ln_pre.weight" in ours,
        layer_scale="blocks.0.scale1.gamma" in ours,
        projection=len(ours["projection.weight"]) if "projection.weight" in ours else 0,
        **known,
    )


def shapes_of(config: ViTConfig) -> dict[str, torch.Size]:
    """Name -> shape of every tensor of a `ViT` with this configuration; no memory is used."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in ViT(config).state_dict().items()}


def build(config: ViTConfig, state: State) -> ViT:
    """A frozen ViT in eval mode holding float32 copies of `state`."""
    with torch.device("meta"):  # random initial values would cost seconds and be overwritten
        vit = ViT(config)
    vit.load_state_dict({k: v.detach().to("cpu", torch.float32, copy=True) for k, v in state.items()}, assign=True)
    vit.register_scales()
    return vit.requires_grad_(False).eval()
