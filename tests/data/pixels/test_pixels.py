"""Decoded pixels: the same bytes cached and streamed, made once, named by content; broken images in one error."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from data_cases import GEOMETRY, Stages, age, array, cached_file, in_files, in_memory
from PIL import Image

from vitadapt.data import Examples, FileRef, Geometry, cache_size, content_digests, default_cache, open_pixels
from vitadapt.data.examples import ArrayRef, ImageObjectRef
from vitadapt.data.parallel import each
from vitadapt.data.pixels.pixels import ArrayPixels
from vitadapt.utils import array_file
from vitadapt.utils.errors import DataError

ROWS = np.array([3, 0, 0, 4])


@pytest.mark.parametrize("geometry", [GEOMETRY, Geometry(8, 1.15), Geometry(8, squash=True)], ids=str)
def test_cached_and_streamed_pixels_are_the_same_bytes(tmp_path: Path, geometry: Geometry) -> None:
    examples = in_files(tmp_path / "images")
    cached, streamed = (open_pixels(examples, geometry, cache) for cache in (tmp_path / "cache", None))
    assert len(cached) == len(streamed) == 5
    assert cached.key == streamed.key
    for _ in range(2):  # streaming answers the second time from memory
        assert torch.equal(cached.gather(ROWS), streamed.gather(ROWS))
    assert torch.equal(cached.gather(ROWS)[1], cached.gather(np.array([0]))[0])


def test_gathering_copies_in_the_order_asked_for(tmp_path: Path) -> None:
    for pixels in (open_pixels(in_memory(), GEOMETRY, cache) for cache in (tmp_path, None)):
        images = pixels.gather(ROWS)
        assert (images.dtype, tuple(images.shape), images.is_contiguous()) == (torch.uint8, (4, 3, 8, 8), True)
        for image, row in zip(images, ROWS, strict=True):
            assert torch.equal(image, pixels.gather(np.array([row]))[0])
        expected = images.clone()
        images.zero_()
        assert torch.equal(pixels.gather(torch.from_numpy(ROWS)), expected)
        assert tuple(pixels.gather(torch.tensor([], dtype=torch.long)).shape) == (0, 3, 8, 8)


@pytest.mark.parametrize("row", [-1, 5])
def test_a_row_that_does_not_exist_is_an_error(tmp_path: Path, row: int) -> None:
    for cache in (tmp_path, None):
        with pytest.raises(IndexError, match="of 5 images"):
            open_pixels(in_memory(), GEOMETRY, cache).gather(np.array([row]))


def test_images_are_decoded_once_and_then_read_from_the_file(tmp_path: Path) -> None:
    examples, first, second = in_memory(), Stages(), Stages()
    open_pixels(examples, GEOMETRY, tmp_path, first)
    stage, done, total = first[-1]
    assert stage.startswith("decoding 5 images into 0.0 MB") and (done, total) == (5, 5)
    open_pixels(examples, GEOMETRY, tmp_path, second)
    assert not second.decoded
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".lock", ".pixels"]


def test_the_file_is_as_long_as_announced(tmp_path: Path) -> None:
    examples = in_memory()
    open_pixels(examples, GEOMETRY, tmp_path)
    assert cached_file(tmp_path).stat().st_size == cache_size(examples, GEOMETRY) > 5 * 3 * 8 * 8


def test_the_name_depends_on_content_order_and_geometry_and_not_on_where_the_images_lie(tmp_path: Path) -> None:
    examples, cache = in_files(tmp_path / "a"), tmp_path / "cache"
    key = open_pixels(examples, GEOMETRY, cache).key
    others = [
        open_pixels(examples.take([1, 0, 2, 3, 4]), GEOMETRY, cache).key,
        open_pixels(examples.take([0, 1, 2, 3]), GEOMETRY, cache).key,
        open_pixels(examples, Geometry(9), cache).key,
        open_pixels(examples, Geometry(8, 1.2), cache).key,
        open_pixels(examples, Geometry(8, squash=True), cache).key,
    ]
    assert len({key, *others}) == 6
    assert open_pixels(in_files(tmp_path / "b"), GEOMETRY, cache).key == key


def test_a_changed_image_is_seen_even_if_size_and_mtime_stay(tmp_path: Path) -> None:
    examples, cache = in_files(tmp_path / "images"), tmp_path / "cache"
    path = Path(examples.refs[2].name)
    Image.fromarray(array(2)).save(path, "BMP")
    age(path)
    status = path.stat()
    before = open_pixels(examples, GEOMETRY, cache).gather(np.array([2]))
    Image.fromarray(255 - array(2)).save(path, "BMP")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    while path.stat().st_ctime_ns == status.st_ctime_ns:  # until the file system's clock has ticked
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert not torch.equal(open_pixels(examples, GEOMETRY, cache).gather(np.array([2])), before)


def test_file_hashes_are_remembered_and_forgotten_when_the_file_changes(tmp_path: Path) -> None:
    examples, cache, stages = in_files(tmp_path / "images"), tmp_path / "cache", Stages()
    digests = content_digests(examples, cache, stages)
    assert stages == [("hashing", 5, 5)]
    assert len(set(digests)) == 5
    assert content_digests(examples, cache, stages) == digests == content_digests(examples, None)
    assert stages == [("hashing", 5, 5)]
    Path(examples.refs[1].name).write_bytes(b"other")
    changed = content_digests(examples, cache, stages)
    assert stages[1:] == [("hashing", 1, 1)]
    assert [old == new for old, new in zip(digests, changed, strict=True)] == [True, False, True, True, True]


def test_the_hash_of_a_file_that_was_just_written_is_not_remembered(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    os.utime(tmp_path / "a")
    assert FileRef(tmp_path / "a").stamp() is None


def broken(folder: Path) -> Examples:
    examples = in_files(folder, 7)
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:60])
    (folder / "3.png").write_text("hello")
    (folder / "4.png").write_bytes(b"")
    (folder / "6.png").write_bytes(b"")
    return examples


@pytest.mark.parametrize("cached", [True, False])
def test_all_broken_images_are_named_in_one_error(tmp_path: Path, cached: bool) -> None:
    examples, cache = broken(tmp_path / "images"), tmp_path / "cache" if cached else None
    expected = (
        r"^4 images cannot be read: \S+1.png \(truncated\), \S+3.png \(not an image of a known format\), "
        r"\S+4.png \(empty file\) and 1 more; remove or re-save them$"
    )
    with pytest.raises(DataError, match=expected):
        open_pixels(examples, GEOMETRY, cache).gather(np.arange(7))
    assert not list(tmp_path.glob("cache/*.npy")) and not list(tmp_path.glob("cache/*.tmp"))


def test_missing_files_are_named_in_one_error(tmp_path: Path) -> None:
    examples = in_files(tmp_path, 3)
    (tmp_path / "0.png").unlink()
    with pytest.raises(DataError, match=r"^\S+0.png cannot be read \(no such file\); remove or re-save it$"):
        content_digests(examples, None)
    (tmp_path / "2.png").unlink()
    with pytest.raises(DataError, match=r"^2 images cannot be read: \S+0.png \(no such file\), \S+2.png"):
        open_pixels(examples, GEOMETRY, tmp_path / "cache")


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_number_of_threads_changes_nothing(tmp_path: Path, workers: int) -> None:
    examples = in_memory(40)
    one = open_pixels(examples, GEOMETRY, tmp_path / "one", workers=1)
    many = open_pixels(examples, GEOMETRY, tmp_path / "many", workers=workers)
    assert torch.equal(one.gather(np.arange(40)), many.gather(np.arange(40)))
    assert cached_file(tmp_path / "one").read_bytes() == cached_file(tmp_path / "many").read_bytes()


def test_work_on_threads_keeps_the_order_and_lets_other_errors_through() -> None:
    assert list(each(lambda n: n * n, range(100), "squaring", workers=3)) == [n * n for n in range(100)]
    with pytest.raises(ZeroDivisionError):
        list(each(lambda n: 1 // n, range(3), "dividing", workers=2))


def test_streaming_keeps_no_more_than_its_share_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitadapt.data.pixels.pixels.IN_MEMORY", 2 * 3 * 8 * 8 + 1)
    reads: list[str] = []

    class Counted(ArrayRef):
        def read(self) -> Image.Image:
            reads.append(self.name)
            return super().read()

    refs = tuple(Counted(array(i), str(i)) for i in range(5))
    pixels = open_pixels(Examples(refs, np.zeros(5, dtype=np.int64)), GEOMETRY, None)
    first = pixels.gather(np.arange(5))
    assert torch.equal(first, pixels.gather(np.arange(5)))
    assert sorted(reads) == sorted(["0", "1", "2", "3", "4", "2", "3", "4"])


def test_no_images_are_no_problem(tmp_path: Path) -> None:
    for cache in (tmp_path, None):
        pixels = open_pixels(in_memory(0), GEOMETRY, cache)
        assert len(pixels) == 0
        assert tuple(pixels.gather(np.array([], dtype=int)).shape) == (0, 3, 8, 8)


def test_equal_content_in_files_arrays_and_objects_gives_equal_pixels(tmp_path: Path) -> None:
    refs = (*in_files(tmp_path, 1).refs, ArrayRef(array(0), "a"), ImageObjectRef(Image.fromarray(array(0)), "b"))
    images = open_pixels(Examples(refs, np.zeros(3, dtype=np.int64)), GEOMETRY, tmp_path).gather(np.arange(3))
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[0], images[2])


def test_a_file_that_this_process_has_checked_is_not_read_again(tmp_path: Path) -> None:
    open_pixels(in_memory(), GEOMETRY, tmp_path)
    assert any(name == str(cached_file(tmp_path)) for name, *_ in array_file._verified)
    assert isinstance(open_pixels(in_memory(), GEOMETRY, tmp_path), ArrayPixels)


def test_the_default_cache_is_a_folder_of_our_own() -> None:
    assert default_cache().name == "pixels" and "vitadapt" in str(default_cache())
