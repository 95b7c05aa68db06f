"""What a protocol is, and the registry of protocols."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ...training.task import Task, Trained
from ...utils.registry import Registry
from ..config import RunConfig


@dataclass(frozen=True)
class Budget:
    """The most that a protocol does for one cell. Images count as often as they pass through the network."""

    trials: int  # trainings of the search
    trained: int  # images that pass forward and backward
    scored: int  # training images that only pass forward, to choose by them


class Procedure(Protocol):
    """A protocol: from a task to a trained classifier; what that costs; how many images per class it draws."""

    def __call__(self, task: Task, config: RunConfig) -> Trained: ...

    def budget(self, config: RunConfig, labels: Tensor) -> Budget: ...

    def draws(self, shots: int | None) -> int | None: ...


PROTOCOLS: Registry[Procedure] = Registry("protocol")
