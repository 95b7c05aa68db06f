"""Every reader against damaged files: a right value, or one line that names the file. `make fuzz` tries many more."""

from __future__ import annotations

import random
import re
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

from vitadapt.benchmark.protocols.trials import Trials
from vitadapt.utils.files import bytes_digest, write_cached

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


FOUND = {
    "a record without a method": ("records sealed", ".json", b'"method": {', b'"iethod": {', "value"),
    "a record whose score is NaN": ("records sealed", ".json", b'"score": 50.0', b'"score": NaN', "value"),
    "a record without a count": ("records sealed", ".json", b'"trained"', b'"tr"', "value"),
    "a class that there is not": ("prior", "p.json", b'"cat"', b'"cut"', "p.json.*did you mean cat"),
    "statistics of no adapter": ("statistics of a model", "about.json", b'"adapter"', b'"adopter"', "cannot be read"),
    "a certificate of another form": (
        "certificate",
        ".json",
        b'"pictures": {"square": {"logits": 0.1}}',
        b'"pictures": 5',
        "value",
    ),
    "a zero byte in a field's name": ("request json", "body", b'"top"', b'"t\\u0000p"', "value"),
    "merges that are none": ("text tower hugging face", "merges.txt", b"sion: 0", b"sioPK", "no tokeniser that can be"),
    "a token that there is not": (
        "text tower hugging face",
        "tokenizer_config.json",
        b'"<|end',
        b'"<|e=d',
        "tokeniser",
    ),
    "a token that stands for none": ("text tower siglip", "tokenizer.json", b'"id": "</s>"', b'"id": "x"', "no entry"),
    "a token beyond the text tower's": ("text tower siglip", "tokenizer.json", b"          1\n", b"128", "token 128"),
    "an end before all tokens": ("text tower open_clip", "config.json", b": 49408", b": -49408", "end token -49409"),
    "images of many pixels": ("convnext folder", "config.json", b'_size": 32', b'_size": 99999', "99999 pixels"),
    "blocks without tensors": (
        "convnext folder",
        "config.json",
        b'"depths": [',
        b'"depths": [65535, ',
        "tells of 65539 blocks",
    ),
    "settings without a model": ("text tower open_clip", "config.json", b'"model_cfg"', b'"model"', "cannot be read"),
}


@pytest.mark.parametrize("fault", FOUND)
def test_what_was_found_once_is_told(fault: str, tmp_path: Path) -> None:
    """Files that led to a traceback before: the reader, the end of the file's name, a change, and the outcome now."""
    name, ending, old, new, expected = FOUND[fault]
    with quietly():
        path = next(path for path in TARGETS[name].prepare(tmp_path) if path.name.endswith(ending))
        changed = path.read_bytes().replace(old, new)
        assert changed != path.read_bytes()
        path.write_bytes(changed)
        assert re.search(expected, outcome(TARGETS[name], tmp_path, path))


def test_what_another_version_kept_under_a_right_checksum_counts_as_absent(tmp_path: Path) -> None:
    for body in (b"{", b"3", b"[1]", b'["i", "name", "x"]'):
        (tmp_path / "trials").write_bytes(bytes_digest(body).encode() + b" " + body)
        assert not Trials(tmp_path / "trials", "i", 1).scores
    TARGETS["training checkpoint"].prepare(tmp_path)
    write_cached(tmp_path / "c", b"no archive")
    TARGETS["training checkpoint"].read(tmp_path)


def test_the_same_seed_does_the_same_damage() -> None:
    data = bytes(range(256)) * 4
    assert [mutate(data, random.Random(n)) for n in range(50)] == [mutate(data, random.Random(n)) for n in range(50)]
    assert len({mutate(data, random.Random(n)) for n in range(50)}) > 40
