"""Export to open_clip: the image tower in its names, for `create_model(ARCH, pretrained_image_path=...)`, and the head.

`visual.safetensors` is loaded over the image tower of a model of the same architecture (open_clip_config.json says
which). The text tower stays where it was, or, where the method changed it, is loaded from `text.safetensors`.
It is described by `text_cfg` of open_clip_config.json then.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from ...data.images import Geometry
from ...nn.text_transformer import TextConfig
from ...nn.vit import ViT, ViTConfig
from ...utils.errors import NotApplicable
from ...utils.optional import package
from ...weights import CONVERTERS
from ...weights.checkpoint_files import load_state_file, read_json
from .certificate import TARGETS, Options, Program, Target, normaliser, write_json
from .deployed import PlainHead, TrainedModel, merged, read_head, write_head
from .text import FILE, write_text

WEIGHTS = "visual.safetensors"
_NO_TEXT = {"context_length": 8, "vocab_size": 8, "width": 32, "heads": 1, "layers": 1}
"""open_clip builds no image tower alone; the certificate's model gets the smallest of text towers."""


def _write(trained: TrainedModel, folder: Path, _: Options) -> None:
    vit = merged(trained, "open_clip")
    config, state = _with_projection(vit)
    _check(config, trained)
    theirs = CONVERTERS["openai-clip"].write(config, state, "")
    save_file({name: t.contiguous() for name, t in theirs.items()}, folder / WEIGHTS, {"format": "pt"})
    about = _config(config, trained.geometry)
    if (tower := trained.text_tower) is not None:
        about["model_cfg"]["text_cfg"] = _text_config(tower.config)
    write_json(folder / "open_clip_config.json", about)
    write_head(PlainHead(trained.classifier.head), folder, trained.info.classes)
    write_text(trained, folder, "open_clip")


def _with_projection(vit: ViT) -> tuple[ViTConfig, dict[str, Tensor]]:
    """open_clip's towers always have an output projection: the identity where ours has none."""
    config, state = vit.config, vit.state_dict()
    if config.projection:
        return config, state
    return replace(config, projection=config.width), state | {"projection.weight": torch.eye(config.width)}


def _check(config: ViTConfig, trained: TrainedModel) -> None:
    cropped, filter_ = trained.shorter_side != trained.image_size, trained.geometry.interpolation
    foreign = {
        **{f"{name} like this": True for name in config.parts},
        f"images resized to {trained.shorter_side} pixels before the crop to {trained.image_size}": cropped,
        f"images resized with the filter {filter_}": filter_ not in ("bicubic", "bilinear"),
        "registers": bool(config.registers),
        "no class token": not config.class_token,
        "a bias of the patch embedding": config.patch_bias,
        f"the activation {config.activation}": config.activation not in ("gelu", "quick_gelu"),
        "pooling of class token and average together": config.pooling == "class+average",
        "no final norm": config.final_norm == "none",
    }
    if found := [what for what, holds in foreign.items() if holds]:
        raise NotApplicable(f"open_clip cannot hold {found[0]}; export --to timm, hf or onnx")


def _config(config: ViTConfig, geometry: Geometry) -> dict[str, Any]:
    average = config.pooling == "average"
    vision: dict[str, Any] = {
        "image_size": config.image_size,
        "layers": config.depth,
        "width": config.width,
        "head_width": config.width // config.heads,
        "patch_size": config.patch,
        "mlp_ratio": config.mlp_width / config.width,
    }
    vision |= {"ls_init_value": 1.0} if config.layer_scale else {}
    vision |= {"no_ln_pre": True} if not config.ln_pre else {}
    vision |= {"pool_type": "avg", "final_ln_after_pool": config.norm_after_pool} if average else {}
    vision |= {"norm_kwargs": {"eps": config.norm_eps}} if config.norm_eps != 1e-5 else {}
    model = {
        "embed_dim": config.projection,
        "quick_gelu": config.activation == "quick_gelu",
        "vision_cfg": vision,
    }
    preprocess: dict[str, Any] = {"mean": list(config.preprocess.mean), "std": list(config.preprocess.std)}
    preprocess |= {
        "size": config.image_size,
        "interpolation": geometry.interpolation,
        "resize_mode": "squash" if geometry.squash else "shortest",
    }
    return {"model_cfg": model, "preprocess_cfg": preprocess}


def _text_config(config: TextConfig) -> dict[str, Any]:
    """What open_clip does not take for granted of a text tower."""
    last = config.end == config.vocabulary - 1
    pooling = "argmax" if config.pooling == "end" and last else "eos" if config.pooling == "end" else config.pooling
    text: dict[str, Any] = {
        "context_length": config.context,
        "vocab_size": config.vocabulary,
        "width": config.width,
        "heads": config.heads,
        "layers": config.depth,
        "mlp_ratio": config.mlp_width / config.width,
    }
    text |= {"pool_type": pooling} if pooling != "argmax" else {}
    text |= {"eos_id": config.end} if pooling == "eos" else {}
    text |= {"no_causal_mask": True} if not config.causal else {}
    text |= {"proj_bias": True} if config.projection_bias else {}
    text |= {"proj_type": "none"} if not config.projection else {}
    text |= {"ls_init_value": 1.0} if config.layer_scale else {}
    text |= {"norm_kwargs": {"eps": config.norm_eps}} if config.norm_eps != 1e-5 else {}
    return text | ({"act_kwargs": {"approximate": "tanh"}} if config.activation == "gelu_tanh" else {})


def _reopen(folder: Path, trained: TrainedModel, _: Options) -> Program:
    open_clip = package("open_clip", "clip")
    about = read_json(folder / "open_clip_config.json")
    model = open_clip.CustomTextCLIP(**{"text_cfg": _NO_TEXT, **about["model_cfg"]}).eval()
    model.visual.load_state_dict(load_state_file(folder / WEIGHTS))
    if text := (folder / FILE).is_file():
        model.text.load_state_dict(load_state_file(folder / FILE))
    normalised, head = normaliser(about["preprocess_cfg"]), read_head(folder)
    assert head is not None, "written above"
    settings = open_clip.transform.PreprocessCfg(**about["preprocess_cfg"])
    transform = open_clip.transform.image_transform_v2(settings, is_train=False)

    def run(images: Tensor) -> Tensor:
        return head(model.encode_image(normalised(images)))

    def answer(file: Path) -> Tensor:
        return head(model.encode_image(transform(Image.open(file)).unsqueeze(0)))[0]

    return Program(run, answer, text=model.text if text else None)


TARGETS.register("open_clip")(Target("open_clip", ("open_clip_torch",), _write, _reopen))
