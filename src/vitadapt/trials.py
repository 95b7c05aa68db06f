"""The finished trials of a search: none is run twice, and they survive a kill.

The file holds one JSON object per line, each behind a checksum of its own, and is only ever added to. A line that was
torn when the process died counts as absent: that trial is run again, to the same score.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .drafts import make_folder
from .errors import Diverged
from .files import bytes_digest, read_bounded, storage_error

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
