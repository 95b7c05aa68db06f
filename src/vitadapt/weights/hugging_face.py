"""Hugging Face transformers: CLIP's vision tower, SigLIP, ViT, I-JEPA, DINOv2, DINOv3, TIPSv2, AIMv2 and C-RADIO.

Two spellings of the attention's names are in use: the one of the files on the Hub and of older versions of the library
("attention.attention.query") and the one that newer versions use in memory ("attention.q_proj"); both are layouts here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..nn.surgery import State
from .converter import Converter
from .hints import NORMALISATIONS, Hints, heads_of_64
from .rules import Missing, Rule, pair

OTHERS = ("text_model.*", "text_projection.*", "text_encoder.*", "logit_scale", "logit_bias", "temperature")
"""What stands beside an image tower and has no influence on its features."""


def block_rules(block: str, norms: tuple[str, str], layers: tuple[str, ...]) -> tuple[Rule, ...]:
    """The rules for a block named `block`: its norms, and its layers q, k, v, o, the gate if there is one, fc1, fc2."""
    q, k, v, o, *fc1, fc2 = (block + layer for layer in layers)
    return (
        *pair("blocks.{i}.norm1", block + norms[0]),
        *pair("blocks.{i}.attention.qkv", q, k, v, form="stacked"),
        *pair("blocks.{i}.attention.out", o),
        *pair("blocks.{i}.norm2", block + norms[1]),
        *pair("blocks.{i}.mlp.fc1", *fc1, form="stacked" if len(fc1) > 1 else "same"),
        *pair("blocks.{i}.mlp.fc2", fc2),
    )


def without_bias(rules: tuple[Rule, ...], ours: str, missing: Missing) -> tuple[Rule, ...]:
    """The same rules, where the layer `ours` may lack its bias."""
    return tuple(replace(rule, missing=missing) if rule.ours == f"{ours}.bias" else rule for rule in rules)


CLIP_LAYERS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
FILE = ("attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense")
MEMORY = ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj")


def _of_clip(state: State) -> Hints:
    width = next(t for name, t in state.items() if name.endswith("embeddings.class_embedding")).shape[-1]
    return Hints(heads_of_64(width), None, 1e-5, "class", False, False, NORMALISATIONS["clip"])


def _of_vit(state: State) -> Hints:
    return Hints(None, None, None, "class", False, False, None)


def _of_dinov2(state: State) -> Hints:
    registers = "embeddings.register_tokens" in state
    heads = heads_of_64(state["embeddings.cls_token"].shape[-1])
    return Hints(heads, "gelu", 1e-6, "class", False, registers, NORMALISATIONS["imagenet"])


def _clip(name: str, outer: str) -> Converter:
    block = block_rules(outer + "encoder.layers.{i}.", ("layer_norm1", "layer_norm2"), CLIP_LAYERS)
    return Converter(
        name=name,
        title="Hugging Face CLIP",
        rules=(
            Rule("patches.weight", (outer + "embeddings.patch_embedding.weight",)),
            Rule("class_token", (outer + "embeddings.class_embedding",)),
            Rule("position", (outer + "embeddings.position_embedding.weight",)),
            *pair("ln_pre", outer + "pre_layrnorm"),
            *without_bias(block, "blocks.{i}.attention.qkv", "zeros"),
            *pair("norm", outer + "post_layernorm"),
            Rule("projection.weight", ("visual_projection.weight",), missing="absent"),
        ),
        block=outer + "encoder.layers.",
        anchors=(outer + "embeddings.patch_embedding.weight", outer + "embeddings.class_embedding"),
        documented=_of_clip,
        spare=("text_model.*", "text_projection.*", "logit_scale", "*position_ids"),
        class_row="always",
    )


def _vit(
    name: str,
    title: str,
    documented: Callable[[State], Hints],
    block: str,
    norms: tuple[str, str],
    layers: tuple[str, ...],
    prefixes: tuple[str, ...],
    more: tuple[Rule, ...] = (),
    class_token: bool = True,
) -> Converter:
    rules = (
        *pair("patches", "embeddings.patch_embeddings.projection"),
        Rule("class_token", ("embeddings.cls_token",), "lead2", "error" if class_token else "absent"),
        Rule("position", ("embeddings.position_embeddings",), "lead1"),
        *without_bias(block_rules(block + "{i}.", norms, layers), "blocks.{i}.attention.qkv", "absent"),
        *more,
        *pair("norm", "layernorm"),
    )
    own = [rule.theirs[0] for rule in more if rule.missing == "error"] or [f"{block}{{i}}.{norms[0]}.weight"]
    return Converter(
        name=name,
        title=title,
        rules=without_bias(rules, "patches", "zeros"),
        block=block,
        anchors=(
            "embeddings.cls_token" if class_token else "embeddings.position_embeddings",
            f"{block}0.{layers[0]}.weight",
            own[0].replace("{i}", "0"),
        ),
        documented=documented,
        prefixes=prefixes,
        spare=("classifier.*", "pooler.*", "embeddings.mask_token", "decoder.*", *OTHERS),
        class_row="always",
        takes=frozenset({"resampling"} | ({"gated"} if len(layers) > 6 else set())),
    )


def _plain(name: str, block: str, layers: tuple[str, ...]) -> Converter:
    norms = ("layernorm_before", "layernorm_after")
    return _vit(name, "Hugging Face ViT", _of_vit, block, norms, layers, ("", "vit."))


def _ijepa(name: str, block: str, layers: tuple[str, ...]) -> Converter:
    """I-JEPA: a ViT without class token."""
    norms = ("layernorm_before", "layernorm_after")
    told = Hints(None, None, None, "average", False, False, None)
    return _vit(name, "Hugging Face I-JEPA", lambda _: told, block, norms, layers, ("", "ijepa."), class_token=False)


def scale_rules(block: str) -> tuple[Rule, ...]:
    return tuple(Rule(f"blocks.{{i}}.scale{n}.gamma", (f"{block}{{i}}.layer_scale{n}.lambda1",)) for n in (1, 2))


PLAIN_MLP, GATED_MLP = ("mlp.fc1", "mlp.fc2"), ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def _dinov2(name: str, attention: tuple[str, ...], mlp: tuple[str, ...] = PLAIN_MLP) -> Converter:
    block = "encoder.layer."
    more = (Rule("registers", ("embeddings.register_tokens",), "lead1", "absent"), *scale_rules(block))
    prefixes = ("", "dinov2.", "dinov2_with_registers.", "vision_model.")
    made = _vit(name, "Hugging Face DINOv2", _of_dinov2, block, ("norm1", "norm2"), (*attention, *mlp), prefixes, more)
    return replace(made, anchors=(*made.anchors, f"{block}0.{mlp[0]}.weight"))


def _packed_dinov2() -> Converter:
    """DINOv2 giant as it is on the Hub: gate and fc1 packed."""
    made = _dinov2("hf-dinov2-swiglu", FILE, ("mlp.weights_in", "mlp.weights_out"))
    return replace(made, takes=made.takes | {"gated"})


DINOV2 = _dinov2("hf-dinov2", FILE)
LAYOUTS = (
    _clip("hf-clip", "vision_model."),
    _clip("hf-clip-tower", ""),
    _plain("hf-vit", "encoder.layer.", (*FILE, "intermediate.dense", "output.dense")),
    _plain("hf-vit-memory", "layers.", (*MEMORY, "mlp.fc1", "mlp.fc2")),
    _ijepa("hf-ijepa", "encoder.layer.", (*FILE, "intermediate.dense", "output.dense")),
    _ijepa("hf-ijepa-memory", "layers.", (*MEMORY, "mlp.fc1", "mlp.fc2")),
    DINOV2,
    _dinov2("hf-dinov2-memory", MEMORY),
    _packed_dinov2(),
    _dinov2("hf-dinov2-memory-swiglu", MEMORY, GATED_MLP),
)
