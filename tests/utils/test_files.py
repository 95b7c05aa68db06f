"""Cached files and JSON with a checksum: what is damaged, or lies under another name, is not taken for what it was."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from vitadapt.utils.errors import DataError, WeightsError, damaged, printable
from vitadapt.utils.files import (
    bytes_digest,
    checked_json,
    checksum,
    parse_checked_json,
    read_at_most,
    read_cached,
    write_cached,
)


def test_a_cached_file_under_another_name_or_damaged_is_none(tmp_path: Path) -> None:
    path, copy = tmp_path / "a.npy", tmp_path / "b.npy"
    write_cached(path, b"values")
    assert read_cached(path) == b"values"
    copy.write_bytes(path.read_bytes())
    assert read_cached(copy) is None
    for position in range(len(path.read_bytes())):
        whole = bytearray(copy.read_bytes())
        whole[position] ^= 1
        path.write_bytes(whole)
        assert read_cached(path) is None
    assert read_cached(tmp_path / "absent") is None


def test_a_cached_file_of_an_older_version_counts_as_absent(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(bytes_digest(b"values").encode() + b"values")
    assert read_cached(tmp_path / "a.npy") is None and read_cached(tmp_path / "a.npy", named=False) == b"values"


def test_checked_json_is_what_it_was_or_refused() -> None:
    plain = {"b": [1, 2.5, None], "a": "é"}
    text = checked_json(plain)
    assert parse_checked_json(text) == plain
    assert json.loads(text)["checksum"] == checksum(plain)  # the format on disk
    for broken in (text.replace("2.5", "2.4"), text.replace("checksum", "chfcksum"), text[:-1], "[1]", "[" * 100_000):
        with pytest.raises(ValueError):
            parse_checked_json(broken)
    with pytest.raises(ValueError, match="checksum"):
        parse_checked_json('{"a": 1}')
    assert parse_checked_json('{"a": 1}', lambda found: found["a"] == 1) == {"a": 1}


@pytest.mark.parametrize("error", [KeyError("x"), OSError(5, "Input/output error"), MemoryError(), SyntaxError("x")])
def test_whatever_a_reader_raises_names_path_and_remedy(error: Exception) -> None:
    refused = pytest.raises(WeightsError, match=r"^a\.bin cannot be read \(.+\); get it again$")
    with refused, damaged("a.bin", "get it again", WeightsError):
        raise error


def test_our_own_errors_and_interrupts_pass_through() -> None:
    for error in (DataError("told"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as found, damaged("a.bin", "get it again", WeightsError):
            raise error
        assert found.value is error


def test_names_are_printable_in_one_line_and_messages_keep_their_lists() -> None:
    assert printable("a\x1b[31m\nb\u202e\udcff\tc") == "a\\x1b[31m\\nb\\u202e\\udcff\\tc"
    assert printable("猫 é") == "猫 é" and len(printable("x" * 10**6)) <= 2000
    assert str(DataError("choose:\n  a\x1b\n  b\nc")) == "choose:\n  a\\x1b\n  b\\nc"


def test_a_bound_of_gigabytes_asks_for_no_gigabytes() -> None:
    class Watched(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            assert size is not None and 0 <= size <= 16 << 20
            return super().read(size)

    data = bytes(range(256)) * 100_000
    assert read_at_most(Watched(data), 4 << 30) == data and read_at_most(Watched(data), 1000) == data[:1000]
