"""Hugging Face transformers: CLIP's vision tower, ViT and DINOv2 (with or without registers).

Two spellings of the attention's names are in use: the one of the files on the Hub and of older versions of the library
("attention.attention.query") and the one that newer versions use in memory ("attention.q_proj"); both are layouts here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..nn.surgery import State
from .converter import Converter, Missing, Rule, pair
from .hints import NORMALISATIONS, Hints, heads_of_64


def _clip_rules(outer: str) -> tuple[Rule, ...]:
    block = outer + "encoder.layers.{i}."
    attention = block + "self_attn."
    return (
        Rule("patches.weight", (outer + "embeddings.patch_embedding.weight",)),
        Rule("class_token", (outer + "embeddings.class_embedding",)),
        Rule("position", (outer + "embeddings.position_embedding.weight",)),
        *pair("ln_pre", outer + "pre_layrnorm"),
        *pair("blocks.{i}.norm1", block + "layer_norm1"),
        *_qkv(attention + "q_proj", attention + "k_proj", attention + "v_proj", missing_bias="zeros"),
        *pair("blocks.{i}.attention.out", attention + "out_proj"),
        *pair("blocks.{i}.norm2", block + "layer_norm2"),
        *pair("blocks.{i}.mlp.fc1", block + "mlp.fc1"),
        *pair("blocks.{i}.mlp.fc2", block + "mlp.fc2"),
        *pair("norm", outer + "post_layernorm"),
        Rule("projection.weight", ("visual_projection.weight",), missing="absent"),
    )


def _qkv(*names: str, missing_bias: Missing = "absent") -> tuple[Rule, Rule]:
    weight, bias = pair("blocks.{i}.attention.qkv", *names, form="stacked")
    return weight, replace(bias, missing=missing_bias)


def _embeddings() -> tuple[Rule, ...]:
    weight, bias = pair("patches", "embeddings.patch_embeddings.projection")
    return (
        weight,
        replace(bias, missing="zeros"),
        Rule("class_token", ("embeddings.cls_token",), "lead2"),
        Rule("position", ("embeddings.position_embeddings",), "lead1"),
    )


@dataclass(frozen=True)
class _Spelling:
    """How one version of the library spells the parts of a block."""

    blocks: str
    q: str
    k: str
    v: str
    o: str
    fc1: str
    fc2: str

    def attention_and_mlp(self) -> tuple[Rule, ...]:
        at = self.blocks + "{i}."
        return (
            *_qkv(at + self.q, at + self.k, at + self.v),
            *pair("blocks.{i}.attention.out", at + self.o),
            *pair("blocks.{i}.mlp.fc1", at + self.fc1),
            *pair("blocks.{i}.mlp.fc2", at + self.fc2),
        )


_FILE = ("attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense")
_MEMORY = ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj")
_VIT_FILE = _Spelling("encoder.layer.", *_FILE, "intermediate.dense", "output.dense")
_VIT_MEMORY = _Spelling("layers.", *_MEMORY, "mlp.fc1", "mlp.fc2")
_DINO_FILE = _Spelling("encoder.layer.", *_FILE, "mlp.fc1", "mlp.fc2")
_DINO_MEMORY = _Spelling("encoder.layer.", *_MEMORY, "mlp.fc1", "mlp.fc2")


def _vit_rules(spelling: _Spelling) -> tuple[Rule, ...]:
    block = spelling.blocks + "{i}."
    return (
        *_embeddings(),
        *pair("blocks.{i}.norm1", block + "layernorm_before"),
        *pair("blocks.{i}.norm2", block + "layernorm_after"),
        *spelling.attention_and_mlp(),
        *pair("norm", "layernorm"),
    )


def _dinov2_rules(spelling: _Spelling) -> tuple[Rule, ...]:
    block = spelling.blocks + "{i}."
    return (
        *_embeddings(),
        Rule("registers", ("embeddings.register_tokens",), "lead1", "absent"),
        *pair("blocks.{i}.norm1", block + "norm1"),
        *pair("blocks.{i}.norm2", block + "norm2"),
        *spelling.attention_and_mlp(),
        Rule("blocks.{i}.scale1.gamma", (block + "layer_scale1.lambda1",)),
        Rule("blocks.{i}.scale2.gamma", (block + "layer_scale2.lambda1",)),
        *pair("norm", "layernorm"),
    )


def _of_clip(state: State) -> Hints:
    width = next(t for name, t in state.items() if name.endswith("embeddings.class_embedding")).shape[-1]
    return Hints(heads_of_64(width), None, 1e-5, "class", False, False, NORMALISATIONS["clip"])


def _of_vit(state: State) -> Hints:
    return Hints(None, None, None, "class", False, False, None)


def _of_dinov2(state: State) -> Hints:
    registers = "embeddings.register_tokens" in state
    heads = heads_of_64(state["embeddings.cls_token"].shape[-1])
    return Hints(heads, "gelu", 1e-6, "class", False, registers, NORMALISATIONS["imagenet"])


_TEXT = ("text_model.*", "text_projection.*", "logit_scale", "*position_ids")
_HEADS = ("classifier.*", "pooler.*", "embeddings.mask_token", "decoder.*")


def _clip(name: str, outer: str) -> Converter:
    return Converter(
        name=name,
        title="Hugging Face CLIP",
        rules=_clip_rules(outer),
        block=outer + "encoder.layers.",
        anchors=(outer + "embeddings.patch_embedding.weight", outer + "embeddings.class_embedding"),
        documented=_of_clip,
        spare=_TEXT,
        class_row="always",
    )


def _vit(name: str, spelling: _Spelling) -> Converter:
    first = spelling.blocks + "0."
    return Converter(
        name=name,
        title="Hugging Face ViT",
        rules=_vit_rules(spelling),
        block=spelling.blocks,
        anchors=("embeddings.cls_token", f"{first}{spelling.q}.weight", f"{first}layernorm_before.weight"),
        documented=_of_vit,
        prefixes=("", "vit."),
        spare=_HEADS,
        class_row="always",
    )


def _dinov2(name: str, spelling: _Spelling) -> Converter:
    first = spelling.blocks + "0."
    return Converter(
        name=name,
        title="Hugging Face DINOv2",
        rules=_dinov2_rules(spelling),
        block=spelling.blocks,
        anchors=("embeddings.cls_token", f"{first}{spelling.q}.weight", f"{first}layer_scale1.lambda1"),
        documented=_of_dinov2,
        prefixes=("", "dinov2.", "dinov2_with_registers."),
        spare=_HEADS,
        class_row="always",
    )


DINOV2 = _dinov2("hf-dinov2", _DINO_FILE)
LAYOUTS = (
    _clip("hf-clip", "vision_model."),
    _clip("hf-clip-tower", ""),
    _vit("hf-vit", _VIT_FILE),
    _vit("hf-vit-memory", _VIT_MEMORY),
    DINOV2,
    _dinov2("hf-dinov2-memory", _DINO_MEMORY),
)
