"""Methods that are written through the public door alone, one for each kind of change; not registered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from vitadapt import ViT
from vitadapt.methods import (
    Method,
    Place,
    Referring,
    ScaleShift,
    Slot,
    WeightTransform,
    add_delta,
    add_tokens,
    blocks,
    insert,
    slot_layer,
    slot_shape,
)


@dataclass(frozen=True)
class VPT(Method):
    """Learnt tokens before the first block (shallow), or others in every block (deep) (Jia et al. 2022)."""

    tokens: int = 3
    deep: bool = True
    starts_as_identity: ClassVar[bool] = False

    def adapt(self, vit: ViT) -> None:
        count = len(blocks(vit)) if self.deep else 1
        add_tokens(vit, [nn.Parameter(0.5 * torch.randn(self.tokens, vit.config.width)) for _ in range(count)])


class Parallel(nn.Module):
    """scale * (W_up relu(W_down x + b_down) + b_up), which is zero at the start."""

    tokenwise = True

    def __init__(self, width: int, bottleneck: int, scale: float) -> None:
        super().__init__()
        self.down, self.up, self.scale = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width), scale
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.scale * self.up(self.down(x).relu())
        return change


@dataclass(frozen=True)
class AdaptFormer(Method):
    """A bottleneck beside the MLP (Chen et al. 2022), or beside the attention."""

    bottleneck: int = 8
    scale: float = 0.5
    place: Place = "mlp-parallel"

    def adapt(self, vit: ViT) -> None:
        for block in blocks(vit):
            insert(block, self.place, Parallel(vit.config.width, self.bottleneck, self.scale))


@dataclass(frozen=True)
class Scaled(Method):
    """A scale and a shift for every output of the slots (Lian et al. 2022, SSF)."""

    targets: tuple[Slot, ...] = ("v", "o", "fc1", "fc2")

    def adapt(self, vit: ViT) -> None:
        for block in blocks(vit):
            for slot in self.targets:
                add_delta(block, slot, ScaleShift(slot_shape(block, slot)[0]))


class Direction(WeightTransform):
    """m (W + B A) / |W + B A| with the norm of every row (Liu et al. 2024, DoRA); starts with m = |W|."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(rank, weight.shape[1]) * weight.shape[1] ** -0.5)
        self.b = nn.Parameter(torch.zeros(weight.shape[0], rank))
        self.size = nn.Parameter(weight.detach().norm(dim=1, keepdim=True))

    def transform(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        changed = weight + self.b @ self.a
        return self.size * changed / changed.norm(dim=1, keepdim=True), bias


@dataclass(frozen=True)
class DoRA(Method):
    rank: int = 2
    targets: tuple[Slot, ...] = ("v", "fc2")

    def adapt(self, vit: ViT) -> None:
        for block in blocks(vit):
            for slot in self.targets:
                weight, _ = slot_layer(block, slot).original(slot)
                add_delta(block, slot, Direction(weight, self.rank))


class UsesShared(Referring):
    """y + gain * y, where one gain serves all blocks."""

    tokenwise = True
    gain: Tensor

    def forward(self, y: Tensor) -> Tensor:
        return y + self.gain * y


class Gain(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(width))


@dataclass(frozen=True)
class SharedGain(Method):
    """One vector that is used behind every attention: it is registered in `vit.shared` alone."""

    def adapt(self, vit: ViT) -> None:
        layers = blocks(vit)
        vit.shared["gain"] = Gain(vit.config.width)
        for block in layers:
            module = UsesShared()
            module.refer("gain", vit.shared["gain"], "value")
            insert(block, "attention", module)


BY_NAME: dict[str, Method] = {
    "vpt, deep": VPT(),
    "vpt, shallow": VPT(deep=False),
    "adaptformer": AdaptFormer(),
    "beside the attention": AdaptFormer(place="attention-parallel"),
    "ssf": Scaled(),
    "dora": DoRA(),
    "shared gain": SharedGain(),
}
