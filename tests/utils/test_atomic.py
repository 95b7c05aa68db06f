"""A draft becomes its file as a whole or not at all; an abandoned one is used up, a busy one is left alone."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from vitadapt.utils.atomic import PLACES, draft, draft_folder, make_folder


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


@pytest.mark.parametrize("place", [".2", ".4"])
def test_what_a_killed_second_writer_left_goes_with_the_next_file(tmp_path: Path, place: str) -> None:
    (tmp_path / f".a.bin{place}.tmp").write_bytes(b"half")
    (tmp_path / f".out{place}.tmp").mkdir()
    (tmp_path / f".out{place}.tmp" / "litter").write_text("half")
    with draft(tmp_path / "a.bin") as file:
        file.write(b"whole")
    with draft_folder(tmp_path / "out") as new:
        (new / "a").write_text("whole")
    assert names(tmp_path) == ["a.bin", "out"]


def test_more_writers_than_places_do_not_touch_each_other(tmp_path: Path) -> None:
    path, count = tmp_path / "a.bin", len(PLACES) + 2
    with ExitStack() as stack:
        files = [stack.enter_context(draft(path)) for _ in range(count)]
        for number, file in enumerate(files):
            file.write(bytes([number]))
        assert len(names(tmp_path)) == count
    assert path.read_bytes() == bytes([0]) and names(tmp_path) == ["a.bin"]  # the first to open was the last to end


@pytest.mark.parametrize("answer", [errno.EOPNOTSUPP, errno.ENOLCK])
def test_without_locks_nothing_is_left_and_nothing_is_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    def unsupported(file: int, how: int) -> None:
        raise OSError(answer, os.strerror(answer))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with draft(tmp_path / "a.bin") as slow, draft(tmp_path / "a.bin") as fast:
        slow.write(b"slow")
        fast.write(b"fast")
    with draft_folder(tmp_path / "out") as new, draft_folder(tmp_path / "out") as other:
        assert new != other
        (new / "a").write_text("whole")
    assert (tmp_path / "a.bin").read_bytes() == b"slow" and names(tmp_path) == ["a.bin", "out"]


def test_a_disk_that_fails_is_told_and_leaves_no_row_of_drafts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(file: int, how: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr(fcntl, "flock", failing)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)), draft(tmp_path / "a.bin"):
            raise AssertionError("was begun")
    with draft(tmp_path / "a.bin") as file:
        file.write(b"whole")
    assert names(tmp_path) == ["a.bin"]


def test_an_error_does_not_take_away_the_draft_of_the_next_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever gives up removes its draft while it holds the lock, so that nobody can have begun under that name."""
    taken, plain = [], os.unlink

    def look(name: Path) -> None:
        with open(name, "rb") as again:
            try:
                fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                taken.append(name)
        plain(name)

    monkeypatch.setattr(os, "unlink", look)
    with pytest.raises(ZeroDivisionError), draft(tmp_path / "a.bin"):
        raise ZeroDivisionError
    assert len(taken) == 1 and names(tmp_path) == []


def test_a_folder_that_is_there_leaves_the_next_draft_of_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, plain = tmp_path / "out", os.replace

    def and_another_begins(old: Path, new: Path) -> None:
        plain(old, new)
        old.mkdir()
        (old / "of the other").write_text("begun")

    monkeypatch.setattr(os, "replace", and_another_begins)
    with draft_folder(out) as new:
        (new / "a").write_text("whole")
    assert (tmp_path / ".out.tmp" / "of the other").exists()


def test_a_draft_that_became_its_file_while_one_waited_for_its_lock_is_not_written_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, plain = tmp_path / "a.bin", fcntl.flock

    def late(file: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", plain)
        os.replace(tmp_path / ".a.bin.tmp", path)  # the other was quicker
        path.write_bytes(b"of the other")
        plain(file, how)
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


def test_new_folders_are_in_those_above_them_before_anything_is_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut would otherwise take a synced file away together with the folder that it lies in."""
    synced, plain = [], os.fsync

    def sync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    make_folder(tmp_path / "store" / "records")
    assert (tmp_path / "store" / "records").is_dir()
    assert set(synced) == {tmp_path.stat().st_ino, (tmp_path / "store").stat().st_ino}
    make_folder(tmp_path / "store" / "records")
    assert len(synced) == 2
