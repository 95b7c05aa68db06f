"""An array that is made piece by piece: whatever happened to its file, it is whole again, and what was right stays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from vitadapt.utils.array_file import open_or_build
from vitadapt.utils.errors import StorageError

ROWS, PIECE = np.random.default_rng(0).standard_normal((11, 3)).astype(np.float32), 4


class Maker:
    """Gives the pieces of ROWS, and remembers which; after `most` of them comes Ctrl-C."""

    def __init__(self, most: int = 9) -> None:
        self.made: list[int] = []
        self.most = most

    def __call__(self, starts: Sequence[int]) -> Iterator[np.ndarray]:
        for start in starts:
            if len(self.made) == self.most:
                raise KeyboardInterrupt
            self.made.append(start)
            yield ROWS[start : start + PIECE]


def built(path: Path, most: int = 9) -> list[int]:
    """The pieces that were made for it."""
    maker = Maker(most)
    assert np.array_equal(open_or_build(path, ROWS.shape, PIECE, maker), ROWS)
    return maker.made


def test_it_goes_on_after_an_interruption_with_the_same_bytes(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole" / "a.npy", tmp_path / "a.npy"
    whole.parent.mkdir()
    assert built(whole) == [0, 4, 8] and built(whole) == []
    for pieces in (0, 1, 2):
        path.unlink(missing_ok=True)
        with pytest.raises(KeyboardInterrupt):
            built(path, pieces)
        assert built(path) == [0, 4, 8][pieces:] and path.read_bytes() == whole.read_bytes()


def test_a_damaged_piece_alone_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
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
    assert built(path) == []
    (tmp_path / "b.npy").write_bytes(whole)
    assert built(tmp_path / "b.npy") == [0, 4, 8]


def test_what_is_written_into_it_stays_in_this_process(tmp_path: Path) -> None:
    open_or_build(tmp_path / "a.npy", ROWS.shape, PIECE, Maker())[:] = 0
    assert built(tmp_path / "a.npy") == []


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"a\.npy: cannot be written"):
        built(tmp_path / "absent" / "a.npy")
