"""Which model of timm can hold a network of ours: an architecture, its arguments, the layout of its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...nn.vit import ViTConfig
from ...utils.errors import WeightsError

_VIT = {1e-6: "vit_base_patch16_224", 1e-5: "vit_base_patch32_clip_224"}
_EVA = {1e-6: "eva02_tiny_patch14_224", 1e-5: "vit_small_patch16_dinov3"}
"""eps of the layer norms -> an architecture that has it, which arguments cannot say in JSON."""
_GIANT, _AIMV2 = "vit_giant_patch14_dinov2", "aimv2_large_patch14_224"
"""Likewise for gated MLPs: packed, and unpacked with RMS norms."""
_NOT_OF_BEIT = ("qk_norm", "class_token", "no_embed_class")
_POOLS = {"class": "token", "average": "avg", "attention": "map"}
_KNOWN = {"positions", "rotary", "qk_norm", "attention_norm", "mlp_norm", "gated", "pool_heads", "channels"}
_KNOWN |= {"projection_bias"}  # the projection is folded into the head


@dataclass(frozen=True)
class TimmModel:
    """An architecture of timm with its arguments (`model_args` of a config.json), and our layout for its tensors."""

    architecture: str
    arguments: dict[str, Any]
    layout: str


def model_for(config: ViTConfig) -> TimmModel:
    """The model that computes the same. Raises WeightsError naming what timm has no place for."""
    common, end = _common(config), "-fc-norm" if config.norm_after_pool else ""
    if config.relative_grid:
        model = _beit(config)
        common = {name: value for name, value in common.items() if name not in _NOT_OF_BEIT}
    else:
        model = _eva(config) if config.rotary else _vision_transformer(config)
    return TimmModel(model.architecture, common | model.arguments, model.layout + end)


def _common(config: ViTConfig) -> dict[str, Any]:
    if config.pooling not in _POOLS:
        raise WeightsError("timm's ViT has no pooling of class token and average together; export --to onnx or hf")
    if config.ln_pre and config.patch_bias:
        raise WeightsError("timm's ViT with a norm before the blocks has no patch bias, and this one has; use onnx")
    ratio = config.mlp_width / config.width
    if int(config.width * ratio) != config.mlp_width:
        raise WeightsError(f"timm's ViT cannot have an MLP of width {config.mlp_width}; export --to hf or onnx")
    return {
        "img_size": config.image_size,
        "patch_size": config.patch,
        "in_chans": config.channels,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
        "mlp_ratio": ratio,
        "qkv_bias": config.qkv_bias,
        "qk_norm": config.qk_norm,
        "init_values": 1.0 if config.layer_scale else None,
        "class_token": config.class_token,
        "no_embed_class": bool(config.registers) or not config.class_position,
        "global_pool": _POOLS[config.pooling],
    }


def _lacking(config: ViTConfig, known: set[str]) -> None:
    exact = {"resampling"} if config.resampling != "crop" else set()  # the size of images is fixed
    if strange := sorted(set(config.parts) - known - exact):
        raise WeightsError(f"an export to timm has no {strange[0]} like this; export --to onnx or torch-export")


def _with_eps(config: ViTConfig, known: dict[float, str]) -> str:
    if config.norm_eps not in known:
        raise WeightsError(
            f"timm's ViTs have layer norms with eps 1e-6 or 1e-5, and this one has {config.norm_eps:g}; "
            "export --to hf or onnx"
        )
    return known[config.norm_eps]


def _vision_transformer(config: ViTConfig) -> TimmModel:
    arguments: dict[str, Any] = {
        "reg_tokens": config.registers,
        "pre_norm": config.ln_pre,
        "fc_norm": config.norm_after_pool,
        "act_layer": config.activation,
        "scale_attn_norm": config.attention_norm,
        "scale_mlp_norm": config.mlp_norm,
        "proj_bias": config.linear_bias,
    }
    pool = (config.pool_heads, config.pool_hidden or 4 * config.width)
    if config.pooling == "attention" and (pool != (config.heads, config.mlp_width) or config.prefix):
        raise WeightsError("timm's ViT pools patches alone by attention, with the shape of its blocks; use onnx")
    if config.norm == "rms":
        _lacking(config, _KNOWN | {"norm", "patch_norm", "linear_bias"})
        if not (config.patch_norm and config.gated and config.norm_eps == 1e-5):
            raise WeightsError("timm's ViT with RMS norms is AIMv2's, with gates, eps 1e-5 and a patch norm; use onnx")
        return TimmModel(_AIMV2, arguments, "timm-swiglu")
    _lacking(config, _KNOWN | {"linear_bias"})
    if config.gated:
        packed = {"mlp_ratio": 2 * config.mlp_width / config.width}
        return TimmModel(_with_eps(config, {1e-6: _GIANT}), arguments | packed, "timm")
    return TimmModel(_with_eps(config, _VIT), arguments, "timm")


def _beit(config: ViTConfig) -> TimmModel:
    _lacking(config, {"positions", "channels", "projection_bias", "relative_grid"})
    if config.activation != "gelu":
        raise WeightsError(f"timm's BEiT has no activation {config.activation}; export --to onnx")
    arguments = {"use_abs_pos_emb": config.positions, "use_rel_pos_bias": True, "use_fc_norm": config.norm_after_pool}
    return TimmModel(_with_eps(config, {1e-6: "beit_base_patch16_224"}), arguments, "timm-beit")


def _eva(config: ViTConfig) -> TimmModel:
    """timm's Eva, with EVA-02's attention, or the Perception Encoder's, in which keys have a bias of their own."""
    _lacking(config, _KNOWN)
    rotary = config.rotary
    assert rotary is not None, "told by the caller"
    relative = rotary.scale == "relative"
    if config.activation != ("silu" if config.gated else "gelu") or (config.gated and config.pooling == "attention"):
        raise WeightsError(f"timm's Eva has no activation {config.activation} like this; export --to onnx")
    own_scale = config.layer_scale or not config.positions
    arguments: dict[str, Any] = {
        "attn_type": "eva" if own_scale else "rope",
        "qkv_fused": True,
        "swiglu_mlp": config.gated,
        "swiglu_align_to": 0,
        "scale_mlp": config.mlp_norm,
        "scale_attn_inner": config.attention_norm,
        "num_reg_tokens": config.registers,
        "use_abs_pos_emb": config.positions,
        "use_rot_pos_emb": True,
        "rope_type": "dinov3" if relative else "cat",
        "rope_grid_offset": 0.0 if relative else rotary.offset,
        "rope_grid_indexing": "xy" if rotary.order == "xy" else "ij",
        "rope_temperature": rotary.temperature,
        "rope_rotate_half": rotary.pairs == "halves",
        "ref_feat_shape": [rotary.reference] * 2 if rotary.reference else None,
        "use_pre_transformer_norm": config.ln_pre,
        "use_post_transformer_norm": not config.norm_after_pool,
        "use_fc_norm": config.norm_after_pool,
        "dynamic_img_size": False,
    }
    if config.pooling == "attention":
        hidden = config.pool_hidden or 4 * config.width
        arguments |= {"attn_pool_num_heads": config.pool_heads, "attn_pool_mlp_ratio": hidden / config.width}
    layout = "timm-eva" + ("" if config.qkv_bias else "-plain") if own_scale else "timm"
    layout += "-swiglu" if config.gated and config.mlp_norm else ""
    return TimmModel(_with_eps(config, _EVA), arguments, layout)
