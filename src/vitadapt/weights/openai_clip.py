"""The layout of OpenAI's CLIP, which open_clip's plain VisionTransformer uses too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from torch import Tensor, nn

from ..nn.surgery import State
from ..nn.vit import Preprocess
from ..utils.errors import WeightsError
from .converter import Converter
from .hints import NORMALISATIONS, Hints, Live, activation_of, expect, heads_of_64, norm_eps_of, refuse_unknown, square
from .rules import Rule, pair

_BLOCK = "transformer.resblocks.{i}."

RULES: tuple[Rule, ...] = (
    Rule("patches.weight", ("conv1.weight",)),
    Rule("class_token", ("class_embedding",)),
    Rule("position", ("positional_embedding",)),
    *pair("ln_pre", "ln_pre", missing="absent"),
    *pair("blocks.{i}.norm1", _BLOCK + "ln_1"),
    Rule("blocks.{i}.attention.qkv.weight", (_BLOCK + "attn.in_proj_weight",)),
    Rule("blocks.{i}.attention.qkv.bias", (_BLOCK + "attn.in_proj_bias",), missing="zeros"),
    *pair("blocks.{i}.attention.out", _BLOCK + "attn.out_proj"),
    Rule("blocks.{i}.scale1.gamma", (_BLOCK + "ls_1.gamma",), missing="absent"),
    *pair("blocks.{i}.norm2", _BLOCK + "ln_2"),
    *pair("blocks.{i}.mlp.fc1", _BLOCK + "mlp.c_fc"),
    *pair("blocks.{i}.mlp.fc2", _BLOCK + "mlp.c_proj"),
    Rule("blocks.{i}.scale2.gamma", (_BLOCK + "ls_2.gamma",), missing="absent"),
    *pair("norm", "ln_post"),
    Rule("projection.weight", ("proj",), "transposed"),
)


def _documented(state: State) -> Hints:
    """OpenAI's model.py: 64 channels per head, eps 1e-5, class token. The activation depends on who trained the file.

    Variants without ln_pre exist in open_clip only, where they may average the patches.
    """
    return Hints(
        heads=heads_of_64(state["conv1.weight"].shape[0]),
        norm_eps=1e-5,
        pooling="class" if "ln_pre.weight" in state else None,
        norm_after_pool=False,
        antialias=False,
        preprocess=NORMALISATIONS["clip"],
    )


OPENAI_CLIP = Converter(
    name="openai-clip",
    title="OpenAI CLIP",
    rules=RULES,
    block="transformer.resblocks.",
    anchors=("conv1.weight", "class_embedding", "transformer.resblocks.0.attn.in_proj_weight"),
    documented=_documented,
    prefixes=("visual.", "", "module.visual."),
    class_row="always",
)
_IN_TRAINING = (
    *("logit_scale*", "predictor*", "projector*", "text_label_predictor*", "nn_replacer*", "caption_module*"),
    *("image_mapping.*", "text_mapping.*"),  # of FILIP: for scores of patches and words
)


def _declip(text: str) -> Converter:
    """DeCLIP and its siblings (Li et al. 2022): CLIP's image tower, told by the name of the `text` tower beside it."""
    inner = OPENAI_CLIP.under("visual.")
    return replace(
        inner,
        name=f"declip-{text.replace('_', '-')}",
        title="DeCLIP (SLIP, FILIP, DeFILIP, CLIP-YFCC)",
        anchors=(*inner.anchors, f"{text}.token_embedding.weight"),
        documented=lambda state: replace(inner.documented(state), activation="quick_gelu"),
        prefixes=("", "module."),
        spare=(f"{text}.*", *_IN_TRAINING),
    )


LAYOUTS = (_declip("encode_text"), _declip("text_encoder"), OPENAI_CLIP)
ORIGINAL = Hints(activation="quick_gelu")
"""What is known of files that OpenAI itself published (they alone are TorchScript archives)."""


def hints_of_open_clip(model: dict[str, Any], pretrained: dict[str, Any]) -> Hints:
    """What open_clip's model config and pretrained config tell; of a ResNet how images are prepared, and no more.

    Raises WeightsError for what a plain ViT lacks.
    """
    vision = model["vision_cfg"]
    refuse_unknown(vision, "open_clip", "open_clip's vision_cfg")
    quick = bool(model.get("quick_gelu", False))
    if quick != bool(pretrained.get("quick_gelu", False)):
        raise WeightsError(
            "these weights were trained with another activation than this open_clip architecture has; "
            f"use the architecture {'without' if quick else 'with'} -quickgelu in its name"
        )
    if not isinstance(vision["layers"], int):
        return Hints(preprocess=preprocess_of(pretrained))
    average = vision.get("pool_type", "tok") == "avg"
    return Hints(
        heads=vision["width"] // vision.get("head_width", 64),
        activation="quick_gelu" if quick else "gelu",
        pooling="average" if average else "class",
        norm_after_pool=average and bool(vision.get("final_ln_after_pool", False)),
        preprocess=preprocess_of(pretrained),
    )


def preprocess_of(config: dict[str, Any]) -> Preprocess:
    """How open_clip's preprocess_cfg says that images are prepared; OpenAI's way where it says nothing.

    Raises WeightsError for a way that we do not have.
    """
    usual, mode = NORMALISATIONS["clip"], config.get("resize_mode") or "shortest"
    mean, std = (tuple(config.get(name, getattr(usual, name))) for name in ("mean", "std"))
    expect(mode in ("shortest", "squash"), f"images prepared with resize_mode={mode!r}")
    square(config.get("size") or 1)
    # "random" is for training: open_clip evaluates with bicubic then
    bilinear = config.get("interpolation") == "bilinear"
    return Preprocess(mean, std, 1.0, mode == "squash", "bilinear" if bilinear else "bicubic")


def describe(module: nn.Module) -> Live | None:
    """A live open_clip model (or its `visual`) understood, or None for anything else.

    Raises WeightsError for what a plain ViT does not have.
    """
    if type(module).__module__.partition(".")[0] != "open_clip":
        return None
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

    tower: Any = getattr(module, "visual", module)
    expect(type(tower) is VisionTransformer, f"an image tower of class {type(tower).__name__}")
    expect(tower.attn_pool is None, "attention pooling")
    expect(tower.pool_type in ("tok", "avg"), f"pooling {tower.pool_type!r}")
    expect(type(tower.patch_dropout) is nn.Identity, "patch dropout")
    for block in tower.transformer.resblocks:
        expect(type(block) is ResidualAttentionBlock, f"blocks of class {type(block).__name__}")
        expect(type(block.attn) is nn.MultiheadAttention, f"attention of class {type(block.attn).__name__}")
    first = tower.transformer.resblocks[0]
    average = tower.pool_type == "avg"
    hints = Hints(
        heads=first.attn.num_heads,
        activation=activation_of(first.mlp.gelu),
        norm_eps=norm_eps_of(tower),
        pooling="average" if average else "class",
        norm_after_pool=average and bool(tower.final_ln_after_pool),
        antialias=False,
        preprocess=preprocess_of(getattr(tower, "preprocess_cfg", {})),
    )
    return Live(tower, hints, _features(tower), square(tower.image_size))


def _features(tower: Any) -> Callable[[Tensor], Tensor]:
    def features(images: Tensor) -> Tensor:
        out = tower(images)
        return cast(Tensor, out[0] if isinstance(out, tuple) else out)  # (features, tokens) with output_tokens

    return features
