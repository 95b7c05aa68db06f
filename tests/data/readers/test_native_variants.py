"""Original archives in their other forms: binary, gzipped, nested, renamed; and what their readers offer beside."""

from __future__ import annotations

import csv
import os
import pickle
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from native_cases import Painter, rgb, text, zipped

from vitadapt.data import open_dataset
from vitadapt.data.datasets import catalog
from vitadapt.data.readers.restricted_pickle import read_pickle
from vitadapt.utils.errors import DataError
from vitadapt.utils.optional import MissingPackage

Original = Callable[[str], tuple[Path, dict]]
C10, PCAM, SIGNS = "cifar-10-batches-py", "pcam/camelyonpatch_level_2_split", "gtsrb/GTSRB"
FER, CARS, MEMES = "fer2013/fer2013.csv", "stanford_cars", "hateful-memes"


def to_records(root: Path, names: dict[str, str], meta: tuple[str, str], key: str, skip: int) -> None:
    """The binary form of the batches, from their pickles."""
    for old, new in names.items():
        table = read_pickle(root / old)
        rows = zip(table[key], table["data"], strict=True)
        data = b"".join(bytes([9] * skip + [label]) + pixels.tobytes() for label, pixels in rows)
        (root / new).parent.mkdir(exist_ok=True)
        (root / new).write_bytes(data)
    text(root / meta[1], *read_pickle(root / meta[0])[f"{key[:-1]}_names"], "")
    shutil.rmtree(root / Path(meta[0]).parent)


BINARY = {
    "cifar-10": (
        {
            f"{C10}/{n}": f"cifar-10-batches-bin/{n}.bin"
            for n in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
        },
        (f"{C10}/batches.meta", "cifar-10-batches-bin/batches.meta.txt"),
        "labels",
        0,
    ),
    "cifar-100": (
        {f"cifar-100-python/{n}": f"cifar-100-binary/{n}.bin" for n in ("train", "test")},
        ("cifar-100-python/meta", "cifar-100-binary/fine_label_names.txt"),
        "fine_labels",
        1,
    ),
}


@pytest.mark.parametrize("name", BINARY)
def test_the_binary_form_of_cifar_is_the_same(name: str, tmp_path: Path, native_copy: Original) -> None:
    root = tmp_path / "root"
    shutil.copytree(native_copy(name)[0], root)
    expected = open_dataset(name, root)
    to_records(root, *BINARY[name])
    found = open_dataset(name, root)
    for split, part in expected.splits.items():
        assert found.splits[split].labels.tolist() == part.labels.tolist()
        assert [ref.digest() for ref in found.splits[split].refs] == [ref.digest() for ref in part.refs]
    (file,) = root.rglob("test*.bin")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"holds \d+ bytes, not a multiple of 307"):
        open_dataset(name, root)


def test_gzipped_h5_files_are_read(tmp_path: Path, native_copy: Original, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    shutil.copytree(native_copy("patch-camelyon")[0], root)
    expected = open_dataset("patch-camelyon", native_copy("patch-camelyon")[0])
    for path in list((root / "pcam").iterdir()):
        zipped(path)
    found = open_dataset("patch-camelyon", root)
    for split, part in expected.splits.items():
        assert [ref.digest() for ref in found.splits[split].refs] == [ref.digest() for ref in part.refs]
    monkeypatch.setattr("vitadapt.data.readers.hdf5.ARRAY_FILE", 1000)
    with pytest.raises(DataError, match=r"train_x.h5.gz unfolds into more than .* decompress it: gunzip"):
        open_dataset("patch-camelyon", root)


def test_images_of_an_h5_file_are_read_by_many_threads_and_survive_a_pickle(native_copy: Original) -> None:
    refs = open_dataset("patch-camelyon", native_copy("patch-camelyon")[0]).splits["train"].refs
    expected = [ref.digest() for ref in refs]
    found: list[list[str]] = []
    workers = [threading.Thread(target=lambda: found.append([ref.digest() for ref in refs])) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [expected] * 4
    sent = pickle.loads(pickle.dumps(refs))  # noqa: S301 (its own)
    assert [ref.digest() for ref in sent] == expected and len(set(expected)) == len(expected)


def test_the_stamp_of_an_h5_image_tells_rows_and_files_apart(tmp_path: Path, native_copy: Original) -> None:
    root = tmp_path / "root"
    shutil.copytree(native_copy("patch-camelyon")[0], root)
    path = root / f"{PCAM}_train_x.h5"
    os.utime(path, (1, 1))
    refs = open_dataset("patch-camelyon", root).splits["train"].refs
    stamps = [ref.stamp() for ref in refs]
    assert None not in stamps and len(set(stamps)) == len(refs)
    os.utime(path, (2, 2))
    assert not set(stamps) & {ref.stamp() for ref in refs}


@pytest.mark.parametrize(("module", "name"), [("h5py", "patch-camelyon")])
def test_a_missing_library_names_the_extra(
    module: str, name: str, native_copy: Original, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = native_copy(name)[0]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackage, match=rf'needs the package {module}; pip install "vitadapt\[data\]"'):
        open_dataset(name, root)


@pytest.mark.parametrize(("rule", "labels"), [("negative", set()), ("positive", {"cat"})])
def test_what_an_image_of_only_difficult_objects_is(
    rule: str, labels: set[str], native_copy: Original, monkeypatch: pytest.MonkeyPatch
) -> None:
    (options,) = [source for source in catalog()["voc-2007"].sources if source["reader"] == "voc"]
    monkeypatch.setitem(options, "difficult", rule)
    dataset = open_dataset("voc-2007", native_copy("voc-2007")[0])
    row = dataset.splits["test"].labels[4]
    assert {dataset.classes[i] for i in np.flatnonzero(row)} == labels


def test_the_table_of_emotions_under_its_other_name(tmp_path: Path, native_copy: Original) -> None:
    with open(native_copy("fer-2013")[0] / FER, newline="") as file:
        rows = [(emotion, usage, pixels) for emotion, pixels, usage in csv.reader(file)]
    (tmp_path / "fer2013").mkdir()
    lines = (",".join(row) for row in [("emotion", " Usage", " pixels"), *rows[1:]])
    text(tmp_path / "fer2013" / "icml_face_data.csv", *lines)
    theirs, ours = open_dataset("fer-2013", native_copy("fer-2013")[0]), open_dataset("fer-2013", tmp_path)
    for split in theirs.splits:
        assert [ref.digest() for ref in ours.splits[split].refs] == [ref.digest() for ref in theirs.splits[split].refs]
        assert ours.splits[split].labels.tolist() == theirs.splits[split].labels.tolist()


def test_cars_as_some_copies_nest_them_and_the_newer_name_of_the_labelled_memes(
    tmp_path: Path, native_copy: Original
) -> None:
    shutil.copytree(native_copy("stanford-cars")[0] / CARS, tmp_path / CARS)
    for part in ("cars_train", "cars_test"):
        (tmp_path / CARS / part).rename(tmp_path / CARS / "moved")
        (tmp_path / CARS / part).mkdir()
        (tmp_path / CARS / "moved").rename(tmp_path / CARS / part / part)
    assert len(open_dataset("stanford-cars", tmp_path).splits["test"]) == 196
    shutil.copytree(native_copy("hateful-memes")[0] / MEMES, tmp_path / MEMES)
    (tmp_path / f"{MEMES}/dev.jsonl").rename(tmp_path / f"{MEMES}/dev_seen.jsonl")
    assert open_dataset("hateful-memes", tmp_path).splits["test"].labels.tolist() == [0, 1, 0, 1]


def test_the_validation_signs_are_read_where_they_are(tmp_path: Path, native_copy: Original) -> None:
    shutil.copytree(native_copy("gtsrb")[0], tmp_path / "root")
    pixels = Painter().save(tmp_path / "root" / SIGNS / "Online-Test-sort" / "00005" / "a.ppm")
    part = open_dataset("gtsrb", tmp_path / "root").splits["val"]
    assert part.labels.tolist() == [5] and np.array_equal(rgb(part.refs[0].read()), pixels)


def test_imagenet_in_folders_of_wordnet_ids(tmp_path: Path) -> None:
    row = catalog()["imagenet-1k"]
    wordnet = {other: name for other, name in row.spellings.items() if other.startswith("n0") or other.startswith("n1")}
    Painter().save(tmp_path / "one.jpg")
    for split in ("train", "val"):
        for own in wordnet:
            folder = tmp_path / "imagenet" / split / own
            folder.mkdir(parents=True)
            os.link(tmp_path / "one.jpg", folder / f"{own}_1.JPEG")
    part = open_dataset("imagenet-1k", tmp_path).splits["test"]
    named = [row.classes[label] for label in part.labels]
    assert named == [wordnet[Path(ref.name).parent.name] for ref in part.refs] and len(set(named)) == 1000
