"""Export to timm: a folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` opens, its head included."""

from __future__ import annotations

from math import nextafter
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from ...nn.head import without_projection
from ...nn.vit import ViT, ViTConfig
from ...utils.optional import package
from ...weights import write_state
from ...weights.checkpoint_files import read_json
from .certificate import TARGETS, Options, Program, Target, normaliser, write_json
from .deployed import PlainHead, TrainedModel, merged
from .timm_model import TimmModel, model_for


def _write(trained: TrainedModel, folder: Path, _: Options) -> None:
    vit = merged(trained, "timm")
    weight, bias = PlainHead(trained.classifier.head).linear()
    if vit.config.projection:  # W (P x + c) + b = (W P) x + (W c + b)
        if vit.config.projection_bias:
            shift = cast(Tensor, vit.projection.bias)
            bias = bias + weight @ shift
            shift.zero_()
        plain, projection = without_projection(vit)
        vit, weight = cast(ViT, plain), weight @ projection
    config = vit.config
    model = model_for(config)
    state = write_state(vit, model.layout)
    if not config.ln_pre and not config.patch_bias:
        state["patch_embed.proj.bias"] = torch.zeros(config.width)
    state |= {"head.weight": weight, "head.bias": bias}
    save_file(
        {name: t.contiguous().clone() for name, t in state.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    write_json(folder / "config.json", _config(config, model, trained))


def _config(config: ViTConfig, model: TimmModel, trained: TrainedModel) -> dict[str, Any]:
    size, classes = config.image_size, len(trained.info.classes)
    preprocess, squash = config.preprocess, trained.geometry.squash
    pretrained = {
        "input_size": [config.channels, size, size],
        "fixed_input_size": True,
        "interpolation": trained.geometry.interpolation,
        # timm rounds side / crop_pct down: a hair less than the quotient, so that it gets the very number of pixels
        "crop_pct": nextafter(size / trained.shorter_side, 0),
        "crop_mode": "squash" if squash else "center",
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "num_classes": classes,
        "pool_size": None,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    return {
        "architecture": model.architecture,
        "num_classes": classes,
        "num_features": config.width,
        "global_pool": model.arguments["global_pool"],
        "label_names": list(trained.info.classes),
        "model_args": model.arguments,
        "pretrained_cfg": pretrained,
    }


def _reopen(folder: Path, trained: TrainedModel, _: Options) -> Program:
    timm = package("timm", "timm")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    normalised = normaliser(read_json(folder / "config.json")["pretrained_cfg"])
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))

    def run(images: Tensor) -> Tensor:
        logits: Tensor = model(normalised(images))
        return logits

    def answer(file: Path) -> Tensor:
        logits: Tensor = model(transform(Image.open(file).convert("RGB")).unsqueeze(0))[0]
        return logits

    return Program(run, answer)


TARGETS.register("timm")(Target("timm", ("timm",), _write, _reopen))
