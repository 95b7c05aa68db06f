"""Export to timm: a folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` opens, its head included."""

from __future__ import annotations

from math import nextafter
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor

from ...nn.head import without_projection
from ...nn.vit import ViT, ViTConfig
from ...utils.errors import WeightsError
from ...utils.optional import package
from ...weights import write_state
from ...weights.checkpoint_files import read_json
from .certificate import TARGETS, Run, Target, normaliser, write_json
from .deployed import PlainHead, TrainedModel, merged

_ARCHITECTURES = {1e-6: "vit_base_patch16_224", 1e-5: "vit_base_patch32_clip_224"}
"""eps of the layer norms -> a timm model that has it: the one thing that model_args cannot say in JSON."""


def _write(trained: TrainedModel, folder: Path) -> None:
    vit = merged(trained, "timm")
    weight, bias = PlainHead(trained.classifier.head).linear()
    if vit.config.projection:  # W (P x) = (W P) x
        plain, projection = without_projection(vit)
        vit, weight = cast(ViT, plain), weight @ projection
    config = vit.config
    _check(config)
    state = write_state(vit, "timm-fc-norm" if config.norm_after_pool else "timm")
    if not config.ln_pre and not config.patch_bias:
        state["patch_embed.proj.bias"] = torch.zeros(config.width)
    state |= {"head.weight": weight, "head.bias": bias}
    save_file(
        {name: t.contiguous().clone() for name, t in state.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    write_json(folder / "config.json", _config(config, trained))


def _check(config: ViTConfig) -> None:
    if config.parts:
        raise WeightsError(f"an export to timm has no {config.parts[0]} like this; export --to onnx or torch-export")
    if config.pooling == "class+average":
        raise WeightsError("timm's ViT has no pooling of class token and average together; export --to onnx or hf")
    if config.norm_eps not in _ARCHITECTURES:
        raise WeightsError(
            f"timm's ViTs have layer norms with eps 1e-6 or 1e-5, and this one has {config.norm_eps:g}; "
            "export --to hf or onnx"
        )
    if int(config.width * (config.mlp_width / config.width)) != config.mlp_width:
        raise WeightsError(f"timm's ViT cannot have an MLP of width {config.mlp_width}; export --to hf or onnx")
    if config.ln_pre and config.patch_bias:
        raise WeightsError("timm's ViT with a norm before the blocks has no patch bias, and this one has; use onnx")


def _config(config: ViTConfig, trained: TrainedModel) -> dict[str, Any]:
    size, classes = config.image_size, len(trained.info.classes)
    preprocess, squash = config.preprocess, trained.geometry.squash
    arguments: dict[str, Any] = {
        "img_size": size,
        "patch_size": config.patch,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
        "mlp_ratio": config.mlp_width / config.width,
        "qkv_bias": config.qkv_bias,
        "init_values": 1.0 if config.layer_scale else None,
        "class_token": config.class_token,
        "no_embed_class": bool(config.registers) or not config.class_position,
        "reg_tokens": config.registers,
        "pre_norm": config.ln_pre,
        "fc_norm": config.norm_after_pool,
        "act_layer": config.activation,
        "global_pool": "token" if config.pooling == "class" else "avg",
    }
    pretrained = {
        "input_size": [3, size, size],
        "fixed_input_size": True,
        "interpolation": "bicubic",
        # timm rounds side / crop_pct down: a hair less than the quotient, so that it gets the very number of pixels
        "crop_pct": 1.0 if squash else nextafter(size / trained.shorter_side, 0),
        "crop_mode": "squash" if squash else "center",
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "num_classes": classes,
        "pool_size": None,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    return {
        "architecture": _ARCHITECTURES[config.norm_eps],
        "num_classes": classes,
        "num_features": config.width,
        "global_pool": arguments["global_pool"],
        "label_names": list(trained.info.classes),
        "model_args": arguments,
        "pretrained_cfg": pretrained,
    }


def _reopen(folder: Path, trained: TrainedModel) -> Run:
    model = package("timm", "timm").create_model(f"local-dir:{folder}", pretrained=True).eval()
    normalised = normaliser(read_json(folder / "config.json")["pretrained_cfg"])

    def run(images: Tensor) -> Tensor:
        logits: Tensor = model(normalised(images))
        return logits

    return run


TARGETS.register("timm")(Target("timm", ("timm",), _write, _reopen))
