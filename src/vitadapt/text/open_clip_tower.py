"""Text towers in the layout of OpenAI's CLIP, computed by open_clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ..nn.surgery import State, seeded
from ..nn.vit import Activation, quick_gelu
from ..utils.errors import WeightsError
from ..utils.optional import package
from ..weights.hints import heads_of_64
from .tower import TextConfig, TextTower

PREFIXES = ("", "text.", "module.", "module.text.")


class QuickGELU(nn.Module):
    """The activation of OpenAI's CLIP as a module."""

    def forward(self, x: Tensor) -> Tensor:
        return quick_gelu(x)


class BytePairs:
    """CLIP's byte-pair encoding out of open_clip's wheel."""

    def __init__(self, context: int) -> None:
        self.context, self.encoder = context, encoder()

    def __call__(self, texts: Sequence[str]) -> Tensor:
        tokens = torch.zeros(len(texts), self.context, dtype=torch.long)
        for row, text in zip(tokens, texts, strict=True):
            inside = self.encoder.encode(text)[: self.context - 2]  # room for start and end
            row[: len(inside) + 2] = torch.tensor([self.encoder.sot_token_id, *inside, self.encoder.eot_token_id])
        return tokens

    def lengths(self, texts: Sequence[str]) -> list[int]:
        return [len(self.encoder.encode(text)) + 2 for text in texts]


@cache
def encoder() -> Any:
    """open_clip's tokeniser; reading its table takes a moment. Raises WeightsError when open_clip is missing."""
    return package("open_clip", "clip").SimpleTokenizer()


def matches(state: Mapping[str, Any]) -> bool:
    """Does `state` hold a text tower in OpenAI's layout?"""
    return _prefix(state) is not None


def _prefix(state: Mapping[str, Any]) -> str | None:
    anchors = ("token_embedding.weight", "transformer.resblocks.0.attn.in_proj_weight", "ln_final.weight")
    return next((p for p in PREFIXES if all(p + anchor in state for anchor in anchors)), None)


def config_of_state(state: State, activation: Activation, where: str, heads: int | None = None) -> TextConfig:
    """The configuration that the shapes of `state` (without prefix) tell; `heads` None: 64 channels each, as in all of
    OpenAI's. Raises WeightsError when the width is no multiple of 64.
    """
    width = state["ln_final.weight"].shape[0]
    heads = heads or heads_of_64(width)
    if heads is None:
        raise WeightsError(
            f"{where}: a text tower of width {width} is not OpenAI's; a bare file has no number of heads"
        )
    blocks = {name.split(".")[2] for name in state if name.startswith("transformer.resblocks.")}
    vocabulary = state["token_embedding.weight"].shape[0]
    return TextConfig(
        width=width,
        depth=len(blocks),
        heads=heads,
        context=state["positional_embedding"].shape[0],
        vocabulary=vocabulary,
        features=state["text_projection"].shape[1],
        hidden=state["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        activation=activation,
        end=vocabulary - 1,
    )


def build(config: TextConfig, state: State, logit_scale: float | None, where: str) -> TextTower:
    """A tower holding `state`. Raises WeightsError when the tensors or the vocabulary do not fit."""
    if encoder().vocab_size != config.vocabulary:
        raise WeightsError(
            f"{where}: its text tower knows {config.vocabulary} tokens and CLIP's tokeniser {encoder().vocab_size}; "
            "this model needs a tokeniser of its own, give it as a Hugging Face folder"
        )
    network = _network(config)
    try:
        network.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise WeightsError(f"{where}: its text tower is not OpenAI's plain one ({reason})") from error
    return TextTower(config, network, BytePairs(config.context), logit_scale)


def _network(config: TextConfig) -> nn.Module:
    package("open_clip", "clip")
    from open_clip.transformer import TextTransformer

    network: nn.Module = TextTransformer(
        context_length=config.context,
        vocab_size=config.vocabulary,
        width=config.width,
        heads=config.heads,
        layers=config.depth,
        mlp_ratio=config.hidden / config.width,
        output_dim=config.features,
        act_layer={"quick_gelu": QuickGELU, "gelu": nn.GELU}[config.activation],
    )
    return network


def from_state(state: State, activation: Activation, where: str, heads: int | None = None) -> TextTower:
    """The text tower inside a whole checkpoint. Raises WeightsError when there is none or it does not fit."""
    prefix = _prefix(state)
    if prefix is None or prefix + "text_projection" not in state:
        raise WeightsError(f"{where} holds no text tower; use --head zero")
    if activation not in ("quick_gelu", "gelu"):
        raise WeightsError(f"{where}: no text tower computes {activation}; use activation=quick_gelu or gelu")
    inside = {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
    prefixes = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")
    text = {name: tensor for name, tensor in inside.items() if name.startswith(prefixes)}
    scale = state.get("logit_scale", state.get("module.logit_scale"))
    known = None if scale is None else float(scale.float().exp())
    return build(config_of_state(text, activation, where, heads), text, known, where)


def random_tower(config: TextConfig, seed: int) -> TextTower:
    """Random weights, always the same for the same seed."""
    with seeded(seed):
        return TextTower(config, _network(config), BytePairs(config.context), 100.0)
