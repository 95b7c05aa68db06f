"""The finished trials of a search: none is run twice, and they survive a kill.

The file holds one JSON object per line, each behind a checksum of its own, and is only ever added to. A line that was
torn when the process died counts as absent: that trial is run again, to the same score.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from ...utils.atomic import make_folder
from ...utils.errors import Diverged
from ...utils.files import bytes_digest, read_bounded, read_cached, storage_error, write_cached

Score = tuple[float, ...]


class Trials:
    """Scores, each of one or more numbers, by key (plain JSON values).

    identity: names all else that a score depends on; lines with another one are ignored. most: how many trials there
    can be, for the progress. path: None keeps nothing.
    """

    def __init__(self, path: Path | None, identity: str, most: int) -> None:
        self.path, self.identity, self.most = path, identity, most
        self.scores: dict[str, Score | None] = dict(self._read())

    def score(self, key: list[Any], trial: Callable[[str], Score]) -> Score | None:
        """The score of `key`, by running `trial` (given what to call its progress) unless known. None: it diverged.

        Raises StorageError when the score cannot be kept.
        """
        name = json.dumps(key)
        if name not in self.scores:
            try:
                score: Score | None = trial(f"search {len(self.scores) + 1}/{self.most}")
            except Diverged:
                score = None
            self._keep(name, score)
            self.scores[name] = score
        return self.scores[name]

    def _read(self) -> Iterator[tuple[str, Score | None]]:
        try:
            lines = read_bounded(self.path).split(b"\n") if self.path else []
        except OSError:  # none yet, or unreadable: trials are run again
            return
        for line in lines:
            seal, _, body = line.partition(b" ")
            if body and bytes_digest(body).encode() == seal:
                identity, name, score = json.loads(body)
                if identity == self.identity:
                    yield name, None if score is None else tuple(score)

    def _keep(self, name: str, score: Score | None) -> None:
        if self.path is None:
            return
        body = json.dumps([self.identity, name, score]).encode()
        try:
            make_folder(self.path.parent)
            with open(self.path, "ab") as file:
                file.write(b"\n" + bytes_digest(body).encode() + b" " + body)  # first ends a line that was torn
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise storage_error(self.path, error) from error


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
        body = None if self.path is None else read_cached(self.path)
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
        write_cached(self.path, body.getvalue())
