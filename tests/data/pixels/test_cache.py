"""The folder of decoded pixels survives damage, full disks, killed processes and company."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from data_cases import GEOMETRY, Stages, array, cached_file, in_files, in_memory
from PIL import Image

from vitadapt.data import Geometry, ImageRef, cache_size, content_digests, open_pixels
from vitadapt.data.pixels import pixels as module
from vitadapt.data.pixels.cache import PIECE
from vitadapt.utils import array_file
from vitadapt.utils.errors import StorageError


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flipped pixel": lambda path: flip(path, 400),
    "flipped digest": lambda path: flip(path, 3),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-10]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_noticed_and_built_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples, stages = in_memory(), Stages()
    whole = open_pixels(examples, GEOMETRY, tmp_path).gather(np.arange(5)).clone()
    file = cached_file(tmp_path)
    sound = file.read_bytes()
    DAMAGE[damage](file)
    monkeypatch.setattr(array_file, "_verified", set())  # as in a new process
    with caplog.at_level(logging.WARNING):
        again = open_pixels(examples, GEOMETRY, tmp_path, stages)
    assert "is damaged, or of an older version; what is wrong is made again" in caplog.text
    assert stages.decoded
    assert torch.equal(again.gather(np.arange(5)), whole)
    assert file.read_bytes() == sound


@pytest.mark.parametrize("damage", ["rubbish", "flipped"])
def test_a_damaged_memory_of_hashes_costs_time_and_nothing_else(tmp_path: Path, damage: str) -> None:
    examples, cache = in_files(tmp_path / "images"), tmp_path / "cache"
    digests = content_digests(examples, cache)
    (memory,) = cache.iterdir()
    if damage == "rubbish":
        memory.write_bytes(b"this is no database" * 100)
    else:
        data = memory.read_bytes()
        memory.write_bytes(data.replace(digests[0].encode(), b"0" * 32))
        assert data != memory.read_bytes()
    stages = Stages()
    for _ in range(3):
        assert content_digests(examples, cache, stages) == digests
    assert len(stages) in (1, 2)  # and after the second time they are remembered again


SCRIPT = """
import sys
from pathlib import Path
from vitadapt.data import Geometry, open_dataset, open_pixels
print("ready", flush=True)
sys.stdin.readline()
stages = []
pixels = open_pixels(open_dataset(sys.argv[1]).splits["train"], Geometry(64), Path(sys.argv[2]),
                     lambda stage, done, total: stages.append(stage))
print(pixels.key, any(stage.startswith("decoding") for stage in stages))
"""


def test_two_processes_at_once_build_one_file(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(array(i)).save(tmp_path / "images" / label / f"{i}.png")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "images"), str(tmp_path / "cache")]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in both:  # only now does either of them start
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate()[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert answers[0][0] == answers[1][0]
    assert sorted(answer[1] for answer in answers) == ["False", "True"]
    assert not list((tmp_path / "cache").glob("*.tmp"))
    assert cached_file(tmp_path / "cache").stem == answers[0][0]


def test_what_was_decoded_before_an_interruption_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    examples = in_memory(3 * PIECE + 5)
    whole = open_pixels(examples, GEOMETRY, tmp_path / "whole").gather(np.arange(len(examples)))
    plain, decoded = module._decode, Stages()

    def interrupted(ref: ImageRef, geometry: Geometry) -> tuple[np.ndarray, str]:
        if ref.name == f"train[{2 * PIECE + 2}]":
            raise KeyboardInterrupt
        return plain(ref, geometry)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_decode", interrupted)
        open_pixels(examples, GEOMETRY, tmp_path)
    with caplog.at_level(logging.WARNING):
        again = open_pixels(examples, GEOMETRY, tmp_path, decoded).gather(np.arange(len(examples)))
    assert torch.equal(again, whole) and not caplog.text
    assert {total for stage, _, total in decoded if stage.startswith("decoding")} == {PIECE + 5}
    assert cached_file(tmp_path).read_bytes() == cached_file(tmp_path / "whole").read_bytes()


def test_a_disk_without_room_is_noticed_before_anything_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples, stages = in_memory(), Stages()
    need = cache_size(examples, GEOMETRY)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=need - 1))
    with pytest.raises(
        StorageError, match=r"no room for 0.0 MiB of decoded images in .*; free some, .*--cache DIR.*--no-c"
    ):
        open_pixels(examples, GEOMETRY, tmp_path, stages)
    assert not stages.decoded
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=need))
    assert len(open_pixels(examples, GEOMETRY, tmp_path)) == 5


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_fills_up_meanwhile_is_told_and_what_was_written_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    examples, stages, written = in_memory(2 * PIECE), Stages(), []
    plain = array_file.ArrayFile._write

    def fails(file: array_file.ArrayFile, start: int, piece: np.ndarray) -> None:
        if written:
            raise OSError(code, os.strerror(code))
        written.append(start)
        plain(file, start, piece)

    with monkeypatch.context() as patch, pytest.raises(StorageError, match=f"decoded images in {tmp_path}"):
        patch.setattr(array_file.ArrayFile, "_write", fails)
        open_pixels(examples, GEOMETRY, tmp_path)
    assert len(open_pixels(examples, GEOMETRY, tmp_path, stages)) == 2 * PIECE
    assert {total for stage, _, total in stages if stage.startswith("decoding")} == {PIECE}


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from vitadapt.data import ArrayRef, Examples, Geometry, open_pixels
from vitadapt.utils.errors import StorageError
refs = tuple(ArrayRef(np.full((4, 4), i, np.uint8), str(i)) for i in range(9))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    open_pixels(Examples(refs, np.zeros(9, np.int64)), Geometry(100), Path(sys.argv[1]))
except StorageError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX limits")
def test_a_file_that_may_not_be_so_large_leaves_nothing_behind(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"no room for 0.3 MiB of decoded images in {tmp_path}")
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_a_cache_that_is_no_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        StorageError, match=r"cannot keep .* in .*file.* \(.+\); choose another folder with --cache DIR"
    ):
        open_pixels(in_memory(), GEOMETRY, tmp_path / "file")
    with pytest.raises(StorageError, match="cannot keep"):
        open_pixels(in_files(tmp_path / "images"), GEOMETRY, tmp_path / "file" / "below")
