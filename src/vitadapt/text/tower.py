"""The text tower of a CLIP or SigLIP model: sentences -> unnormalised vectors in the space of the image features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn.backbone import Backbone, backbone_digest
from ..nn.matmul import full_precision
from ..nn.text_transformer import TextTransformer
from ..utils.errors import NotApplicable, WeightsError
from ..utils.progress import Progress
from .tokenisers import Tokeniser


class TextTower(nn.Module):
    """A frozen text transformer with its tokeniser. `network` maps token numbers (N, L) to features (N, E).

    `logit_scale` is the factor between cosines and logits that the model was trained with, None when not known;
    `logit_bias` is what it adds to them, None for models that compare classes (see `pair_probabilities`).
    """

    def __init__(
        self,
        network: TextTransformer,
        tokeniser: Tokeniser,
        logit_scale: float | None = None,
        logit_bias: float | None = None,
    ) -> None:
        super().__init__()
        self.config, self.tokenise = network.config, tokeniser
        self.logit_scale, self.logit_bias = logit_scale, logit_bias
        self.network = network
        self.requires_grad_(False).eval()

    def of(self, network: TextTransformer) -> TextTower:
        """The same tower with another network, for example an adapted one."""
        return TextTower(network, self.tokenise, self.logit_scale, self.logit_bias)

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
        with full_precision(device.type):
            for start in range(0, len(unique), batch_size):
                parts.append(self(unique[start : start + batch_size].to(device)).float().cpu())
                if progress is not None:
                    progress("text", min(start + batch_size, len(unique)), len(unique))
        return torch.cat(parts)[places]

    def pair_probabilities(self, images: Tensor, texts: Tensor) -> Tensor:
        """sigmoid(scale cos + bias) of image features (B, E) and text features (N, E), (B, N): does each pair fit?

        Zhai et al. 2023, SigLIP. Raises NotApplicable for a model that was not trained to say so.
        """
        if self.logit_bias is None or self.logit_scale is None:
            raise NotApplicable(
                "this text tower has no bias of its scores (only SigLIP's have); compare classes by softmax"
            )
        cosines = F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
        return (self.logit_scale * cosines + self.logit_bias).sigmoid()

    def digest(self) -> str:
        """The identity of configuration and weights; the tokeniser shows in the tokens that it makes."""
        return backbone_digest(self)


def check_pair(tower: TextTower, backbone: Backbone, name: str) -> None:
    """Raises WeightsError unless `tower` and the image tower `backbone` can come from one model.

    OpenAI's activation is in both towers or in none; otherwise one of them was guessed wrong, which costs accuracy
    silently.
    """
    config: Any = backbone.config
    image, text = getattr(config, "activation", None), tower.config.activation
    if image and (image == "quick_gelu") != (text == "quick_gelu"):
        raise WeightsError(
            f"{name}: the image tower computes {image} and the text tower {text}; "
            "use the variant of the name with (or without) -quickgelu, or file:PATH?activation=..."
        )
    if config.features != tower.features:
        raise WeightsError(
            f"{name}: image features have {config.features} numbers and text features {tower.features}; "
            "the two towers are not of one model"
        )
