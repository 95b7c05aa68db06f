"""A draft becomes its file as a whole or not at all; an abandoned one is used up, a busy one is left alone."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from vitadapt.drafts import draft, draft_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_whole_or_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with draft(path) as file:
        file.write(b"first")
        assert not path.exists()
    with pytest.raises(ZeroDivisionError), draft(path) as file:
        file.write(b"second, and longer than any buffer" * 10_000)
        raise ZeroDivisionError
    assert path.read_bytes() == b"first" and names(tmp_path) == ["a.bin"]


def test_an_abandoned_draft_is_used_up(tmp_path: Path) -> None:
    (tmp_path / ".a.bin.tmp").write_bytes(b"half of something longer")
    with draft(tmp_path / "a.bin") as file:
        file.write(b"whole")
    assert (tmp_path / "a.bin").read_bytes() == b"whole" and names(tmp_path) == ["a.bin"]


def test_a_draft_that_another_process_holds_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with draft(path) as slow:
        slow.write(b"slow")
        with draft(path) as fast:
            fast.write(b"fast")
            assert len(names(tmp_path)) == 2
        assert path.read_bytes() == b"fast"
    assert path.read_bytes() == b"slow" and names(tmp_path) == ["a.bin"]


def test_a_draft_that_became_its_file_while_one_waited_for_its_lock_is_not_written_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, plain = tmp_path / "a.bin", fcntl.flock

    def late(file: object, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", plain)
        os.replace(tmp_path / ".a.bin.tmp", path)  # the other was quicker
        path.write_bytes(b"of the other")
        plain(file, how)  # type: ignore[arg-type]
        assert path.read_bytes() == b"of the other"

    monkeypatch.setattr(fcntl, "flock", late)
    with draft(path) as file:
        file.write(b"ours")
        assert path.read_bytes() == b"of the other"
    assert path.read_bytes() == b"ours" and names(tmp_path) == ["a.bin"]


def test_a_folder_is_whole_or_absent(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ZeroDivisionError), draft_folder(out) as new:
        (new / "a").write_text("half")
        raise ZeroDivisionError
    assert names(tmp_path) == []
    (tmp_path / ".out.tmp" / "deep").mkdir(parents=True)
    (tmp_path / ".out.tmp" / "deep" / "litter").write_text("of a killed process")
    with draft_folder(out) as new, draft_folder(out) as other:
        assert names(new) == names(other) == [] and new != other
        (new / "a").write_text("whole")
    assert names(tmp_path) == ["out"] and (out / "a").read_text() == "whole"


def test_a_folder_whose_file_would_not_go_to_the_disk_does_not_appear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"), draft_folder(tmp_path / "out") as new:
        (new / "a").write_text("still in memory")
    assert names(tmp_path) == []


def test_a_folder_that_lost_a_file_meanwhile_does_not_appear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = os.fsync

    def first_takes_the_other(descriptor: int) -> None:
        left = sorted((tmp_path / ".out.tmp").iterdir())
        if len(left) == 2:
            here = os.fstat(descriptor)
            next(path for path in left if not os.path.samestat(path.stat(), here)).unlink()
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", first_takes_the_other)
    with pytest.raises(FileNotFoundError), draft_folder(tmp_path / "out") as new:
        (new / "a").write_text("one")
        (new / "b").write_text("other")
    assert names(tmp_path) == []
