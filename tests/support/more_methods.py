"""Methods that are written through the public door alone (`OWN`, not registered), and one for each kind of change."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitadapt import ViT
from vitadapt.methods import (
    VPT,
    AdaptFormer,
    DoRA,
    Method,
    Place,
    Referring,
    ScaleShift,
    Slot,
    add_delta,
    blocks,
    insert,
    slot_shape,
)


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
class Beside(Method):
    """A bottleneck beside the MLP, or beside the attention, of their input."""

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


OWN: dict[str, Method] = {
    "beside the mlp": Beside(),
    "beside the attention": Beside(place="attention-parallel"),
    "scale and shift": Scaled(),
    "shared gain": SharedGain(),
}
BY_NAME: dict[str, Method] = {
    "vpt, deep": VPT(tokens=3),
    "vpt, shallow": VPT(tokens=3, deep=False),
    "adaptformer": AdaptFormer(bottleneck=8, scale=0.5),
    "dora": DoRA(rank=2, targets=("v", "fc2")),
    **OWN,
}
