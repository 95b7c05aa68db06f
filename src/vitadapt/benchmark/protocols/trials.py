"""The finished trials of a search: none is run twice, and they survive a kill.

The file holds one JSON object per line, each behind a checksum of its own, and is only ever added to. A line that was
torn when the process died counts as absent: that trial is run again, to the same score.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...utils.atomic import make_folder
from ...utils.errors import Diverged
from ...utils.files import bytes_digest, read_bounded, storage_error

Score = tuple[float, ...]


class Trials:
    """Scores, each of one or more numbers, by key (plain JSON values).

    identity: names all else that a score depends on; lines with another one are ignored. most: how many trials there
    can be, for the progress. streams: random numbers that go on from one trial to the next; after a score that is known
    already they are as that trial left them. path: None keeps nothing.
    """

    def __init__(self, path: Path | None, identity: str, most: int, streams: Sequence[torch.Generator] = ()) -> None:
        self.path, self.identity, self.most, self.streams = path, identity, most, streams
        self.scores: dict[str, Score | None] = {}
        self._states: dict[str, list[str]] = {}
        for name, score, states in self._read():
            self.scores[name], self._states[name] = score, states

    def score(self, key: list[Any], trial: Callable[[str], Score]) -> Score | None:
        """The score of `key`, by running `trial` (given what to call its progress) unless known. None: it diverged.

        Raises StorageError when the score cannot be written.
        """
        name = json.dumps(key)
        if name not in self.scores:
            try:
                score: Score | None = trial(f"search {len(self.scores) + 1}/{self.most}")
            except Diverged:
                score = None
            self._write(name, score)
            self.scores[name] = score
        for stream, state in zip(self.streams, self._states.pop(name, ()), strict=False):
            stream.set_state(torch.from_numpy(np.frombuffer(base64.b64decode(state), dtype=np.uint8).copy()))
        return self.scores[name]

    def _read(self) -> Iterator[tuple[str, Score | None, list[str]]]:
        try:
            lines = read_bounded(self.path).split(b"\n") if self.path else []
        except OSError:  # none yet, or unreadable: trials are run again
            return
        for line in lines:
            checksum, _, body = line.partition(b" ")
            if not body or bytes_digest(body).encode() != checksum:
                continue
            with suppress(ValueError, TypeError):  # of another version
                identity, name, score, *states = json.loads(body)
                if identity == self.identity:
                    yield name, None if score is None else tuple(map(float, score)), states

    def _write(self, name: str, score: Score | None) -> None:
        if self.path is None:
            return
        states = [base64.b64encode(stream.get_state().numpy().tobytes()).decode() for stream in self.streams]
        body = json.dumps([self.identity, name, score, *states]).encode()
        try:
            make_folder(self.path.parent)
            with open(self.path, "ab") as file:
                file.write(b"\n" + bytes_digest(body).encode() + b" " + body)  # first ends a line that was torn
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise storage_error(self.path, error) from error
