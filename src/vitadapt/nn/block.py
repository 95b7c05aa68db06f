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
from .deltas import Computed, goes_in_place, is_thin, thin_linear, value_of
from .perturbation import Perturbation
from .relative import Places, RelativeBias
from .vit_config import ACTIVATIONS, BlockConfig

Slot = Literal["q", "k", "v", "o", "fc1", "fc2", "gate"]
Layer = Literal["attention", "mlp"]
Place = Literal[
    "attention", "mlp", "block", "attention-input", "mlp-input",
    "attention-parallel", "mlp-parallel", "attention-residual", "mlp-residual",
]  # fmt: skip

EndPlace = Literal["patches", "positions", "norm", "features"]

SLOTS: tuple[Slot, ...] = get_args(Slot)
"""All of them; "gate" is in gated MLPs alone."""
PLACES: tuple[Place, ...] = get_args(Place)
ENDS: tuple[EndPlace, ...] = get_args(EndPlace)
"""Places of a whole network: behind the embedding of the patches, at the positions of a text tower, behind the final
norm, and behind the output projection."""
BEHIND: tuple[Place, ...] = ("attention", "mlp")
CHANGING: tuple[Place | EndPlace, ...] = (*BEHIND, "block", "attention-input", "mlp-input", *ENDS)
"""The places whose module is given what it changes; the output of a module at another place is added."""


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
        self.perturbation: Perturbation | None = None

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
        rough = self.perturbation if self.training else None
        if goes_in_place(x, weight) and rough is None:
            size = len(weight) // len(slots)
            thin = {slot: deltas.pop(slot) for slot in slots if slot in deltas and is_thin(deltas[slot])}
            places = {slot: slice(i * size, (i + 1) * size) for i, slot in enumerate(slots)}
            y = thin_linear(x, weight, bias, [(places[slot], delta) for slot, delta in thin.items()])
        else:
            y = F.linear(x, weight, bias)
        parts = list(y.chunk(len(slots), dim=-1))
        for i, slot in enumerate(slots):
            if slot in deltas:
                change = deltas[slot].branch(x)
                parts[i] = parts[i] + (change if rough is None else rough.change(change))
        return tuple(parts)

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

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.heads, self.rotary, self.causal = config.heads, config.rotary, config.causal
        self.qkv = SlotLinear(config.width, 3 * config.width, ("q", "k", "v"), bias=config.qkv_bias)
        self.out = SlotLinear(config.width, config.width, ("o",), bias=config.linear_bias)
        head = config.width // config.heads
        self.q_norm, self.k_norm = (norm_of(config, head) if config.qk_norm else None for _ in range(2))
        self.norm = norm_of(config) if config.attention_norm else None
        self.relative = RelativeBias(config.relative_grid, config.heads) if config.relative_grid else None

    def forward(self, x: Tensor, first: int | None = None, places: Places | None = None) -> Tensor:
        q, k, v = self.input(x, first, places)
        bias = self.bias(places, k.shape[2], q.shape[2])
        return self.output(F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=self.causal))

    def bias(self, places: Places | None, tokens: int, read: int) -> Tensor | None:
        """What is added to the products of queries and keys, (H, read, N), where positions are relative."""
        if self.relative is None:
            return None
        return cast(Tensor, self.relative(places, tokens))[:, :read]

    def input(self, x: Tensor, first: int | None = None, places: Places | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (of the `first` tokens), keys and values of tokens (B, N, D): (B, H, N, D/H) each."""
        parts = self.qkv(x) if first is None else (*self.qkv(x[:, :first], ("q",)), *self.qkv(x, ("k", "v")))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)  # (B, H, N, D/H)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.rotary is not None and isinstance(places, Tensor):
            q, k = (self.rotary.turn(part, places) for part in (q, k))
        return q, k, v

    def output(self, mixed: Tensor) -> Tensor:
        """Values, mixed by the attention, (B, H, N, D/H) -> (B, N, D)."""
        mixed = mixed.transpose(1, 2).flatten(2)
        (y,) = self.out(mixed if self.norm is None else self.norm(mixed))
        return cast(Tensor, y)


class MLP(nn.Module):
    """Two linear layers around an activation, (B, N, D) -> (B, N, D).

    A gated one (Shazeer 2020, SwiGLU) is fc2(activation(gate(x)) * fc1(x)), with gate and fc1 packed in one layer.
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        slots: tuple[Slot, ...] = ("gate", "fc1") if config.gated else ("fc1",)
        self.fc1 = SlotLinear(config.width, len(slots) * config.mlp_width, slots, bias=config.linear_bias)
        self.fc2 = SlotLinear(config.mlp_width, config.width, ("fc2",), bias=config.linear_bias)
        self.activation = ACTIVATIONS[config.activation]
        self.norm = norm_of(config, config.mlp_width) if config.mlp_norm else None

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.fc1(x)
        hidden = self.activation(first)
        if others:
            hidden = hidden * others[0]
        (y,) = self.fc2(hidden if self.norm is None else self.norm(hidden))
        return cast(Tensor, y)


def norm_of(config: BlockConfig, width: int = 0) -> nn.Module:
    """The kind of norm that `config` names, for vectors of `width` (0: the width of a token)."""
    kind = nn.RMSNorm if config.norm == "rms" else nn.LayerNorm
    return kind(width or config.width, eps=config.norm_eps)


class Block(nn.Module):
    """Pre-norm transformer block, and what a method adds to it.

    `inserted` holds modules by their place (`surgery.insert`). With a sub-layer f (attention, or mlp), its norm and its
    layer scale, a block computes x -> block(x + behind(scale(f(n))) + parallel(n) + residual(x)), n = input(norm(x)):
    "f" stands behind, "f-input" before f, "f-parallel" beside f, "f-residual" beside norm and f, "block" behind all.
    `tokens` (P, D) are learnt tokens that stand behind the others in this block alone.

    Where only the `first` tokens are read, queries, projection and MLP are computed for these alone, which changes no
    number: the other tokens act through their keys and values. An inserted module must say that it treats every token
    by itself (`tokenwise = True`) for this.
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        norm = partial(norm_of, config)
        scale = partial(LayerScale, config.width) if config.layer_scale else nn.Identity
        self.norm1, self.attention, self.scale1 = norm(), Attention(config), scale()
        self.norm2, self.mlp, self.scale2 = norm(), MLP(config), scale()
        self.inserted = nn.ModuleDict()
        self.tokens: nn.Parameter | None = None
        self.perturbation: Perturbation | None = None  # of a training, for its duration

    def forward(self, x: Tensor, first: int | None = None, places: Places | None = None) -> Tensor:
        read = x.shape[1] if first is None else first
        if self.tokens is not None:
            x, first = append_tokens(x, self.tokens), read
        if not all(getattr(module, "tokenwise", False) for module in self.inserted.values()):
            first = None
        normed = self.enter("attention", x)
        x = self.extend("attention", x, normed, self.scale1(self.attention(normed, first, places)))
        normed = self.enter("mlp", x)
        x = self.extend("mlp", x, normed, self.scale2(self.mlp(normed)))
        return self.leave(x, read)

    def enter(self, layer: Layer, x: Tensor) -> Tensor:
        """What a sub-layer gets of the tokens x (B, N, D): normalised, and changed where a method does so."""
        normed = self.norm1(x) if layer == "attention" else self.norm2(x)
        return self._changed(f"{layer}-input", normed)

    def _changed(self, place: str, y: Tensor) -> Tensor:
        """What the module at `place` makes of y (B, N, D), where there is one."""
        if place not in self.inserted:
            return y
        changed = cast(Tensor, self.inserted[place](y))
        return changed if self._rough is None else y + self._rough.change(changed - y)

    @property
    def _rough(self) -> Perturbation | None:
        return self.perturbation if self.training else None

    def extend(self, layer: Layer, x: Tensor, normed: Tensor, y: Tensor) -> Tensor:
        """Tokens x (B, N, D) plus the output y of a sub-layer for the first of them, and what a method adds to it."""
        read = y.shape[1]
        y = self._changed(layer, y)
        for place, seen in ((f"{layer}-parallel", normed), (f"{layer}-residual", x)):
            if place in self.inserted:
                change = self.inserted[place](seen[:, :read])
                y = y + (change if self._rough is None else self._rough.change(change))
        return x[:, :read] + (y if self._rough is None else self._rough.branch(y))

    def leave(self, x: Tensor, read: int) -> Tensor:
        """The `read` first tokens of x behind both sub-layers, as they leave the block."""
        return self._changed("block", x)[:, :read]


def append_tokens(x: Tensor, tokens: Tensor | Computed) -> Tensor:
    """(B, N, D) and (P, D) -> (B, N + P, D)."""
    return torch.cat([x, value_of(tokens).expand(x.shape[0], -1, -1)], dim=1)


def check_slots(slots: Sequence[str]) -> None:
    """Raises ConfigError unless `slots` are one or more of the known slots, each named once."""
    strange = [slot for slot in slots if slot not in SLOTS]
    if strange or not slots or len(set(slots)) < len(slots):
        what = f"{strange[0]!r} is not a slot" if strange else "name at least one slot, and each only once"
        raise ConfigError(f"targets={'+'.join(slots)}: {what}; the slots are {', '.join(SLOTS)}")
