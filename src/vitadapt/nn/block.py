"""The transformer block: linear layers whose rows have names, attention, MLP, and the places for what a method adds.

Shapes are written in one alphabet: B images, N tokens, D width, H heads, P added tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..utils.errors import ConfigError
from .deltas import goes_in_place, is_thin, thin_linear
from .vit_config import ACTIVATIONS, ViTConfig

Slot = Literal["q", "k", "v", "o", "fc1", "fc2"]
Place = Literal["attention", "mlp", "attention-parallel", "mlp-parallel"]

SLOTS: tuple[Slot, ...] = get_args(Slot)
PLACES: tuple[Place, ...] = get_args(Place)
BEHIND: tuple[Place, ...] = ("attention", "mlp")


class SlotLinear(nn.Linear):
    """A linear layer whose output rows belong to named slots, each of which may carry a delta.

    Returns one tensor per slot, (B, N, D_in) -> (B, N, D_out / slots) each; only the neighbouring `slots` that are
    asked for, when not all are. A delta is a module with `branch(x)`, `matrix()` and `bias()` (see `deltas.Delta`); as
    a registered sub-module it moves and is saved with the layer.
    """

    def __init__(self, in_features: int, out_features: int, slots: tuple[Slot, ...], bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.slots = slots
        self.deltas = nn.ModuleDict()

    def rows(self, slot: Slot) -> slice:
        """The rows of `weight` that compute `slot`."""
        size, place = self.out_features // len(self.slots), self.slots.index(slot)
        return slice(place * size, (place + 1) * size)

    def forward(self, x: Tensor, slots: tuple[Slot, ...] | None = None) -> tuple[Tensor, ...]:  # type: ignore[override]
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if slots is None:
            slots = self.slots
        else:
            rows = slice(self.rows(slots[0]).start, self.rows(slots[-1]).stop)
            weight, bias = weight[rows], None if bias is None else bias[rows]
        deltas = {slot: cast(Any, self.deltas[slot]) for slot in slots if slot in self.deltas}
        if goes_in_place(x, weight):
            size = len(weight) // len(slots)
            thin = {slot: deltas.pop(slot) for slot in slots if slot in deltas and is_thin(deltas[slot])}
            places = {slot: slice(i * size, (i + 1) * size) for i, slot in enumerate(slots)}
            y = thin_linear(x, weight, bias, [(places[slot], delta) for slot, delta in thin.items()])
        else:
            y = F.linear(x, weight, bias)
        parts = y.chunk(len(slots), dim=-1)
        return tuple(
            part + deltas[slot].branch(x) if slot in deltas else part for slot, part in zip(slots, parts, strict=True)
        )

    def original(self, slot: Slot) -> tuple[Tensor, Tensor | None]:
        """The rows (D_out, D_in) of the weight that compute `slot`, and of the bias where there is one; no delta."""
        return self.weight[self.rows(slot)], None if self.bias is None else self.bias[self.rows(slot)]


class LayerScale(nn.Module):
    """Multiplication by a learnt vector (Touvron et al. 2021, CaiT)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Attention(nn.Module):
    """Multi-head self-attention over all tokens, (B, N, D) -> (B, N, D), or (B, first, D) for the `first` tokens."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = SlotLinear(config.width, 3 * config.width, ("q", "k", "v"), bias=config.qkv_bias)
        self.out = SlotLinear(config.width, config.width, ("o",))

    def forward(self, x: Tensor, first: int | None = None) -> Tensor:
        parts = self.qkv(x) if first is None else (*self.qkv(x[:, :first], ("q",)), *self.qkv(x, ("k", "v")))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)  # (B, H, N, D/H)
        mixed = F.scaled_dot_product_attention(q, k, v)
        (y,) = self.out(mixed.transpose(1, 2).flatten(2))  # (B, H, N, D/H) -> (B, N, D)
        return cast(Tensor, y)


class MLP(nn.Module):
    """Two linear layers around an activation, (B, N, D) -> (B, N, D)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.fc1 = SlotLinear(config.width, config.mlp_width, ("fc1",))
        self.fc2 = SlotLinear(config.mlp_width, config.width, ("fc2",))
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        (hidden,) = self.fc1(x)
        (y,) = self.fc2(self.activation(hidden))
        return cast(Tensor, y)


class Block(nn.Module):
    """Pre-norm transformer block, and what a method adds to it.

    `inserted` holds modules by their place: "attention" and "mlp" stand behind the sub-layer and its layer scale,
    y -> module(y); "attention-parallel" and "mlp-parallel" stand beside it, y -> y + module(x) with the same x (after
    the norm) that the sub-layer gets. `tokens` (P, D) are learnt tokens that stand behind the others in this block
    alone.

    Where only the `first` tokens are read, queries, projection and MLP are computed for these alone, which changes no
    number: the other tokens act through their keys and values. An inserted module must say that it treats every token
    by itself (`tokenwise = True`) for this.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        norm = partial(nn.LayerNorm, config.width, eps=config.norm_eps)
        scale = partial(LayerScale, config.width) if config.layer_scale else nn.Identity
        self.norm1, self.attention, self.scale1 = norm(), Attention(config), scale()
        self.norm2, self.mlp, self.scale2 = norm(), MLP(config), scale()
        self.inserted = nn.ModuleDict()
        self.tokens: nn.Parameter | None = None

    def forward(self, x: Tensor, first: int | None = None) -> Tensor:
        read = x.shape[1] if first is None else first
        if self.tokens is not None:
            x, first = append_tokens(x, self.tokens), read
        if not all(getattr(module, "tokenwise", False) for module in self.inserted.values()):
            first = None
        normed = self.norm1(x)
        x = x[:, :first] + self.extend("attention", normed, self.scale1(self.attention(normed, first)))
        normed = self.norm2(x)
        x = x + self.extend("mlp", normed, self.scale2(self.mlp(normed)))
        return x[:, :read] if self.tokens is not None else x

    def extend(self, layer: Literal["attention", "mlp"], x: Tensor, y: Tensor) -> Tensor:
        """The output y of a sub-layer whose input is x, with what stands behind and beside it: both (B, N, D)."""
        if layer in self.inserted:
            y = self.inserted[layer](y)
        if f"{layer}-parallel" in self.inserted:
            y = y + self.inserted[f"{layer}-parallel"](x[:, : y.shape[1]])
        return y


def append_tokens(x: Tensor, tokens: Tensor) -> Tensor:
    """(B, N, D) and (P, D) -> (B, N + P, D)."""
    return torch.cat([x, tokens.expand(len(x), -1, -1)], dim=1)


def check_slots(slots: Sequence[str]) -> None:
    """Raises ConfigError unless `slots` are one or more of the known slots, each named once."""
    strange = [slot for slot in slots if slot not in SLOTS]
    if strange or not slots or len(set(slots)) < len(slots):
        what = f"{strange[0]!r} is not a slot" if strange else "name at least one slot, and each only once"
        raise ConfigError(f"targets={'+'.join(slots)}: {what}; the slots are {', '.join(SLOTS)}")
