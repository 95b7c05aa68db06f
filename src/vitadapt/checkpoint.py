"""A training that survives being killed: its state after the last finished epoch, saved atomically, not too often."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .files import read_sealed, write_sealed
from .surgery import load_trainable_state, trainable_state

SECONDS_BETWEEN = 30.0


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

    def resume(self) -> list[float]:
        """Load the saved state, if there is a whole one -> losses of the epochs that need not be repeated."""
        saved = self._read()
        if saved is None:
            return []
        load_trainable_state(self.model, saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.generator.set_state(saved["generator"])
        return list(saved["losses"])

    def _read(self) -> dict[str, Any] | None:
        body = None if self.path is None else read_sealed(self.path)
        if body is None:  # absent, or damaged: the training starts from the beginning, which is right if slower
            return None
        state: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
        return state

    def save(self, losses: list[float]) -> None:
        """Write the state after an epoch unless the last write is only a moment ago. Raises StorageError."""
        if self.path is None or time.monotonic() - self.last < self.every:
            return
        state = {
            "losses": losses,
            "model": trainable_state(self.model),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }
        body = io.BytesIO()
        torch.save(state, body)
        write_sealed(self.path, body.getvalue())
        self.last = time.monotonic()

    def remove(self) -> None:
        """The training is finished."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
