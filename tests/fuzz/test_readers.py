"""Every reader against damaged files: a right value, or one line that names the file. `make fuzz` tries many more."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from law import nothing_else_written, outcome
from mutate import mutate
from targets import TARGETS

EXAMPLES = 6


@contextmanager
def quietly() -> Iterator[None]:
    """Decoders warn about what they find odd; that is no outcome."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("name", TARGETS)
def test_a_damaged_file_is_read_rightly_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    target, folder = TARGETS[name], tmp_path / "files"
    folder.mkdir()
    with quietly():
        files = {path: path.read_bytes() for path in target.prepare(folder)}
        assert outcome(target, folder, next(iter(files))) == "value"  # sound files are read

    @settings(max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=HealthCheck)
    @given(st.integers(0, 2**32))
    def holds(seed: int) -> None:
        rng = random.Random(seed)
        path = rng.choice(list(files))
        path.write_bytes(mutate(files[path], rng, tuple(files.values())))
        try:
            with quietly(), nothing_else_written(folder):
                outcome(target, folder, path)
        finally:
            path.write_bytes(files[path])

    holds()


def test_the_same_seed_does_the_same_damage() -> None:
    data = bytes(range(256)) * 4
    assert [mutate(data, random.Random(n)) for n in range(50)] == [mutate(data, random.Random(n)) for n in range(50)]
    assert len({mutate(data, random.Random(n)) for n in range(50)}) > 40
