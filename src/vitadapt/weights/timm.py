"""timm's layout of a plain ViT, which DeiT, MAE, MoCo v3 and the original DINO(v2) share up to prefixes and extras."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from math import floor
from typing import Any, get_args

from torch import Tensor, nn

from ..nn.backbone import Interpolation
from ..nn.surgery import State
from ..nn.vit import ACTIVATIONS, Pooling, Preprocess
from ..utils.errors import WeightsError
from .converter import Converter
from .hints import NORMALISATIONS, UNKNOWN, Hints, Live, activation_of, expect, norm_eps_of, refuse_unknown, square
from .rules import Rule, pair

HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1152: 16, 1280: 16}
"""Width -> heads of ViT-Ti, S, B, L, So400m and H (Dosovitskiy et al. 2021, table 1; Touvron et al. 2021, table 1)."""


def _norm(ours: str, theirs: str) -> tuple[Rule, Rule]:
    """A weight, and a bias that may be absent: of a norm that may be an RMS norm, or of a layer that may lack it."""
    weight, bias = pair(ours, theirs)
    return weight, replace(bias, missing="absent")


_ENDS: tuple[Rule, ...] = (
    Rule("patches.weight", ("patch_embed.proj.weight",)),
    Rule("patches.bias", ("patch_embed.proj.bias",), missing="absent"),
    *pair("patch_norm", "patch_embed.norm", missing="absent"),
    Rule("class_token", ("cls_token",), "lead2", "absent"),
    Rule("registers", ("reg_token",), "lead1", "absent"),
    *pair("ln_pre", "norm_pre", missing="absent"),
    Rule("latent", ("attn_pool.latent",), "lead2", "absent"),
    *(
        rule
        for ours, theirs in (("q", "q"), ("kv", "kv"), ("out", "proj"), ("norm", "norm"))
        for rule in pair(f"attention_pooling.{ours}", f"attn_pool.{theirs}", missing="absent")
    ),
    *pair("attention_pooling.fc1", "attn_pool.mlp.fc1", missing="absent"),
    *pair("attention_pooling.fc2", "attn_pool.mlp.fc2", missing="absent"),
)
_BLOCK: tuple[Rule, ...] = (
    *_norm("blocks.{i}.norm1", "blocks.{i}.norm1"),
    *pair("blocks.{i}.attention.q_norm", "blocks.{i}.attn.q_norm", missing="absent"),
    *pair("blocks.{i}.attention.k_norm", "blocks.{i}.attn.k_norm", missing="absent"),
    *pair("blocks.{i}.attention.norm", "blocks.{i}.attn.norm", missing="absent"),
    *_norm("blocks.{i}.attention.out", "blocks.{i}.attn.proj"),
    *_norm("blocks.{i}.norm2", "blocks.{i}.norm2"),
    *pair("blocks.{i}.mlp.norm", "blocks.{i}.mlp.norm", missing="absent"),
    *_norm("blocks.{i}.mlp.fc2", "blocks.{i}.mlp.fc2"),
)
_QKV: tuple[Rule, ...] = (
    Rule("blocks.{i}.attention.qkv.weight", ("blocks.{i}.attn.qkv.weight",)),
    Rule("blocks.{i}.attention.qkv.bias", ("blocks.{i}.attn.qkv.bias",), missing="absent"),
)
_SCALES: tuple[Rule, ...] = (
    Rule("blocks.{i}.scale1.gamma", ("blocks.{i}.ls1.gamma",), missing="absent"),
    Rule("blocks.{i}.scale2.gamma", ("blocks.{i}.ls2.gamma",), missing="absent"),
)
_PACKED = _norm("blocks.{i}.mlp.fc1", "blocks.{i}.mlp.fc1")
_UNPACKED = tuple(
    replace(rule, theirs=tuple(rule.theirs[0].replace("fc1", half) for half in ("fc1_g", "fc1_x")), form="stacked")
    for rule in _PACKED
)


def _documented(state: State) -> Hints:
    """What timm's model table implies. CLIP's models (with norm_pre) and SigLIP's (no class token) vary in activation.

    Raises WeightsError when the patches have a bias besides norm_pre or neither: timm's ViT always has one of them.
    """
    clip = check_patches(state)
    gated = "blocks.0.mlp.fc1_g.weight" in state
    has_class = "cls_token" in state
    if gated and not has_class:  # AIMv2
        if "patch_embed.norm.weight" not in state:
            raise WeightsError("incomplete checkpoint (timm ViT): patch_embed.norm.weight is missing")
        heads = HEADS.get(len(state["blocks.0.norm1.weight"]), 0) // 2 or None
        return Hints(heads, "silu", 1e-5, "average", "fc_norm.weight" in state, True, NORMALISATIONS["clip"])
    both = clip and "attn_pool.latent" in state  # the Perception Encoder, or another CLIP
    hints = Hints(
        heads=HEADS.get(state["patch_embed.proj.weight"].shape[0]),
        activation="gelu" if has_class and not clip else None,
        norm_eps=1e-5 if clip else 1e-6,
        pooling="class" if has_class and "norm.weight" in state else "average",
        norm_after_pool="fc_norm.weight" in state,
        antialias=True,
        preprocess=NORMALISATIONS["clip"] if clip else None,
        more={"rotary": UNKNOWN, "pool_heads": UNKNOWN} if both else {},
    )
    return replace(hints, preprocess=NORMALISATIONS["imagenet"]) if _fixed_positions(state) else hints


def check_patches(state: State) -> bool:
    """Is there a norm before the blocks? timm's ViTs have that or a bias of the patches; else WeightsError."""
    norm = "norm_pre.weight" in state
    if norm == ("patch_embed.proj.bias" in state):
        what = "besides norm_pre" if norm else "and norm_pre are both missing"
        raise WeightsError(f"incomplete checkpoint (timm ViT): patch_embed.proj.bias {what}")
    return norm


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


_ANCHORS = ("patch_embed.proj.weight", "blocks.0.attn.proj.weight")
SPARE = ("head.*", "head_dist.*", "mask_token", "decoder_*")
_GATED = frozenset({"gated"})
_CROP = 0.875  # what timm does where crop_pct is absent


def layout(
    name: str, rules: tuple[Rule, ...], anchors: tuple[str, ...], documented: Callable[[State], Hints], **more: Any
) -> Iterator[Converter]:
    """The four spellings of a layout: MLP as one or as two matrices, and the final norm before or behind pooling."""
    for (mlp, fc1, first), (end, norm) in product(
        (("", _PACKED, "fc1"), ("-swiglu", _UNPACKED, "fc1_g")), (("", "norm"), ("-fc-norm", "fc_norm"))
    ):
        yield Converter(
            name=name + mlp + end,
            rules=(*_ENDS, *_BLOCK, *rules, *fc1, *_norm("norm", norm)),
            block="blocks.",
            anchors=(*_ANCHORS, *anchors, f"blocks.0.mlp.{first}.weight", f"{norm}.weight"),
            documented=documented,
            spare=SPARE,
            **more,
        )


_POSITION = Rule("position", ("pos_embed",), "lead1")
VARIANTS = tuple(
    layout(
        "timm",
        (_POSITION, *_QKV, *_SCALES),
        ("pos_embed", "blocks.0.attn.qkv.weight"),
        _documented,
        title="timm ViT",
        class_row="unless registers",
        takes=_GATED | {"rotary"},
    )
)
TIMM = VARIANTS[0]
DINOV2 = replace(
    TIMM,
    name="dinov2",
    title="DINOv2",
    rules=tuple(replace(r, theirs=("register_tokens",)) if r.ours == "registers" else r for r in TIMM.rules),
    anchors=(*TIMM.anchors, "mask_token", "blocks.0.ls1.gamma"),
    documented=_documented_dinov2,
    class_row="always",
    takes=_GATED,
)
_W12 = {"blocks.{i}.mlp.fc1": "blocks.{i}.mlp.w12", "blocks.{i}.mlp.fc2": "blocks.{i}.mlp.w3"}
DINOV2_SWIGLU = replace(
    DINOV2,
    name="dinov2-swiglu",
    rules=tuple(
        replace(r, theirs=(_W12[layer] + "." + r.theirs[0].rpartition(".")[2],))
        if (layer := r.ours.rpartition(".")[0]) in _W12
        else r
        for r in DINOV2.rules
    ),
    anchors=tuple("blocks.0.mlp.w12.weight" if ".mlp." in anchor else anchor for anchor in DINOV2.anchors),
    documented=lambda state: replace(_documented_dinov2(state), heads=24, activation="silu"),
)
MOCO_V3 = replace(
    TIMM, name="moco-v3", title="MoCo v3", documented=_documented_moco, prefixes=("module.base_encoder.", "module.")
)
LAYOUTS = (DINOV2, DINOV2_SWIGLU, *VARIANTS, MOCO_V3)


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
    """How timm's pretrained_cfg says that images are prepared. Raises WeightsError for a way that we do not have."""
    size, mode, filter_ = square(config["input_size"][1:]), config.get("crop_mode"), config.get("interpolation")
    expect(mode in (None, "", "center", "squash"), f"images prepared with crop_mode={mode!r}")
    expect(filter_ in (None, "", *get_args(Interpolation)), f"images resized with interpolation={filter_!r}")
    resize = floor(size / (config.get("crop_pct") or _CROP)) / size
    return Preprocess(tuple(config["mean"]), tuple(config["std"]), resize, mode == "squash", filter_ or "bicubic")


def describe(module: nn.Module) -> Live | None:
    """A live timm VisionTransformer understood, or None for anything else.

    Raises WeightsError for what a plain ViT does not have.
    """
    if type(module).__module__.partition(".")[0] != "timm":
        return None
    from timm.layers import AttentionPoolLatent, GluMlp, Mlp, PatchEmbed, SwiGLU
    from timm.models.vision_transformer import Attention, Block, VisionTransformer

    vit: Any = module
    expect(type(module) is VisionTransformer, f"the class {type(module).__name__}")
    pooling = pooling_of(vit)
    if vit.attn_pool is not None:
        expect(type(vit.attn_pool) is AttentionPoolLatent, f"pooling of class {type(vit.attn_pool).__name__}")
        expect(not vit.num_prefix_tokens, "attention pooling of patches beside other tokens")
    expect(vit.attn_pool is not None or not getattr(vit, "pool_include_prefix", False), "pooling over prefix tokens")
    expect(type(vit.patch_drop) is nn.Identity, "patch dropout")
    expect(type(vit.patch_embed) is PatchEmbed, "a special patch embedding")
    expect(not vit.patch_embed.dynamic_img_pad, "padding of images")
    expect(vit.pos_embed is not None, "no position embeddings")
    for block in vit.blocks:
        expect(type(block) is Block, f"blocks of class {type(block).__name__}")
        expect(type(block.attn) is Attention, f"attention of class {type(block.attn).__name__}")
        known = type(block.mlp) in (Mlp, SwiGLU) or getattr(block.mlp, "gate_last", True) is False
        expect(known and isinstance(block.mlp, (Mlp, SwiGLU, GluMlp)), f"an MLP of class {type(block.mlp).__name__}")
    more = {} if vit.attn_pool is None else {"pool_heads": vit.attn_pool.num_heads, "rotary": None}
    return live_of(module, vit, pooling, more)


def live_of(module: nn.Module, vit: Any, pooling: Pooling, more: dict[str, Any]) -> Live:
    """The live model `module`, of which `vit` is the transformer, with what its tensors do not tell."""
    first = vit.blocks[0]
    hints = Hints(
        heads=first.attn.num_heads,
        activation=activation_of(first.mlp.act),
        norm_eps=norm_eps_of(module),
        pooling=pooling,
        norm_after_pool=type(vit.fc_norm) is not nn.Identity,
        antialias=True,
        preprocess=preprocess_of(vit.pretrained_cfg) if getattr(vit, "pretrained_cfg", None) else None,
        more=more,
    )
    return Live(module, hints, features_of(vit), square(vit.patch_embed.img_size))


def pooling_of(vit: Any) -> Pooling:
    """How a live ViT of timm pools. Raises WeightsError for ways that ours does not have."""
    known: dict[str, Pooling] = {"token": "class", "avg": "average", "map": "attention"}
    expect(vit.global_pool in known, f"pooling {vit.global_pool!r}")
    return known[vit.global_pool]


def features_of(vit: Any) -> Callable[[Tensor], Tensor]:
    """A live model's own way to image features."""
    return lambda images: vit.forward_head(vit.forward_features(images), pre_logits=True)
