"""timm's layout of a plain ViT, which DeiT, MAE, MoCo v3 and the original DINO(v2) share up to prefixes and extras."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import floor
from typing import Any

from torch import Tensor, nn

from ..nn.surgery import State
from ..nn.vit import ACTIVATIONS, Pooling, Preprocess
from ..utils.errors import WeightsError
from .converter import Converter, Rule, pair
from .hints import NORMALISATIONS, Hints, Live, activation_of, expect, norm_eps_of, refuse_unknown, square

HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
"""Width -> heads of ViT-Ti, S, B, L and H (Dosovitskiy et al. 2021, table 1; Touvron et al. 2021, table 1)."""

RULES: tuple[Rule, ...] = (
    Rule("patches.weight", ("patch_embed.proj.weight",)),
    Rule("patches.bias", ("patch_embed.proj.bias",), missing="absent"),
    Rule("class_token", ("cls_token",), "lead2", "absent"),
    Rule("registers", ("reg_token",), "lead1", "absent"),
    Rule("position", ("pos_embed",), "lead1"),
    *pair("ln_pre", "norm_pre", missing="absent"),
    *pair("blocks.{i}.norm1", "blocks.{i}.norm1"),
    Rule("blocks.{i}.attention.qkv.weight", ("blocks.{i}.attn.qkv.weight",)),
    Rule("blocks.{i}.attention.qkv.bias", ("blocks.{i}.attn.qkv.bias",), missing="absent"),
    *pair("blocks.{i}.attention.out", "blocks.{i}.attn.proj"),
    Rule("blocks.{i}.scale1.gamma", ("blocks.{i}.ls1.gamma",), missing="absent"),
    *pair("blocks.{i}.norm2", "blocks.{i}.norm2"),
    *pair("blocks.{i}.mlp.fc1", "blocks.{i}.mlp.fc1"),
    *pair("blocks.{i}.mlp.fc2", "blocks.{i}.mlp.fc2"),
    Rule("blocks.{i}.scale2.gamma", ("blocks.{i}.ls2.gamma",), missing="absent"),
)


def _documented(state: State) -> Hints:
    """What timm's model table implies. CLIP's models (with norm_pre) and SigLIP's (no class token) vary in activation.

    Raises WeightsError when the patches have a bias besides norm_pre or neither: timm's ViT always has one of them.
    """
    clip = "norm_pre.weight" in state
    if clip == ("patch_embed.proj.bias" in state):
        what = "besides norm_pre" if clip else "and norm_pre are both missing"
        raise WeightsError(f"incomplete checkpoint (timm ViT): patch_embed.proj.bias {what}")
    has_class = "cls_token" in state
    hints = Hints(
        heads=HEADS.get(state["patch_embed.proj.weight"].shape[0]),
        activation="gelu" if has_class and not clip else None,
        norm_eps=1e-5 if clip else 1e-6,
        pooling="class" if has_class and "norm.weight" in state else "average",
        norm_after_pool="fc_norm.weight" in state,
        antialias=True,
        preprocess=NORMALISATIONS["clip"] if clip else None,
    )
    return replace(hints, preprocess=NORMALISATIONS["imagenet"]) if _fixed_positions(state) else hints


def _fixed_positions(state: State) -> bool:
    """Are these MAE's and MoCo v3's sine-cosine positions? In them, and only there, the class token's row is zero."""
    return "cls_token" in state and not bool(state["pos_embed"].flatten(0, -2)[0].any())


def _documented_moco(state: State) -> Hints:
    """MoCo v3's ViT-S has 12 heads where DeiT's has 6; its fixed positions tell it from other wrapped models."""
    if _fixed_positions(state):
        return replace(_documented(state), heads=12)
    return replace(_documented(state), heads=None)


def _documented_dinov2(state: State) -> Hints:
    registers = "register_tokens" in state
    return replace(_documented(state), antialias=registers, preprocess=NORMALISATIONS["imagenet"])


_ANCHORS = ("patch_embed.proj.weight", "pos_embed", "blocks.0.attn.qkv.weight")
_SPARE = ("head.*", "head_dist.*", "mask_token", "decoder_*")

TIMM = Converter(
    name="timm",
    title="timm ViT",
    rules=(*RULES, *pair("norm", "norm")),
    block="blocks.",
    anchors=(*_ANCHORS, "norm.weight"),
    documented=_documented,
    spare=_SPARE,
    class_row="unless registers",
)
TIMM_POOLED = replace(
    TIMM, name="timm-fc-norm", rules=(*RULES, *pair("norm", "fc_norm")), anchors=(*_ANCHORS, "fc_norm.weight")
)
DINOV2 = replace(
    TIMM,
    name="dinov2",
    title="DINOv2",
    rules=tuple(replace(r, theirs=("register_tokens",)) if r.ours == "registers" else r for r in TIMM.rules),
    anchors=(*TIMM.anchors, "mask_token", "blocks.0.ls1.gamma"),
    documented=_documented_dinov2,
    class_row="always",
)
MOCO_V3 = replace(
    TIMM, name="moco-v3", title="MoCo v3", documented=_documented_moco, prefixes=("module.base_encoder.", "module.")
)
LAYOUTS = (DINOV2, TIMM, TIMM_POOLED, MOCO_V3)


def hints_of_config(config: dict[str, Any]) -> Hints:
    """What the config.json of a timm repository tells beyond its layout. Raises WeightsError for special models."""
    settings = config.get("model_args") or {}
    refuse_unknown(settings, "timm", "timm's model_args")
    activation = settings.get("act_layer")
    expect(activation in (None, *ACTIVATIONS), f"the setting act_layer={activation!r} in timm's model_args")
    pooling: dict[Any, Pooling] = {"token": "class", "avg": "average"}
    return Hints(
        heads=settings.get("num_heads"),
        activation=activation,
        norm_eps=1e-5 if "_clip_" in config.get("architecture", "") else None,
        pooling=pooling.get(config.get("global_pool")),
        preprocess=preprocess_of(config["pretrained_cfg"]),
    )


def preprocess_of(config: dict[str, Any]) -> Preprocess:
    """How timm's pretrained_cfg says that images are prepared."""
    size = config["input_size"][-1]
    resize = floor(size / (config.get("crop_pct") or 1.0)) / size
    return Preprocess(tuple(config["mean"]), tuple(config["std"]), resize)


def describe(module: nn.Module) -> Live | None:
    """A live timm VisionTransformer understood, or None for anything else.

    Raises WeightsError for what a plain ViT does not have.
    """
    if type(module).__module__.partition(".")[0] != "timm":
        return None
    from timm.layers import Mlp, PatchEmbed
    from timm.models.vision_transformer import Attention, Block, VisionTransformer

    vit: Any = module
    expect(type(module) is VisionTransformer, f"the class {type(module).__name__}")
    expect(vit.attn_pool is None, "attention pooling")
    expect(vit.global_pool in ("token", "avg"), f"pooling {vit.global_pool!r}")
    expect(not getattr(vit, "pool_include_prefix", False), "pooling over prefix tokens")
    expect(type(vit.patch_drop) is nn.Identity, "patch dropout")
    plain_patches = type(vit.patch_embed) is PatchEmbed and type(vit.patch_embed.norm) is nn.Identity
    expect(plain_patches, "a special patch embedding")
    expect(not vit.patch_embed.dynamic_img_pad, "padding of images")
    expect(vit.pos_embed is not None, "no position embeddings")
    for block in vit.blocks:
        expect(type(block) is Block, f"blocks of class {type(block).__name__}")
        expect(type(block.attn) is Attention, f"attention of class {type(block.attn).__name__}")
        expect(type(block.mlp) is Mlp, f"an MLP of class {type(block.mlp).__name__}")
        expect(type(block.attn.q_norm) is nn.Identity, "normalised queries and keys")
    first = vit.blocks[0]
    hints = Hints(
        heads=first.attn.num_heads,
        activation=activation_of(first.mlp.act),
        norm_eps=norm_eps_of(module),
        pooling="class" if vit.global_pool == "token" else "average",
        norm_after_pool=type(vit.fc_norm) is not nn.Identity,
        antialias=True,
        preprocess=preprocess_of(vit.pretrained_cfg) if getattr(vit, "pretrained_cfg", None) else None,
    )
    return Live(module, hints, _features(vit), square(vit.patch_embed.img_size))


def _features(vit: Any) -> Callable[[Tensor], Tensor]:
    return lambda images: vit.forward_head(vit.forward_features(images), pre_logits=True)
