"""A training that survives being killed: its state after the last finished epoch, saved atomically, not too often."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from ..nn.surgery import load_trainable_state, trainable_state
from ..utils.files import read_cached, write_cached
from .data_parallel import shared

SECONDS_BETWEEN = 30.0


def running_statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    """What the batch norms of `model` have seen: training changes it without any gradient."""
    norms = {name: part for name, part in model.named_modules() if isinstance(part, BatchNorm)}
    return {f"{name}.{key}": tensor for name, norm in norms.items() for key, tensor in norm.named_buffers()}


class Checkpoint:
    """State of one training on disk, behind a checksum; does nothing when `path` is None."""

    def __init__(
        self,
        path: Path | None,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        every: float = SECONDS_BETWEEN,
    ) -> None:
        self.path, self.model, self.optimizer, self.generator = path, model, optimizer, generator
        self.every, self.last = every, time.monotonic()

    def resume(self, most: int | None = None) -> list[float]:
        """Load the saved state, if there is a whole one of at most `most` epochs -> the losses of those epochs."""
        saved = self._read()
        if saved is None or (most is not None and len(saved["losses"]) > most):
            return []
        load_trainable_state(self.model, saved["model"])
        for name, tensor in running_statistics(self.model).items():
            tensor.copy_(saved["statistics"][name])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.generator.set_state(saved["generator"])
        return list(saved["losses"])

    def _read(self) -> dict[str, Any] | None:
        body = None if self.path is None else shared(read_cached(self.path))
        if body is None:  # absent, or damaged: the training starts from the beginning, which is right if slower
            return None
        try:
            state: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
            return state if "statistics" in state else None
        except Exception:  # noqa: BLE001 - of another version: torch raises nearly everything
            return None

    def save(self, losses: list[float], at_once: bool = False) -> None:
        """Write the state after an epoch unless the last write is only a moment ago. Raises StorageError."""
        if self.path is None or (time.monotonic() - self.last < self.every and not at_once):
            return
        state = {
            "losses": losses,
            "model": trainable_state(self.model),
            "statistics": {name: t.cpu().clone() for name, t in running_statistics(self.model).items()},
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }
        body = io.BytesIO()
        torch.save(state, body)
        write_cached(self.path, body.getvalue())
        self.last = time.monotonic()

    def remove(self) -> None:
        """The training is finished."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
