"""A file or folder appears as a whole or not at all, under no name that anybody could have prepared."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from vitadapt.utils.atomic import atomic_file, atomic_folder, make_folder
from vitadapt.utils.files import write_atomic


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_whole_or_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with atomic_file(path) as file:
        file.write(b"first")
        assert not path.exists()
    with pytest.raises(ZeroDivisionError), atomic_file(path) as file:
        file.write(b"second, and longer than any buffer" * 10_000)
        raise ZeroDivisionError
    assert path.read_bytes() == b"first" and names(tmp_path) == ["a.bin"]


def test_writers_of_one_file_do_not_touch_each_other(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with atomic_file(path) as slow:
        slow.write(b"slow")
        with atomic_file(path) as fast:
            fast.write(b"fast")
            assert len(names(tmp_path)) == 2
        assert path.read_bytes() == b"fast"
    assert path.read_bytes() == b"slow" and names(tmp_path) == ["a.bin"]


def test_a_link_or_folder_under_an_old_temporary_name_is_left_alone(tmp_path: Path) -> None:
    mine, photos = tmp_path / "mine.txt", tmp_path / "photos"
    mine.write_text("precious")
    photos.mkdir()
    (photos / "0.jpg").write_text("precious")
    (tmp_path / ".page.html.tmp").symlink_to(mine)
    (tmp_path / ".exp.tmp").symlink_to(photos)
    write_atomic(tmp_path / "page.html", b"page")
    with atomic_folder(tmp_path / "exp") as new:
        (new / "a").write_text("whole")
    assert mine.read_text() == "precious" and names(photos) == ["0.jpg"]
    assert not (tmp_path / "page.html").is_symlink() and (tmp_path / "page.html").read_bytes() == b"page"


def test_the_final_name_may_be_a_link_which_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    (tmp_path / "page.html").symlink_to(tmp_path / "mine.txt")
    write_atomic(tmp_path / "page.html", b"page")
    assert (tmp_path / "mine.txt").read_text() == "precious" and (tmp_path / "page.html").read_bytes() == b"page"


@pytest.mark.parametrize("length", [2, 90, 250])
def test_long_names_have_room_for_the_temporary_one(length: int, tmp_path: Path) -> None:
    for letter in "aé":
        path = tmp_path / (letter * (length // len(letter.encode())))
        write_atomic(path, b"whole")
        assert path.read_bytes() == b"whole"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_are_as_readable_as_the_user_wants_new_files_to_be(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        write_atomic(tmp_path / "a.bin", b"whole")
        with atomic_folder(tmp_path / "out") as new:
            (new / "deep").mkdir()
            os.close(os.open(new / "deep" / "private", os.O_CREAT | os.O_WRONLY, 0o600))  # as some libraries write
    finally:
        os.umask(before)
    for path in (tmp_path / "a.bin", tmp_path / "out" / "deep" / "private"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_a_folder_is_whole_or_absent(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ZeroDivisionError), atomic_folder(out) as new:
        (new / "a").write_text("half")
        raise ZeroDivisionError
    assert names(tmp_path) == []
    with atomic_folder(out) as new, atomic_folder(tmp_path / "out2") as other:
        assert names(new) == names(other) == [] and new != other
        (new / "a").write_text("whole")
    assert names(tmp_path) == ["out", "out2"] and (out / "a").read_text() == "whole"


def test_a_folder_whose_file_would_not_go_to_the_disk_does_not_appear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"), atomic_folder(tmp_path / "out") as new:
        (new / "a").write_text("still in memory")
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
