"""timm's Eva: DINOv3, EVA-02 and the Perception Encoder, whose patches have rotary positions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from ..nn.surgery import State
from ..nn.vit import Rotary
from ..utils.errors import WeightsError
from . import timm
from .converter import Converter
from .hints import NORMALISATIONS, UNKNOWN, Hints, Live, expect, heads_of_64, refuse_unknown, square
from .rules import Rule
from .timm import check_patches, layout, live_of, pooling_of

_QKV = "blocks.{i}.attention.qkv."
_ATTN = "blocks.{i}.attn."
_TITLE = "timm Eva (DINOv3, EVA-02, PE)"
EVA02 = Rotary(10000.0, "patches", 16, pairs="neighbours")
"""Angles of EVA-02: those of a grid of 16 x 16 patches, whatever the size."""


def perception_encoder(grid: int) -> Rotary:
    """Angles of a Perception Encoder that was trained with grids of `grid` x `grid` patches."""
    return Rotary(10000.0, "patches", grid, 1.0, "xy", "neighbours")


def _documented(state: State) -> Hints:
    """DINOv3 has no absolute positions; EVA-02 has them, and gates. What else there is was trained in several ways."""
    check_patches(state)
    heads = heads_of_64(state["patch_embed.proj.weight"].shape[0])
    rows = len(state["blocks.0.mlp.fc1.weight"]) if "blocks.0.mlp.fc1.weight" in state else 0
    gated = rows != state["blocks.0.mlp.fc2.weight"].shape[1]
    pooling: Any = "average" if "fc_norm.weight" in state else "class"
    common = Hints(heads, "silu" if gated else "gelu", 1e-6, pooling, "fc_norm.weight" in state, True, None)
    if "pos_embed" not in state:
        for name in ("blocks.0.gamma_1", "cls_token", "reg_token"):
            if name not in state:
                raise WeightsError(f"incomplete checkpoint (timm Eva): pos_embed is missing, and so is {name}")
        return replace(common, norm_eps=1e-5, preprocess=NORMALISATIONS["imagenet"], more={"rotary": Rotary()})
    rotary = EVA02 if gated else UNKNOWN
    return replace(common, preprocess=NORMALISATIONS["clip"], more={"rotary": rotary})


SCALES = tuple(Rule(f"blocks.{{i}}.scale{n}.gamma", (f"blocks.{{i}}.gamma_{n}",), missing="absent") for n in (1, 2))
ATTENTION = (
    Rule(_QKV + "weight", (_ATTN + "qkv.weight",)),
    Rule(_QKV + "bias", (_ATTN + "q_bias", _ATTN + "v_bias"), "without key", "absent"),
)
_SPELLINGS: dict[str, tuple[tuple[Rule, ...], str]] = {
    "": (ATTENTION, "blocks.0.attn.q_bias"),
    "-plain": ((Rule(_QKV + "weight", (_ATTN + "qkv.weight",)),), "blocks.0.gamma_1"),
    "-split": (
        (
            Rule(_QKV + "weight", tuple(f"{_ATTN}{part}_proj.weight" for part in "qkv"), "stacked"),
            Rule(_QKV + "bias", (_ATTN + "q_proj.bias", _ATTN + "v_proj.bias"), "without key", "absent"),
        ),
        "blocks.0.attn.q_proj.weight",
    ),
}
"""How the attention is spelt, and a tensor that tells it."""
LAYOUTS: tuple[Converter, ...] = tuple(
    converter
    for end, (rules, anchor) in _SPELLINGS.items()
    for converter in layout(
        f"timm-eva{end}",
        (Rule("position", ("pos_embed",), "lead1", "absent"), *rules, *SCALES),
        (anchor,),
        _documented,
        title=_TITLE,
        takes=frozenset({"gated", "rotary"}),
    )
)


def describe(module: nn.Module) -> Live | None:
    """A live Eva of timm understood, or None for anything else. Raises WeightsError for what our ViT does not have."""
    if type(module).__module__.partition(".")[0] != "timm" or type(module).__name__ != "Eva":
        return None
    from timm.layers import AttentionRope, GluMlp, Mlp, SwiGLU
    from timm.models.eva import EvaAttention, EvaBlock

    vit: Any = module
    expect(vit.patch_drop is None, "patch dropout")
    expect(not vit.patch_embed.dynamic_img_pad, "padding of images")
    for block in vit.blocks:
        expect(type(block) is EvaBlock, f"blocks of class {type(block).__name__}")
        expect(type(block.attn) in (EvaAttention, AttentionRope), f"attention of class {type(block.attn).__name__}")
        expect(getattr(block.attn, "gate", None) is None, "gated attention")
        expect(type(block.mlp) in (Mlp, GluMlp, SwiGLU), f"an MLP of class {type(block.mlp).__name__}")
        expect(not getattr(block.mlp, "gate_last", False), "a gated MLP whose gate comes last")
    more: dict[str, Any] = {"rotary": _rotary(vit), "image_size": square(vit.patch_embed.img_size)}
    if vit.attn_pool is not None:
        more["pool_heads"] = vit.attn_pool.num_heads
    return live_of(module, vit, pooling_of(vit), more)


def _rotary(vit: Any) -> Rotary | None:
    rope = vit.rope
    if rope is None:
        return None
    half = bool(getattr(vit.blocks[0].attn, "rotate_half", False))
    pairs: Any = "halves" if half else "neighbours"
    order: Any = "xy" if getattr(rope, "grid_indexing", "ij") == "xy" else "yx"
    if type(rope).__name__ == "RotaryEmbeddingDinoV3":
        plain = rope.min_period is None and rope.normalize_coords == "separate" and not rope.grid_offset
        expect(plain, "rotary positions of another scale")
        return Rotary(rope.temperature, "relative", 0, 0.0, order, pairs)
    expect(
        type(rope).__name__ == "RotaryEmbeddingCat" and not rope.in_pixels, f"positions of class {type(rope).__name__}"
    )
    reference = square(rope.ref_feat_shape) if rope.ref_feat_shape else 0
    return Rotary(float(rope.temperature), "patches", reference, float(rope.grid_offset), order, pairs)


def hints_of_config(config: dict[str, Any]) -> Hints:
    """What the config.json of a timm repository tells, the name of its architecture included.

    Raises WeightsError for settings that are not known.
    """
    if (config.get("model_args") or {}).get("use_rot_pos_emb"):
        return _of_arguments(config, config["model_args"])
    _, perception, rest = config.get("architecture", "").partition("vit_pe_core_")
    told = timm.hints_of_config(config)
    if not perception:
        return told
    name, _, sizes = rest.partition("_patch")
    grid = config["pretrained_cfg"]["input_size"][-1] // int(sizes.partition("_")[0])
    more = {"rotary": perception_encoder(grid), "pool_heads": 8}
    widths = {"tiny": 192, "small": 384, "base": 768, "large": 1024, "gigantic": 1536}
    return told.over(Hints(widths[name] // 64, "gelu", 1e-5, "attention", False, True, more=more))


_EPS = {"eva02_tiny_patch14_224": 1e-6, "vit_small_patch16_dinov3": 1e-5}
"""The architectures that exports name, for the eps of their layer norms."""


def _of_arguments(config: dict[str, Any], settings: dict[str, Any]) -> Hints:
    """What an Eva's own arguments tell, where they are all given as in an export."""
    refuse_unknown(settings, "timm_eva", "timm's model_args")
    name, kind = str(config.get("architecture")), settings.get("rope_type")
    expect(name in _EPS and kind in ("cat", "dinov3"), f"the architecture {name} with positions of type {kind}")
    relative, reference = kind == "dinov3", settings.get("ref_feat_shape")
    rotary = Rotary(
        float(settings["rope_temperature"]),
        "relative" if relative else "patches",
        square(reference) if reference and not relative else 0,
        0.0 if relative else float(settings["rope_grid_offset"]),
        "xy" if settings["rope_grid_indexing"] == "xy" else "yx",
        "halves" if settings["rope_rotate_half"] else "neighbours",
    )
    more: dict[str, Any] = {"rotary": rotary, "image_size": square(settings["img_size"])}
    if settings.get("attn_pool_num_heads"):
        more["pool_heads"] = settings["attn_pool_num_heads"]
    pooling: dict[str, Any] = {"token": "class", "avg": "average", "map": "attention"}
    return Hints(
        heads=settings["num_heads"],
        activation="silu" if settings["swiglu_mlp"] else "gelu",
        norm_eps=_EPS[name],
        pooling=pooling[config["global_pool"]],
        norm_after_pool=bool(settings["use_fc_norm"]),
        antialias=True,
        preprocess=timm.preprocess_of(config["pretrained_cfg"]),
        more=more,
    )
