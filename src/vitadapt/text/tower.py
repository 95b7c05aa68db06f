"""The text tower of a CLIP model: sentences -> unnormalised vectors in the space of the image features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from ..nn.backbone import Backbone, backbone_digest
from ..nn.vit import Activation
from ..utils.errors import WeightsError
from ..utils.progress import Progress


@dataclass(frozen=True)
class TextConfig:
    """What fixes the function of a text tower apart from its weights and its tokeniser."""

    width: int
    depth: int
    heads: int
    context: int
    vocabulary: int
    features: int
    hidden: int
    activation: Activation
    norm_eps: float = 1e-5
    end: int = 49407  # number of the end token, where the sentence is read off


class Tokeniser(Protocol):
    """Sentences -> token numbers. Sentences that are too long are cut so that the end token stays."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(N, context) token numbers, padded behind the end token."""

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, start and end included, before anything is cut."""


class TextTower(nn.Module):
    """A frozen text transformer with its tokeniser. `network` maps token numbers (N, L) to features (N, E).

    `logit_scale` is the factor between cosines and logits that the model was trained with, None when not known.
    """

    def __init__(
        self, config: TextConfig, network: nn.Module, tokeniser: Tokeniser, logit_scale: float | None = None
    ) -> None:
        super().__init__()
        self.config, self.tokenise, self.logit_scale = config, tokeniser, logit_scale
        self.network = network
        self.float().requires_grad_(False).eval()

    @property
    def features(self) -> int:
        """Width E of the features."""
        return self.config.features

    @property
    def context(self) -> int:
        """Tokens that a sentence may have, start and end included."""
        return self.config.context

    def forward(self, tokens: Tensor) -> Tensor:
        return cast(Tensor, self.network(tokens))

    @torch.no_grad()
    def encode(self, texts: Sequence[str], batch_size: int = 256, progress: Progress | None = None) -> Tensor:
        """Features (N, E) of the texts, unnormalised, fp32, on the CPU; a text does not see the others."""
        return self.encode_tokens(self.tokenise(texts), batch_size, progress)

    @torch.no_grad()
    def encode_tokens(self, tokens: Tensor, batch_size: int = 256, progress: Progress | None = None) -> Tensor:
        """The same from token numbers (N, context). Equal rows are computed once."""
        unique, places = torch.unique(tokens, dim=0, return_inverse=True)
        device = next(self.parameters()).device
        parts = []
        with torch.autocast(device.type, enabled=False):
            for start in range(0, len(unique), batch_size):
                parts.append(self(unique[start : start + batch_size].to(device)).float().cpu())
                if progress is not None:
                    progress("text", min(start + batch_size, len(unique)), len(unique))
        return torch.cat(parts)[places]

    def digest(self) -> str:
        """The identity of configuration and weights; the tokeniser shows in the tokens that it makes."""
        return backbone_digest(self)


def check_pair(tower: TextTower, backbone: Backbone, name: str) -> None:
    """Raises WeightsError unless `tower` and the image tower `backbone` can come from one model.

    A CLIP computes the same activation in both; two different ones mean that one of them was guessed wrong, which
    costs accuracy silently.
    """
    config: Any = backbone.config
    image = getattr(config, "activation", None)
    if image != tower.config.activation:
        raise WeightsError(
            f"{name}: the image tower computes {image} and the text tower {tower.config.activation}; "
            "use the variant of the name with (or without) -quickgelu, or file:PATH?activation=..."
        )
    if config.features != tower.features:
        raise WeightsError(
            f"{name}: image features have {config.features} numbers and text features {tower.features}; "
            "the two towers are not of one model"
        )
