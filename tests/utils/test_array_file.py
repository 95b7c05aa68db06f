"""An array that is made piece by piece: whatever happened to its file, it is whole again, and what was right stays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from vitadapt.utils import array_file
from vitadapt.utils.array_file import ArrayFile

ROWS, PIECE = np.random.default_rng(0).standard_normal((11, 3)).astype(np.float32), 4


class Maker:
    """Gives the pieces of ROWS, and remembers which; after `most` of them comes Ctrl-C."""

    def __init__(self, most: int = 9) -> None:
        self.made: list[int] = []
        self.most = most

    def __call__(self, starts: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for start in starts:
            if len(self.made) == self.most:
                raise KeyboardInterrupt
            self.made.append(start)
            yield start, ROWS[start : start + PIECE]


def built(path: Path, most: int = 9) -> list[int]:
    """The pieces that were made for it, in a new process."""
    array_file._verified.clear()
    maker = Maker(most)
    assert np.array_equal(file_of(path).open_or_build(maker), ROWS)
    return maker.made


def file_of(path: Path) -> ArrayFile:
    return ArrayFile(path, ROWS.shape, np.float32, PIECE)


def test_it_goes_on_after_an_interruption_with_the_same_bytes(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole" / "array", tmp_path / "array"
    whole.parent.mkdir()
    assert built(whole) == [0, 4, 8] and built(whole) == []
    for pieces in (0, 1, 2):
        path.unlink(missing_ok=True)
        with pytest.raises(KeyboardInterrupt):
            built(path, pieces)
        assert built(path) == [0, 4, 8][pieces:] and path.read_bytes() == whole.read_bytes()


def test_a_damaged_piece_alone_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "array"
    built(path)
    whole = path.read_bytes()
    for position in range(len(whole)):
        broken = bytearray(whole)
        broken[position] ^= 1
        path.write_bytes(broken)
        assert len(built(path)) <= 1 and (path.read_bytes() == whole or 48 <= position < 64)
    for size in (0, 20, 64 + 60, len(whole) - 1):
        path.write_bytes(whole[:size])
        built(path)
        assert path.read_bytes() == whole
    path.write_bytes(whole + b"more")
    assert built(path) == [0, 4, 8] and path.read_bytes() == whole
    (tmp_path / "other").write_bytes(whole)
    assert built(tmp_path / "other") == [0, 4, 8]


def test_what_is_written_into_it_stays_in_this_process(tmp_path: Path) -> None:
    file_of(tmp_path / "array").open_or_build(Maker())[:] = 0
    assert built(tmp_path / "array") == []
