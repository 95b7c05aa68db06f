"""Text towers of Hugging Face folders, computed by transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..nn.surgery import State
from ..utils.errors import WeightsError
from ..utils.optional import fetching, package
from ..weights.hugging_face_config import activation_named
from .tower import TextConfig, TextTower

TOKENISER_FILES = ("vocab.json", "merges.txt", "tokenizer.json", "special_tokens_map.json")
"""What a repository's tokeniser consists of, besides *config.json."""

_DEFAULTS = {
    **{"num_attention_heads": 8, "num_hidden_layers": 12, "max_position_embeddings": 77, "hidden_act": "quick_gelu"},
    **{"layer_norm_eps": 1e-5, "eos_token_id": 49407},
}
"""What a field of text_config means that config.json leaves out (the library's defaults)."""


class HubTokeniser:
    """A folder's own tokeniser."""

    def __init__(self, inner: Any, context: int) -> None:
        self.inner, self.context = inner, context

    def __call__(self, texts: Sequence[str]) -> Tensor:
        options = {"padding": "max_length", "truncation": True, "max_length": self.context}
        return torch.tensor(self.inner(list(texts), **options)["input_ids"])

    def lengths(self, texts: Sequence[str]) -> list[int]:
        return [len(tokens) for tokens in self.inner(list(texts), verbose=False)["input_ids"]]


class _Network(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return cast(Tensor, self.model(input_ids=tokens).text_embeds)


def matches(state: Mapping[str, Any]) -> bool:
    """Does `state` hold a text tower in Hugging Face's layout?"""
    return "text_model.embeddings.token_embedding.weight" in state


def from_folder(folder: Path, config: Mapping[str, Any], state: State) -> TextTower:
    """The text tower of a folder with a CLIP model. Raises WeightsError when something in it is missing or strange."""
    transformers = package("transformers", "hf")
    if not matches(state) or "text_projection.weight" not in state:
        raise WeightsError(f"{folder} holds no text tower; use --head zero")
    fields = {**_DEFAULTS, **config.get("text_config", {})}
    fields["projection_dim"] = len(state["text_projection.weight"])
    width = state["text_model.final_layer_norm.weight"].shape[0]
    fields |= {"hidden_size": width, "vocab_size": len(state["text_model.embeddings.token_embedding.weight"])}
    fields["intermediate_size"] = len(state["text_model.encoder.layers.0.mlp.fc1.weight"])
    model = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**_without_type(fields)))
    tensors = {name: t.float() for name, t in state.items() if name.startswith(("text_model.", "text_projection."))}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("position_ids")}
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise WeightsError(f"{folder}: its text tower is not a plain CLIP's ({reason})") from error
    scale = state.get("logit_scale")
    known = None if scale is None else float(scale.float().exp())
    text = _config(fields, folder)
    return TextTower(text, _Network(model), _tokeniser(folder, text), known)


def _without_type(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in ("model_type", "transformers_version")}


def _config(fields: Mapping[str, Any], folder: Path) -> TextConfig:
    return TextConfig(
        width=fields["hidden_size"],
        depth=fields["num_hidden_layers"],
        heads=fields["num_attention_heads"],
        context=fields["max_position_embeddings"],
        vocabulary=fields["vocab_size"],
        features=fields["projection_dim"],
        hidden=fields["intermediate_size"],
        activation=activation_named(fields["hidden_act"]),
        norm_eps=fields["layer_norm_eps"],
        end=fields["eos_token_id"],
    )


def _tokeniser(folder: Path, config: TextConfig) -> HubTokeniser:
    """Raises WeightsError when the folder has no tokeniser, or one that knows more tokens than the tower."""
    transformers = package("transformers", "hf")
    with fetching(f"the tokeniser of {folder}"):
        inner = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    if len(inner) > config.vocabulary:
        raise WeightsError(f"{folder}: its tokeniser knows {len(inner)} tokens and its text tower {config.vocabulary}")
    return HubTokeniser(inner, config.context)
