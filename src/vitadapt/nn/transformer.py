"""What every transformer here is made of: blocks with named slots, and the places for what a method adds to them."""

from __future__ import annotations

from torch import Tensor, nn

from .deltas import Computed
from .vit_config import BlockConfig


class Transformer(nn.Module):
    """Blocks between an embedding and a final norm, of images (`ViT`) or of text (`TextTransformer`).

    `shared` holds modules that a method uses in several layers (for example the Kronecker rules of KAdaptation), so
    that they appear, are counted and are saved once. `inserted` holds modules behind the embedding of the "patches" of
    an image or at the "positions" of a text, behind the final "norm", and behind the projection, which gives the
    "features" of an image. `tokens` (P, D) are learnt tokens that go through all blocks behind the others, and are not
    pooled. `side` is a network beside the blocks (see `surgery.add_side`).
    """

    config: BlockConfig
    blocks: nn.ModuleList
    norm: nn.Module
    projection: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.inserted = nn.ModuleDict(), nn.ModuleDict()
        self.side: nn.Module | None = None
        self.tokens: nn.Parameter | Computed | None = None
        self.other_changes: list[str] = []  # of a method, that `surgery` knows no way to merge or to move

    def beside(self, number: int, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Tokens x (B, N, D) behind block `number`, and the state of the side network where there is one."""
        return (x, state) if self.side is None else self.side(number, x, state)

    def reset_parameters(self) -> None:
        """Random weights of a sensible size from torch's global generator (for tests, counting and timing)."""
        for name, parameter in self.named_parameters():
            if parameter.is_meta:
                continue  # holds no numbers; torch would load its compiler to draw none, two seconds of every command
            if parameter.ndim > 1 or name in ("class_token", "latent"):
                nn.init.normal_(parameter, std=0.02 if "patches" not in name else 0.05)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
