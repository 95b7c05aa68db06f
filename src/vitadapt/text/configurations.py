"""What the configurations of open_clip and Hugging Face tell of a text tower, beyond its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..nn.vit import Activation
from ..utils.errors import WeightsError
from ..weights.hints import expect, refuse_unknown
from ..weights.hugging_face_config import activation_named


@dataclass(frozen=True)
class Told:
    """Fields of `TextConfig` that tensors do not tell, and what the tokeniser is.

    tokeniser: the repository that has it; empty for CLIP's byte pairs, or for the folder's own. clean: how open_clip
    prepares texts for it.
    """

    fields: Mapping[str, Any]
    tokeniser: str = ""
    clean: str = ""


_POOLING = {"argmax": "end", "eos": "end", "last": "last", "first": "first"}


def of_open_clip(model: Mapping[str, Any], where: str) -> Told:
    """From open_clip's configuration of a model. Raises WeightsError for a text tower of another kind, by name."""
    text = model["text_cfg"]
    try:
        if "hf_model_name" in text:
            raise WeightsError(f"its text tower is {text['hf_model_name']}, which is no plain text transformer")
        refuse_unknown(text, "open_clip_text", "open_clip's text_cfg")
        norm, activation, tokens = (text.get(f"{part}_kwargs") or {} for part in ("norm", "act", "tokenizer"))
        tanh = activation == {"approximate": "tanh"}
        quick = bool(model.get("quick_gelu", False))
        expect(not activation or (tanh and not quick), f"the setting act_kwargs={activation} in open_clip's text_cfg")
        expect(norm.keys() <= {"eps"}, f"the setting norm_kwargs={norm} in open_clip's text_cfg")
        expect(tokens.keys() <= {"clean"}, f"the setting tokenizer_kwargs={tokens} in open_clip's text_cfg")
        pooling = text.get("pool_type", "argmax")
        expect(pooling in _POOLING, f"the setting pool_type={pooling!r} in open_clip's text_cfg")
    except WeightsError as error:
        raise WeightsError(f"{where}: {error}; use --head zero") from error
    kind: Activation = "quick_gelu" if quick else "gelu_tanh" if tanh else "gelu"
    fields = {
        "heads": text.get("heads", 8),
        "activation": kind,
        "norm_eps": norm.get("eps", 1e-5),
        "causal": not text.get("no_causal_mask", False),
        "pooling": _POOLING[pooling],
        "end": text.get("eos_id", 2) if pooling == "eos" else text.get("vocab_size", 49408) - 1,
    }
    return Told(fields, text.get("hf_tokenizer_name", ""), tokens.get("clean", "whitespace"))


_CLIP = {
    **{"num_attention_heads": 8, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "eos_token_id": 49407},
    **{"causal": True, "pooling": "end"},
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "clip": _CLIP,
    "metaclip_2": _CLIP,
    "siglip": {
        **{"num_attention_heads": 12, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "eos_token_id": 1},
        **{"causal": False, "pooling": "last"},
    },
}
"""Per model type, what a field of text_config means that config.json leaves out, and what is always so."""
LOWER = ("siglip",)
"""Types that were trained on lower-case letters alone, whatever their tokenisers do."""
OLD_END = 2
"""What old configurations of CLIP say the end token is; they mean the tokeniser's."""


def of_hugging_face(config: Mapping[str, Any], where: str) -> Told:
    """From config.json of a model with two towers. Raises WeightsError for a text tower of another kind, by name."""
    kind = config.get("model_type", "clip")
    if kind not in _DEFAULTS:
        known = ", ".join(_DEFAULTS)
        raise WeightsError(f"{where}: the text tower of a {kind} model is not known ({known} are); use --head zero")
    text = config.get("text_config", {})
    try:
        refuse_unknown(text, "hugging_face", "text_config of config.json")
    except WeightsError as error:
        raise WeightsError(f"{where}: {error}; use --head zero") from error
    full = {**_DEFAULTS[kind], **text}
    fields = {
        "heads": full["num_attention_heads"],
        "activation": activation_named(full["hidden_act"]),
        "norm_eps": full["layer_norm_eps"],
        "causal": full["causal"],
        "pooling": full["pooling"],
        "end": full["eos_token_id"],
    }
    return Told(fields)
