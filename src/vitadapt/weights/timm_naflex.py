"""timm's NaFlexVit: SigLIP 2 NaFlex and C-RADIO, of which images of any aspect are taken as squares of one size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from ..nn.surgery import State
from .converter import Converter
from .hints import NORMALISATIONS, UNKNOWN, Hints, Live, activation_of, expect, norm_eps_of
from .rules import Rule
from .timm import HEADS, TIMM, features_of, pooling_of, preprocess_of

_EMBEDS: dict[str, tuple[str, Any]] = {
    "patches.weight": ("proj.weight", "last pixels"),
    "patches.bias": ("proj.bias", "same"),
    "patch_norm.weight": ("norm.weight", "same"),
    "patch_norm.bias": ("norm.bias", "same"),
    "class_token": ("cls_token", "lead2"),
    "registers": ("reg_token", "lead1"),
    "position": ("pos_embed", "places"),
}
"""Tensors of ours whose names and forms differ from those of timm's VisionTransformer."""


def _rule(rule: Rule) -> Rule:
    if rule.ours in _EMBEDS:
        name, form = _EMBEDS[rule.ours]
        missing = "error" if rule.ours == "patches.bias" else rule.missing
        return replace(rule, theirs=(f"embeds.{name}",), form=form, missing=missing)
    return replace(rule, missing="absent") if rule.ours.startswith("norm.") else rule


def _documented(state: State) -> Hints:
    """SigLIP 2 NaFlex pools by attention; C-RADIO has no final norm, and no tensor tells how it resamples positions."""
    heads = HEADS.get(len(state["embeds.proj.weight"]))
    if "attn_pool.latent" in state:
        more = {"resampling": "bilinear"}
        return Hints(heads, "gelu_tanh", 1e-6, "average", False, True, NORMALISATIONS["half"], more)
    return Hints(heads, "gelu", 1e-6, "class", False, False, NORMALISATIONS["clip"], {"position_grid": UNKNOWN})


NAFLEX = replace(
    TIMM,
    name="timm-naflex",
    title="timm NaFlexVit (SigLIP 2 NaFlex, C-RADIO)",
    rules=tuple(_rule(rule) for rule in TIMM.rules),
    anchors=("embeds.proj.weight", "embeds.pos_embed", "blocks.0.attn.qkv.weight"),
    documented=_documented,
    class_row="free",
    takes=frozenset({"resampling", "position_grid"}),
)
LAYOUTS: tuple[Converter, ...] = (NAFLEX,)


def describe(module: nn.Module) -> Live | None:
    """A live NaFlexVit of timm understood, or None for anything else. Raises WeightsError for what our ViT lacks."""
    if type(module).__module__.partition(".")[0] != "timm" or type(module).__name__ != "NaFlexVit":
        return None
    from timm.layers import Attention, AttentionPoolLatent
    from timm.models.vision_transformer import Block

    vit: Any = module
    embeds, patch = vit.embeds, vit.embeds.patch_size[0]
    expect(embeds.is_linear and embeds.norm_input is None and embeds.channels_last, "a special patch embedding")
    expect(embeds.pos_embed_type == "learned" and vit.rope is None, "no position embeddings of its own")
    expect(not embeds.pos_embed_align_corners, "positions resampled with aligned corners")
    expect(not embeds.dynamic_img_pad, "padding of images")
    expect(vit.attn_pool is None or type(vit.attn_pool) is AttentionPoolLatent, "another pooling by attention")
    for block in vit.blocks:
        expect(type(block) is Block, f"blocks of class {type(block).__name__}")
        expect(type(block.attn) is Attention, f"attention of class {type(block.attn).__name__}")
    grid, mode = embeds.pos_embed_grid_size[0], embeds.pos_embed_interp_mode
    expect(mode in ("bicubic", "bilinear"), f"positions resampled by {mode}")
    more: dict[str, Any] = {"resampling": mode}
    size = grid * patch
    if embeds.pos_embed_ar_preserving:
        expect(mode == "bilinear", "positions cropped from bicubic ones")
        size = vit.pretrained_cfg["input_size"][-1] if getattr(vit, "pretrained_cfg", None) else size
        more = {"resampling": "crop", "position_grid": grid, "image_size": size}
    if type(vit.norm) is nn.Identity and type(vit.fc_norm) is nn.Identity:
        more["final_norm"] = "none"
    if vit.attn_pool is not None:
        more["pool_heads"] = vit.attn_pool.num_heads
    first = vit.blocks[0]
    hints = Hints(
        heads=first.attn.num_heads,
        activation=activation_of(first.mlp.act),
        norm_eps=norm_eps_of(module),
        pooling=pooling_of(vit),
        norm_after_pool=type(vit.fc_norm) is not nn.Identity,
        antialias=bool(embeds.pos_embed_antialias),
        preprocess=preprocess_of(vit.pretrained_cfg) if getattr(vit, "pretrained_cfg", None) else None,
        more=more,
    )
    return Live(module, hints, features_of(vit), size)
