"""Methods that leave the backbone as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ..surgery import Method
from ._registry import METHODS


@METHODS.register("linear-probe")
@dataclass(frozen=True)
class LinearProbe(Method):
    """Only the classifier head trains; the features are computed once."""

    def adapt(self, vit: nn.Module) -> None:
        return None


@METHODS.register("zero-shot")
@dataclass(frozen=True)
class ZeroShot(Method):
    """Nothing trains: the head is the text features of the class names, so the backbone needs a text tower."""

    trains_head: ClassVar[bool] = False

    def adapt(self, vit: nn.Module) -> None:
        return None
