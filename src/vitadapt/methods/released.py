"""The four methods as the published code of KAdaptation (PEViT, commit be6fb43) computes them, defects included.

They exist to reproduce published numbers and run only under the protocol `elevater-released`. What each does apart
from its paper is named by its number (docs/released.md); `breaks` lists the laws of `vitadapt.methods.laws`
that it breaks for that reason, and a test holds it to exactly those:

    kadaptation-released   Q1-Q7: no factor ever receives a gradient, and the update mixes heads, tokens and images
    lora-released          Q3, Q4: the update mixes heads, tokens and images
    adapter-released       Q9: the network is disturbed before the first step
    compacter-released     Q8, Q9: the same, and its shared weights stay random
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from ..nn.surgery import Method, add_delta, blocks, insert, require_vit
from ..nn.vit import ViT
from ..utils.errors import ConfigError
from .adapter import Bottleneck
from .compacter import PHMLinear, Rules, insert_phm_bottlenecks
from .kadaptation import Rule, ThinKronecker, thin_factors
from .lora import LowRank
from .registry import METHODS

TERMS = 32  # n of KAdaptation
RANK = 4  # of LoRA
ALPHA = 128.0
BOTTLENECK = 64  # of Adapter and Compacter
MIXES = frozenset({"law_rows_are_independent", "law_branch_is_matrix_and_bias"})


class Mixing(nn.Module):
    """Stands behind an attention whose update mixes tokens and images: it is computed whole and never merged."""

    tokenwise = False

    def forward(self, y: Tensor) -> Tensor:
        return y


def scramble(change: Tensor, heads: int) -> Tensor:
    """(B, N, D) -> (B, N, D): laid out as (N, B, D) in memory and read as (B, H, N, D/H) without a transpose (Q3).

    The vector for image s, head h and token l thus is chunk g mod H of row g // H of the N B rows, g = (s H + h) N + l.
    """
    B, N, D = change.shape
    read = change.transpose(0, 1).reshape(B, heads, N, D // heads)
    return read.transpose(1, 2).flatten(2)  # (B, H, N, D/H) -> (B, N, D)


def gains(vit: ViT) -> dict[str, float]:
    """Factor of each slot's change: q's is added when q is divided by sqrt(d) already (Q4)."""
    return {"q": math.sqrt(vit.config.width / vit.config.heads), "v": 1.0}


class ReleasedLowRank(LowRank):
    """gain * scramble(scale * B A x); A ~ N(0, 0.02^2), B = 0."""

    def __init__(self, width: int, heads: int, gain: float) -> None:
        super().__init__((width, width), RANK, ALPHA / RANK)
        self.heads, self.gain = heads, gain
        nn.init.normal_(self.a, std=0.02)

    def branch(self, x: Tensor) -> Tensor:
        return self.gain * scramble(super().branch(x), self.heads)


class ReleasedKronecker(ThinKronecker):
    """gain * scramble(160 sum_i (s_i t_i^T) (x) (u_i v_i^T) x + shift) with u = v = 0 (Q1, Q5, Q6).

    With a `lender` the factors u and v are the lender's, and its own are never used (Q2).
    """

    lent_u: Tensor
    lent_v: Tensor

    def __init__(self, vit: ViT, slot: str, gain: float, lender: ThinKronecker | None = None) -> None:
        width = vit.config.width
        super().__init__(vit.shared, f"rule_{slot}", (width, width), TERMS, 1, 5 * ALPHA / RANK)
        nn.init.zeros_(self.v)
        self.heads, self.gain = vit.config.heads, gain
        self.refer("lent_u", lender or self, "u")
        self.refer("lent_v", lender or self, "v")
        if lender is None:
            self.shift = nn.Parameter(torch.zeros(width))
        else:
            self.refer("shift", lender, "shift")

    def factors(self) -> tuple[Tensor, Tensor]:
        return thin_factors(self.rule, self.lent_u, self.lent_v, self.scale)

    def branch(self, x: Tensor) -> Tensor:
        return self.gain * scramble(super().branch(x), self.heads)


@METHODS.register("kadaptation-released")
@dataclass(frozen=True)
class KAdaptationReleased(Method):
    """Published KAdaptation: all its factors start at zero and stay there; only a vector per block learns (Q1-Q7)."""

    breaks: ClassVar[frozenset[str]] = MIXES | {"law_trainable_tensors_learn"}

    def adapt(self, vit: ViT) -> None:
        layers, gain = blocks(vit), gains(require_vit(vit))
        if vit.config.width % TERMS:
            raise ConfigError(f"kadaptation-released: a width of {vit.config.width} is no multiple of {TERMS}")
        rules = {slot: Rule(TERMS, 1) for slot in ("q", "v")}
        for factor in (factor for rule in rules.values() for factor in (rule.t, rule.s)):
            nn.init.uniform_(cast(Tensor, factor), -0.01, 0.01)
        vit.shared.update({f"rule_{slot}": rule for slot, rule in rules.items()})
        for block in layers:
            query = ReleasedKronecker(vit, "q", gain["q"])
            add_delta(block, "q", query)
            add_delta(block, "v", ReleasedKronecker(vit, "v", gain["v"], query))
            insert(block, "attention", Mixing())


@METHODS.register("lora-released")
@dataclass(frozen=True)
class LoRAReleased(Method):
    """Published LoRA, rank 4 and factor 32: what an image becomes depends on the others of its batch (Q3, Q4)."""

    breaks: ClassVar[frozenset[str]] = MIXES

    def adapt(self, vit: ViT) -> None:
        layers, gain = blocks(vit), gains(require_vit(vit))
        for block in layers:
            add_delta(block, "q", ReleasedLowRank(vit.config.width, vit.config.heads, gain["q"]))
            add_delta(block, "v", ReleasedLowRank(vit.config.width, vit.config.heads, gain["v"]))
            insert(block, "attention", Mixing())


@METHODS.register("adapter-released")
@dataclass(frozen=True)
class AdapterReleased(Method):
    """Published adapters of width 64: W_down and W_up ~ N(0, 0.02^2), so that the features start disturbed (Q9)."""

    breaks: ClassVar[frozenset[str]] = frozenset({"law_starts_as_identity"})

    def adapt(self, vit: ViT) -> None:
        width = require_vit(vit).config.width
        for block in blocks(vit):
            down, up = nn.Linear(width, BOTTLENECK), nn.Linear(BOTTLENECK, width)
            for layer in (down, up):
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
            insert(block, "mlp", Bottleneck(width, down, up, "relu"))


@METHODS.register("compacter-released")
@dataclass(frozen=True)
class CompacterReleased(Method):
    """Published Compacter: shared weights frozen at random values (Q8), and a disturbed start (Q9)."""

    breaks: ClassVar[frozenset[str]] = frozenset({"law_starts_as_identity", "law_state_round_trip"})

    def adapt(self, vit: ViT) -> None:
        insert_phm_bottlenecks(vit, blocks(vit), BOTTLENECK, 4, 1, "gelu_tanh")
        _freeze(cast(Rules, vit.shared["rules"]))
        layers = [module for module in vit.modules() if isinstance(module, PHMLinear)]
        for factor in (factor for layer in layers for factor in (layer.left, layer.right)):
            for term in cast(Tensor, factor):  # each is a matrix of its own
                nn.init.xavier_uniform_(term, gain=math.sqrt(2))


def _freeze(rules: Rules) -> None:
    """Turn the shared weights into a constant: no parameter, and so not in the published count."""
    weight = rules.weight.detach()
    del rules.weight
    rules.register_buffer("weight", weight)
