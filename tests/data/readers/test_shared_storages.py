"""The storages that all catalogued data sets share: read in place, mapped by name, as the hub's own library does."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from elevater_cases import NAMES, WRITERS, Copy, make, number_of, options_of, write_hub, write_numbered, write_shards

from vitadapt.data import Dataset, open_dataset, sample_few_shot
from vitadapt.data.class_names import class_key
from vitadapt.data.datasets import catalog
from vitadapt.utils.errors import DataError

CELLS = [
    (name, reader)
    for name in NAMES
    for reader in WRITERS
    if (name, reader) != ("imagenet-1k", "numbered-folders")  # thousands of files, and nothing that food-101 lacks
    if any(options["reader"] == reader for options in catalog()[name].sources)
]


def check_same(dataset: Dataset, copy: Copy, split: str, ordered: bool = True) -> None:
    """The split holds the copy's images with the catalog's classes."""
    examples = dataset.splits[split]
    numbers = [number_of(ref.read()) for ref in examples.refs]
    expected = [number for number, _ in copy.splits[split]]
    assert sorted(numbers) == sorted(expected)
    if ordered:
        assert numbers == expected
    place = {number: i for i, number in enumerate(expected)}
    assert np.array_equal(examples.labels, copy.labels(split)[[place[number] for number in numbers]])


@pytest.mark.parametrize(("name", "reader"), CELLS)
def test_every_data_set_in_every_shared_storage(name: str, reader: str, tmp_path: Path) -> None:
    copy = make(name)
    WRITERS[reader](tmp_path, copy)
    dataset = open_dataset(name, tmp_path)
    assert dataset.name == name and dataset.classes == copy.row.classes
    assert dataset.metric == copy.row.metric and dataset.squash == copy.row.squash
    assert dataset.order == tuple(range(len(copy.row.classes)))
    assert dataset.split == ("native" if reader == "webdataset" else "elevater")
    for split in dataset.splits:
        check_same(dataset, copy, split, ordered=reader != "numbered-folders")


@pytest.mark.parametrize("name", [name for name in NAMES if 2 < len(catalog()[name].classes) < 1000])
def test_a_copy_with_another_class_order_is_mapped_by_name(name: str, tmp_path: Path) -> None:
    copy = make(name)
    count = len(copy.row.classes)
    order = np.random.default_rng(count).permutation(count).tolist()
    names = [respelt(copy, c, i) for i, c in enumerate(order)]
    write_hub(tmp_path, copy, names, order)
    dataset = open_dataset(name, tmp_path)
    assert dataset.order == tuple(order)
    for split in dataset.splits:
        check_same(dataset, copy, split)


def respelt(copy: Copy, c: int, i: int) -> str:
    """Another spelling of class c: the catalog's where it has one, else other letters and blanks."""
    name = copy.row.classes[c]
    others = [other for other, meant in copy.row.spellings.items() if meant == name]
    return others[i % len(others)] if others else name.upper().replace(" ", "_")


def test_spellings_are_one_to_one() -> None:
    for row in catalog().values():
        own = [class_key(name) for name in row.classes]
        assert len(set(own)) == len(own)
        others: dict[str, str] = {}
        for other, meant in row.spellings.items():
            assert meant in row.classes
            assert others.setdefault(class_key(other), meant) == meant
            assert class_key(other) not in own or class_key(other) == class_key(meant)
        assert not row.classes or row.order(row.classes, "here") == tuple(range(len(row.classes)))


def test_a_wrong_class_list_is_refused_and_names_what_does_not_match(tmp_path: Path) -> None:
    copy = make("cifar-10")
    names = ["cart", *copy.row.classes[1:]]
    write_hub(tmp_path, copy, names)
    with pytest.raises(DataError, match=r"unknown: 'cart'; missing: 'airplane'"):
        open_dataset("cifar-10", tmp_path)


def test_two_names_for_one_class_are_refused(tmp_path: Path) -> None:
    copy = make("fer-2013")
    write_numbered(tmp_path, copy, ["anger", "Angry", *copy.row.classes[2:]])
    with pytest.raises(DataError, match=r"missing: 'disgusted'.*given twice: 'angry'"):
        open_dataset("fer-2013", tmp_path)


def test_mere_numbers_keep_the_order_and_are_reported(tmp_path: Path) -> None:
    copy = make("dtd")
    write_shards(tmp_path, copy, [str(i) for i in range(47)])
    dataset = open_dataset("dtd", tmp_path)
    check_same(dataset, copy, "train")
    assert any("class numbers only" in note for note in dataset.notes)


def test_no_label_map_means_numbers(tmp_path: Path) -> None:
    copy = make("dtd")
    (write_hub(tmp_path, copy) / "labels.txt").unlink()
    assert any("class numbers only" in note for note in open_dataset("dtd", tmp_path).notes)


def repack(path: Path, rename: Callable[[str], str], kind: int) -> None:
    with zipfile.ZipFile(path) as archive:
        files = {rename(name): archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in {"__MACOSX/._x": b"", ".DS_Store": b"", **files}.items():
            archive.writestr(name, data)


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize(("name", "shown"), [("mnist", "top/{}"), ("kitti-distance", "A/{}"), ("voc-2007", "{}")])
def test_a_copy_that_somebody_else_packed(name: str, shown: str, kind: int, tmp_path: Path) -> None:
    copy = make(name)
    folder = write_hub(tmp_path / "real", copy)
    for path in folder.glob("*.zip"):
        repack(path, lambda inner: shown.format(inner.replace(".png", ".PNG")), kind)
    for path in [*folder.glob("*.txt"), *folder.glob("*.json")]:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    (folder / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    dataset = open_dataset(name, tmp_path / "link")
    for split in dataset.splits:
        check_same(dataset, copy, split)


def test_shards_with_another_split_are_called_native(tmp_path: Path) -> None:
    write_shards(tmp_path, make("oxford-pets"))
    dataset = open_dataset("oxford-pets", tmp_path)
    assert dataset.split == "native" and any(note.startswith("native split") for note in dataset.notes)


def test_shards_say_what_is_peculiar_to_them(tmp_path: Path) -> None:
    write_shards(tmp_path, make("voc-2007"))
    assert "objects marked difficult count as present" in open_dataset("voc-2007", tmp_path).notes


def test_the_hub_copy_comes_before_the_others(tmp_path: Path) -> None:
    first, second = make("mnist"), make("mnist", per_class=2)
    write_hub(tmp_path, first)
    write_numbered(tmp_path, second)
    write_shards(tmp_path, second)
    assert len(open_dataset("mnist", tmp_path).splits["train"]) == 10


@pytest.mark.parametrize("below", [".", "somewhere"])
def test_other_names_and_places(below: str, tmp_path: Path) -> None:
    write_hub(tmp_path / below, make("eurosat"))
    assert open_dataset("eurosat_clip", tmp_path).name == "eurosat"


def test_a_folder_wins_over_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pets").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="has no class folders"):
        open_dataset("pets")


def test_what_is_not_there_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"dtd was not found in .*dtd_20211007.*: vitadapt data fetch dtd .*--download, or by hand: torchvision",
    ):
        open_dataset("dtd", tmp_path)
    with pytest.raises(DataError, match=r"--data-root"):
        open_dataset("dtd")


@pytest.mark.parametrize("name", ["cifar-10", "voc-2007", "kitti-distance"])
def test_the_hub_layout_and_its_subsets_agree_with_the_hubs_own_library(name: str, tmp_path: Path) -> None:
    hub = pytest.importorskip("vision_datasets")
    copy = make(name, per_class=25, splits=("train", "test"))
    options, row = options_of(copy.row, "hub"), copy.row
    folder = write_hub(tmp_path, copy)
    usages = {split: {"index_path": options[split], "files_for_local_usage": []} for split in ("train", "test")}
    kind = "classification_multilabel" if row.multilabel else "classification_multiclass"
    entry = {"name": name, "version": 1, "type": kind, "root_folder": str(folder.relative_to(tmp_path)), **usages}
    entry |= {"labelmap": options["labels"], "format": "iris"} if "labels" in options else {"format": "coco"}
    theirs = hub.DatasetHub(json.dumps([entry]))
    dataset = open_dataset(name, tmp_path)
    for split in ("train", "test"):
        found = theirs.create_dataset_manifest(None, str(tmp_path), name, usage=split)
        manifest = found[0] if isinstance(found, tuple) else found
        examples = dataset.splits[split]
        assert [labels_at(examples.labels, i) for i in range(len(examples))] == [
            image.labels for image in manifest.images
        ]
        assert [Path(ref.name).name for ref in examples.refs] == [Path(i.img_path).name for i in manifest.images]
        assert [class_key(label) for label in manifest.labelmap] == [class_key(label) for label in row.classes]
        paths = {image.img_path: i for i, image in enumerate(manifest.images)}
        for seed in (0, 1, 2):
            for shots in (1, 5, 20):
                chosen = [paths[image.img_path] for image in manifest.sample_few_shot_subset(shots, seed).images]
                assert sample_few_shot(examples.labels, shots, seed, allow_fewer=True).tolist() == chosen


def labels_at(labels: np.ndarray, i: int) -> list[int]:
    return [int(labels[i])] if labels.ndim == 1 else np.flatnonzero(labels[i]).tolist()
