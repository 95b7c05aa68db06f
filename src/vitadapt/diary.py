"""The scores of a search whose trials draw from one stream of random numbers, so that each depends on all before.

After every trial all scores are kept together with the state of the stream: a search that was killed goes on from
there, to the same numbers.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .files import read_sealed, write_sealed


class Diary:
    """Scores in the order in which they were asked for. `identity` names all else that they depend on.

    generator: a second stream, beside torch's own. path: None keeps nothing.
    """

    def __init__(self, path: Path | None, identity: str, generator: torch.Generator) -> None:
        self.path, self.identity, self.generator = path, identity, generator
        self.scores: list[float] = []
        self.known = self._read()

    def score(self, trial: Callable[[], float]) -> float:
        """The next score: as it was kept, or by running `trial`. Raises StorageError when it cannot be kept."""
        kept: list[float] = self.known["scores"] if self.known else []
        if len(self.scores) < len(kept):
            self.scores.append(kept[len(self.scores)])
            if len(self.scores) == len(kept) and self.known:
                torch.set_rng_state(self.known["torch"])
                self.generator.set_state(self.known["generator"])
            return self.scores[-1]
        self.scores.append(trial())
        self._write()
        return self.scores[-1]

    def remove(self) -> None:
        """The search and what follows it are finished."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any] | None:
        body = None if self.path is None else read_sealed(self.path)
        if body is None:  # absent, or damaged: the search starts from the beginning, which is right if slower
            return None
        state: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
        return state if state.get("identity") == self.identity else None

    def _write(self) -> None:
        if self.path is None:
            return
        state: dict[str, Any] = {"identity": self.identity, "scores": self.scores}
        state |= {"torch": torch.get_rng_state(), "generator": self.generator.get_state()}
        body = io.BytesIO()
        torch.save(state, body)
        write_sealed(self.path, body.getvalue())
