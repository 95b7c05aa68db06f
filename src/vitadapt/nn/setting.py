"""Where a network computes, in what precision, and who is told how it goes."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from ..utils.progress import OnEpoch, Progress
from .matmul import full_precision


@dataclass(frozen=True)
class Setting:
    """Where and how precisely arithmetic happens; the part of a run that should not change its result."""

    device: str = "cpu"
    precision: str = "fp32"
    progress: Progress | None = None
    on_epoch: OnEpoch | None = None

    def autocast(self) -> AbstractContextManager[None]:
        kind = torch.device(self.device).type
        return torch.autocast(kind, dtype=torch.bfloat16) if self.precision == "bf16" else full_precision(kind)

    def report(self, label: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(label, done, total)
