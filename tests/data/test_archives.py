"""Archives read in place: what is in them, from many threads and processes; what must not be trusted is refused."""

from __future__ import annotations

import io
import pickle
import stat
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from elevater_cases import add_member, make, number_of, png, write_hub, write_shards

from vitadapt.data import archives, open_dataset
from vitadapt.data.archives import tar_members, zip_members
from vitadapt.data.examples import FileRef
from vitadapt.utils.errors import DataError


def write_zip(path: Path, names: list[str], kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for number, name in enumerate(names):
            archive.writestr(name, png(number))
    return path


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_of_a_zip(kind: int, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", [f"dir {i}/ä{i}.png" for i in range(40)], kind)
    path.write_bytes(b"self-extracting " + path.read_bytes())  # what stands before a zip is no part of it
    members = zip_members(path)
    with ThreadPoolExecutor(8) as pool:
        refs = list(members.values()) * 5
        assert list(pool.map(lambda ref: number_of(ref.read()), refs)) == [*range(40)] * 5
    loose = tmp_path / "loose.png"
    loose.write_bytes(png(3))
    ref = pickle.loads(pickle.dumps(members["dir 3/ä3.png"]))  # noqa: S301
    assert ref.digest() == FileRef(loose).digest()
    assert ref.name == f"{path}@dir 3/ä3.png"


def test_a_stamp_changes_with_the_archive_and_the_member(tmp_path: Path) -> None:
    import os

    path = write_zip(tmp_path / "a.zip", ["0.png", "1.png"])
    assert zip_members(path)["0.png"].stamp() is None  # too young to be trusted
    os.utime(path, (1e9, 1e9))
    first, second = (ref.stamp() for ref in zip_members(path).values())
    os.utime(path, (1e9 + 5, 1e9 + 5))
    assert len({first, second, zip_members(path)["0.png"].stamp(), None}) == 4


@pytest.mark.parametrize("name", ["../out.png", "/etc/out.png", "a/../../out.png", "a\\out.png"])
def test_members_that_lead_out_are_refused(name: str, tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", ["0.png", name])
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add_member(archive, name, b"")
    for members, file in ((zip_members, "a.zip"), (tar_members, "a.tar")):
        with pytest.raises(DataError, match=r"a\.(zip|tar) lists .*not a path below its folder"):
            members(tmp_path / file)


def test_links_are_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    for members, file in ((zip_members, "a.zip"), (tar_members, "a.tar")):
        with pytest.raises(DataError, match="link"):
            members(tmp_path / file)


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "IMAGE_FILE", 1 << 20)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(2 << 20))
    with pytest.raises(DataError, match=r"'bomb\.png' declares 2 MiB, more than any image"):
        zip_members(tmp_path / "a.zip")


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_that_unfolds_into_more_than_it_declares_is_damaged(kind: int, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("bomb.png", bytes(1 << 20))
    ref = zip_members(path)["bomb.png"]
    lying = archives.ZipRef(ref.archive, ref.member, ref.offset, 100, ref.stored, ref.method, ref.crc)
    with pytest.raises(DataError, match="damaged archive"):
        lying.read()


def test_a_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", ["0.png"], zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.zip@0\.png cannot be read \(damaged archive\)"):
        zip_members(path)["0.png"].digest()


@pytest.mark.parametrize("file", ["a.zip", "a.tar"])
def test_a_missing_or_cut_archive_is_one_line(file: str, tmp_path: Path) -> None:
    members = zip_members if file == "a.zip" else tar_members
    with pytest.raises(DataError, match="is missing"):
        members(tmp_path / file)
    (tmp_path / file).write_bytes(b"PK\x03\x04 not really" * 100)
    with pytest.raises(DataError, match="damaged or cut off"):
        members(tmp_path / file)


DAMAGE = {
    "no archive": (lambda f: (f / "train.zip").unlink(), r"train\.zip is missing"),
    "cut archive": (
        lambda f: (f / "train.zip").write_bytes((f / "train.zip").read_bytes()[:-30]),
        "damaged or cut off",
    ),
    "unknown member": (lambda f: append(f / "train.txt", "train.zip@none.png 0"), "lists none.png, which .* lacks"),
    "no such file": (lambda f: append(f / "train.txt", "loose.png 0"), "loose.png, which does not exist"),
    "path out": (lambda f: append(f / "train.txt", "../../x.png 0"), "not a path below its folder"),
    "archive out": (lambda f: append(f / "train.txt", "../x.zip@x.png 0"), "not a path below its folder"),
    "class too large": (lambda f: append(f / "train.txt", "train.zip@1.png 10"), r"the class 10, outside 0\.\.9"),
    "negative class": (lambda f: append(f / "train.txt", "train.zip@1.png -1"), r"the class -1, outside 0\.\.9"),
    "two classes": (lambda f: append(f / "train.txt", "train.zip@1.png 1,2"), "has 2 classes where one is expected"),
    "no class": (lambda f: append(f / "train.txt", "train.zip@1.png"), "has 0 classes where one is expected"),
    "no number": (lambda f: append(f / "train.txt", "train.zip@1.png cat"), "line 12 ends in 'cat'"),
    "no train index": (lambda f: (f / "train.txt").unlink(), r"train\.txt is missing"),
}


def append(path: Path, line: str) -> None:
    path.write_text(path.read_text() + line + "\n")


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_hub_copy_says_what_is_wrong(damage: str, tmp_path: Path) -> None:
    harm, message = DAMAGE[damage]
    harm(write_hub(tmp_path, make("mnist")))
    with pytest.raises(DataError, match=message) as error:
        open_dataset("mnist", tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[]", "{", '{"images": [{}]}', '{"images": 3, "categories": [], "annotations": []}'])
def test_a_damaged_coco_index_says_what_is_wrong(text: str, tmp_path: Path) -> None:
    folder = write_hub(tmp_path, make("kitti-distance"))
    (folder / "train_meta.json").write_text(text)
    with pytest.raises(DataError, match=r"train_meta\.json is not"):
        open_dataset("kitti-distance", tmp_path)


def npy_with_head(head: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + (len(head) + 1).to_bytes(2, "little") + head.encode() + b"\n" + bytes(160)


def test_missing_and_damaged_shards(tmp_path: Path) -> None:
    folder = write_shards(tmp_path, make("mnist"))
    (folder / "train" / "1.tar").unlink()
    with pytest.raises(DataError, match=r"1\.tar is missing, 2 shards are expected"):
        open_dataset("mnist", tmp_path)
    for name, data, message in (
        ("x.txt", b"", "not one image with one label"),
        ("s1.cls", b"a few", "where a number was expected"),
        ("s1.cls", b"10", r"labels \d\.\.10"),
        ("s1.npy", pickle.dumps([1]), "is not a label"),
        ("s1.npy", npy_with_head("{'descr': '<i8', 'fortran_order': False, 'shape': (20,), } ["), "is not a label"),
        ("s1.npy", npy_with_head("(" * 5000), "is not a label"),
    ):
        with tarfile.open(folder / "train" / "1.tar", "w") as archive:
            add_member(archive, "s1.png", png(1))
            add_member(archive, name, data)
        with pytest.raises(DataError, match=message):
            open_dataset("mnist", tmp_path)


def test_a_tar_image_is_a_slice_of_the_archive(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add_member(archive, "deep/0.png", png(5))
    ref = tar_members(tmp_path / "a.tar")["deep/0.png"]
    assert ref.data() == png(5) and number_of(ref.read()) == 5
    (tmp_path / "a.tar").write_bytes(io.BytesIO(b"short").getvalue())
    with pytest.raises(DataError, match="truncated archive"):
        ref.read()
