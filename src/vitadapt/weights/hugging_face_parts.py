"""Hugging Face's DINOv3, SigLIP, AIMv2 and C-RADIO, which have parts that no plain ViT has."""

from __future__ import annotations

from dataclasses import replace
from math import isqrt
from typing import Any

from ..nn.vit import Rotary
from .converter import Converter
from .hints import NORMALISATIONS, Hints, heads_of_64
from .hugging_face import (
    CLIP_LAYERS,
    FILE,
    GATED_MLP,
    MEMORY,
    OTHERS,
    PLAIN_MLP,
    block_rules,
    scale_rules,
    without_bias,
)
from .rules import Form, Rule, pair
from .timm import HEADS


def _dinov3(name: str, block: str, mlp: tuple[str, ...]) -> Converter:
    names = (*(f"attention.{part}_proj" for part in "qkvo"), *mlp)
    layers = block_rules(block + "{i}.", ("norm1", "norm2"), names)
    q, v = (f"{block}{{i}}.attention.{part}_proj.bias" for part in "qv")
    bias = Rule("blocks.{i}.attention.qkv.bias", (q, v), "without key", "absent")
    return Converter(
        name=name,
        title="Hugging Face DINOv3",
        rules=(
            *pair("patches", "embeddings.patch_embeddings"),
            Rule("class_token", ("embeddings.cls_token",), "lead2"),
            Rule("registers", ("embeddings.register_tokens",), "lead1", "absent"),
            *(rule for rule in layers if rule.ours != bias.ours),
            bias,
            *scale_rules(block),
            *pair("norm", "norm"),
        ),
        block=block,
        anchors=("embeddings.patch_embeddings.weight", f"{block}0.{mlp[0]}.weight", f"{block}0.layer_scale1.lambda1"),
        documented=lambda state: Hints(
            *(heads_of_64(len(state["norm.weight"])), "silu" if len(mlp) > 2 else "gelu", 1e-5, "class", False, False),
            NORMALISATIONS["imagenet"],
            {"rotary": Rotary()},
        ),
        prefixes=("", "dinov3_vit."),
        spare=("embeddings.mask_token", "classifier.*"),
        takes=frozenset({"rotary"} | ({"gated"} if len(mlp) > 2 else set())),
    )


def _siglip() -> Converter:
    head = "head."
    packed: tuple[tuple[str, Form], ...] = (("q", "first third"), ("kv", "other thirds"))
    return Converter(
        name="hf-siglip",
        title="Hugging Face SigLIP",
        rules=(
            *pair("patches", "embeddings.patch_embedding"),
            Rule("position", ("embeddings.position_embedding.weight",)),
            *block_rules("encoder.layers.{i}.", ("layer_norm1", "layer_norm2"), CLIP_LAYERS),
            *pair("norm", "post_layernorm"),
            Rule("latent", (head + "probe",), "lead2", "absent"),
            *(
                Rule(f"attention_pooling.{part}.{kind}", (f"{head}attention.in_proj_{kind}",), form, "absent")
                for kind in ("weight", "bias")
                for part, form in packed
            ),
            *pair("attention_pooling.out", head + "attention.out_proj", missing="absent"),
            *pair("attention_pooling.norm", head + "layernorm", missing="absent"),
            *pair("attention_pooling.fc1", head + "mlp.fc1", missing="absent"),
            *pair("attention_pooling.fc2", head + "mlp.fc2", missing="absent"),
        ),
        block="encoder.layers.",
        anchors=("embeddings.patch_embedding.bias", "embeddings.position_embedding.weight", "post_layernorm.weight"),
        documented=lambda state: Hints(
            *(HEADS.get(len(state["post_layernorm.weight"])), "gelu_tanh", 1e-6, "average", False, False),
            NORMALISATIONS["half"],
        ),
        prefixes=("", "vision_model."),
        spare=("*position_ids", "classifier.*", *OTHERS),
    )


def _aimv2() -> Converter:
    block = "encoder.layers.{i}."
    names = (
        *(f"attention.{part}_proj" for part in ("q", "k", "v", "out")),
        "ffn.gate_proj",
        "ffn.up_proj",
        "ffn.down_proj",
    )
    layers = block_rules(block, ("rms_norm1", "rms_norm2"), names)
    return Converter(
        name="hf-aimv2",
        title="Hugging Face AIMv2",
        rules=(
            *pair("patches", "embeddings.patch_embed"),
            Rule("patch_norm.weight", ("embeddings.rms_norm.weight",)),
            Rule("position", ("embeddings.position_embedding.weight",)),
            *(replace(rule, missing="absent") if rule.ours.endswith("bias") else rule for rule in layers),
            Rule("norm.weight", ("rms_norm.weight",)),
        ),
        block="encoder.layers.",
        anchors=("embeddings.patch_embed.weight", "embeddings.rms_norm.weight"),
        documented=lambda state: Hints(
            *((HEADS.get(len(state["rms_norm.weight"]), 0) // 2 or None), "silu", 1e-5, "average", False, False),
            NORMALISATIONS["clip"],
        ),
        prefixes=("", "vision_model."),
        spare=("*position_ids", *OTHERS),
        takes=frozenset({"gated"}),
    )


def _beit(memory: bool, shared: bool) -> Converter:
    """BEiT, in files and in memory; a table of relative positions in every block, or one for all."""
    block = "layers.{i}." if memory else "encoder.layer.{i}."
    layers = (*MEMORY, "mlp.fc1", "mlp.fc2") if memory else (*FILE, "intermediate.dense", "output.dense")
    rules = block_rules(block, ("layernorm_before", "layernorm_after"), layers)
    bias = Rule(
        "blocks.{i}.attention.qkv.bias", (f"{block}{layers[0]}.bias", f"{block}{layers[2]}.bias"), "without key"
    )
    own = block + ("" if memory else "attention.attention.") + "relative_position_bias."
    whole = "shared_position_bias." if memory else "encoder.relative_position_bias."
    table = (whole if shared else own) + "relative_position_bias_table"
    return Converter(
        name="hf-beit" + ("-memory" if memory else "") + ("-shared" if shared else ""),
        title="Hugging Face BEiT",
        rules=(
            *pair("patches", "embeddings.patch_embeddings.projection"),
            Rule("class_token", ("embeddings.cls_token",), "lead2"),
            Rule("position", ("embeddings.position_embeddings",), "lead1", "absent"),
            *(rule for rule in rules if rule.ours != bias.ours),
            bias,
            *(Rule(f"blocks.{{i}}.scale{n}.gamma", (f"{block}lambda_{n}",), missing="absent") for n in (1, 2)),
            Rule("blocks.{i}.attention.relative.table", (table,), "shared" if shared else "same"),
            *pair("norm", "pooler.layernorm"),
        ),
        block=block.partition("{")[0],
        anchors=("embeddings.cls_token", table.replace("{i}", "0"), "pooler.layernorm.weight"),
        documented=lambda state: Hints(None, "gelu", 1e-12, "average", True, False, NORMALISATIONS["half"]),
        prefixes=("", "beit."),
        spare=("embeddings.mask_token", "classifier.*", "*relative_position_index", "lm_head.*"),
        class_row="always",
    )


def _radio() -> Converter:
    block, tokens = "encoder.layer.", "embeddings.cls_register_token"
    return Converter(
        name="hf-radio",
        title="Hugging Face C-RADIO",
        rules=(
            Rule("patches.weight", ("embeddings.patch_projection.weight",), "pixels"),
            Rule("class_token", (tokens,), "first row"),
            Rule("registers", (tokens,), "other rows"),
            Rule("position", ("embeddings.position_embedding",), "lead1"),
            *without_bias(
                block_rules(block + "{i}.", ("norm1", "norm2"), (*MEMORY, *PLAIN_MLP)),
                "blocks.{i}.attention.qkv",
                "absent",
            ),
            *scale_rules(block),
        ),
        block=block,
        anchors=("embeddings.patch_projection.weight", tokens),
        documented=lambda state: Hints(
            *(HEADS.get(state[tokens].shape[1]), "gelu", 1e-6, "class", False, False, NORMALISATIONS["clip"]),
            _radio_parts(isqrt(state["embeddings.position_embedding"].shape[1])),
        ),
        spare=("input_conditioner.*", "summary_idxs"),
        takes=frozenset({"class_tokens", "resampling", "position_grid"}),
    )


def _radio_parts(grid: int) -> dict[str, Any]:
    return {"class_tokens": 2, "resampling": "crop", "position_grid": grid, "final_norm": "none"}


LAYOUTS = (
    *(
        _dinov3(f"hf-dinov3{place}{gated}", block, mlp)
        for place, block in (("", "layer."), ("-memory", "model.layer."))
        for gated, mlp in (("-swiglu", GATED_MLP), ("", ("mlp.up_proj", "mlp.down_proj")))
    ),
    _siglip(),
    _aimv2(),
    _radio(),
    *(_beit(memory, shared) for memory in (False, True) for shared in (False, True)),
)
