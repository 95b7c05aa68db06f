"""Every data set is read from its publisher's own layout, and agrees with torchvision item by item."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets as tv
from elevater_cases import Copy, write_shards
from native_cases import CASES, SEEDED, SPLITS, Painter, rgb, split_json, vtab1k

from vitadapt.data import Dataset, Examples, open_dataset
from vitadapt.data.class_names import class_key
from vitadapt.data.datasets import catalog
from vitadapt.data.readers.class_folders import seeded_split
from vitadapt.data.readers.kitti import split_by_drive
from vitadapt.utils.errors import DataError

Native = Callable[[str], tuple[Path, dict]]


@cache
def class_ids(name: str) -> dict[str, int]:
    """Spelling -> the catalog's class."""
    row = catalog()[name]
    keys = {class_key(label): i for i, label in enumerate(row.classes)}
    return {**{class_key(other): keys[class_key(label)] for other, label in row.spellings.items()}, **keys}


def class_id(name: str, own: object) -> int:
    """The catalog's class that a publisher calls `own`: a name or a number."""
    return int(own) if isinstance(own, (int, np.integer)) else class_ids(name)[class_key(str(own))]


def same(found: Examples, truth: list, name: str) -> None:
    """The same images in the same order, with the same classes."""
    assert len(found) == len(truth)
    for ref, label, (own, pixels) in zip(found.refs, found.labels, truth, strict=True):
        assert np.array_equal(rgb(ref.read()), pixels), ref.name
        if found.multilabel:
            assert {catalog()[name].classes[i] for i in np.flatnonzero(label)} == set(own)
        else:
            assert label == class_id(name, own), own


def whole(dataset: Dataset) -> Examples:
    """All splits together, in the order of the paths."""
    parts = list(dataset.splits.values())
    refs = [ref for part in parts for ref in part.refs]
    order = sorted(range(len(refs)), key=lambda i: refs[i].name)
    return Examples(tuple(refs[i] for i in order), np.concatenate([part.labels for part in parts])[order])


SHARED = {"hub", "numbered-folders", "webdataset"}  # storages of many data sets
BUNDLED = {
    "mnist-5k",
    "digits",
    "fashion-mnist",
    "openclipart",
    "stellarium",
    "tuxpaint",
    "imagenet-1k",
}  # from packages; and one too large


def test_there_is_a_case_for_every_data_set_with_a_storage_of_its_own() -> None:
    own = {name for name, row in catalog().items() if {options["reader"] for options in row.sources} - SHARED}
    assert set(CASES) == {name for name in own if not catalog()[name].edition_of} - BUNDLED
    assert len([name for name in CASES if catalog()[name].leaderboard]) == 20


@pytest.mark.parametrize("name", sorted(set(CASES) - set(SEEDED)))
def test_the_official_split_is_read(name: str, native_copy: Native) -> None:
    root, truth = native_copy(name)
    dataset, row = open_dataset(name, root), catalog()[name]
    assert set(dataset.splits) == set(truth)
    for split in truth:
        same(dataset.splits[split], truth[split], name)
    assert (dataset.classes, dataset.metric, dataset.squash) == (row.classes, row.metric, row.squash)
    assert dataset.split == row.split and not [note for note in dataset.notes if "native" in note]
    assert dataset.split == ("elevater" if row.leaderboard else "given")


VTAB = [name for name, row in catalog().items() if name.startswith("vtab1k-") and row.edition_of]
COOP = [name for name, row in catalog().items() if name.startswith("coop-") and row.edition_of]


@pytest.mark.parametrize("name", VTAB)
def test_a_set_of_vtab_1k_is_read_with_the_numbers_of_its_lists(name: str, tmp_path: Path) -> None:
    truth = vtab1k(tmp_path, name.removeprefix("vtab1k-"))
    dataset = open_dataset(name, tmp_path)
    for split in truth:
        same(dataset.splits[split], truth[split], name)
    assert (dataset.metric, dataset.squash, dataset.split) == ("accuracy", True, "given")


def test_vtab_1k_has_nineteen_sets_of_a_thousand_images_and_its_own_order_of_cifar() -> None:
    rows = [catalog()[name] for name in VTAB]
    assert len(rows) == 19 and {row.sizes["train"] for row in rows} == {1000}
    assert rows[0].classes == tuple(sorted(catalog()["cifar-100"].classes))  # as TensorFlow Datasets numbers them


RENAMED = {  # what CoOp's files call some classes
    "coop-caltech-101": {"off-center face": "face", "Leopards": "leopard", "airplanes": "airplane"},
    "coop-eurosat": {"brushland or shrubland": "Herbaceous Vegetation Land", "lake or sea": "Sea or Lake"},
}


def coop_name(name: str, label: str) -> str:
    if name == "coop-stanford-cars":  # the year first
        words = label.split()
        return " ".join([words[-1], *words[:-1]])
    return RENAMED.get(name, {}).get(label, label.lower().replace(" ", "_"))


@pytest.mark.parametrize("name", COOP)
def test_a_split_file_of_coop_is_read_with_its_numbering(name: str, tmp_path: Path) -> None:
    row = catalog()[name]
    options = row.sources[0]
    own = list(row.classes) if options.get("numbered") else sorted(row.classes, key=lambda label: label[::-1])
    names = [coop_name(name, label) for label in own]
    truth = split_json(tmp_path / options["folders"][0], options["list"], options["images"], names)
    dataset = open_dataset(name, tmp_path)
    for split in truth:
        expected = [(row.classes.index(own[names.index(said)]), pixels) for said, pixels in truth[split]]
        same(dataset.splits[split], expected, name)
    assert dataset.order == (() if options.get("numbered") else tuple(row.classes.index(label) for label in own))


def test_a_split_file_with_a_number_beyond_all_bounds_is_refused(tmp_path: Path) -> None:
    CASES["ucf101"](tmp_path)
    index = next(tmp_path.rglob("split_zhou_UCF101.json"))
    table = json.loads(index.read_text())
    table["train"][0][1] = 10**60  # found by tests/fuzz
    index.write_text(json.dumps(table))
    with pytest.raises(DataError, match="does not number its 102 classes from 0 on"):
        open_dataset("ucf101", tmp_path)


def test_other_images_of_imagenets_classes_are_for_testing_alone(tmp_path: Path) -> None:
    row, paint = catalog()["imagenet-r"], Painter()
    for name, wnid in {meant: other for other, meant in row.spellings.items()}.items():
        paint.save(tmp_path / "imagenet-rendition" / "imagenet-r" / wnid / f"{row.classes.index(name)}.png")
    for number in (0, 999, 10):
        paint.save(tmp_path / "imagenetv2" / "imagenetv2-matched-frequency-format-val" / str(number) / "x.png")
    rendered, numbered = open_dataset("imagenet-r", tmp_path), open_dataset("imagenet-v2", tmp_path)
    assert rendered.splits.keys() == numbered.splits.keys() == {"test"}
    found = [int(Path(ref.name).stem) for ref in rendered.splits["test"].refs]
    assert rendered.splits["test"].labels.tolist() == found and set(found) == set(range(200))
    assert numbered.splits["test"].labels.tolist() == [0, 10, 999] and len(numbered.classes) == 1000
    assert set(rendered.classes) < set(numbered.classes) == set(catalog()["imagenet-1k"].classes)


def test_a_class_that_its_publisher_calls_nothing_is_read(tmp_path: Path) -> None:
    row = catalog()["clevr-distance"]
    copy = Copy(row, {split: [(i, (i,)) for i in range(6)] for split in ("train", "test")})
    write_shards(tmp_path, copy, ["very nearby", "nearby", "near", "", "distant", "very distant"])
    assert open_dataset("clevr-distance", tmp_path).splits["test"].labels.tolist() == list(range(6))


def test_finer_levels_are_grouped_by_vtabs_rule(tmp_path: Path) -> None:
    for name, levels in (("dsprites-location", 32), ("dsprites-orientation", 40)):
        row = catalog()[name]
        copy = Copy(row, {split: [(i, (i,)) for i in range(levels)] for split in ("train", "test")})
        write_shards(tmp_path, copy, [str(i) for i in range(levels)])
        factor = np.float32(levels / 16)
        expected = [int(np.floor_divide(np.float32(level), factor)) for level in range(levels)]
        assert open_dataset(name, tmp_path).splits["test"].labels.tolist() == expected
        assert set(expected) == set(range(16))


@pytest.mark.parametrize("name", CASES)
def test_a_copy_that_went_through_other_systems(name: str, tmp_path: Path) -> None:
    CASES[name](tmp_path)
    for path in [path for path in tmp_path.rglob("*") if path.suffix in (".jpg", ".png", ".ppm")]:
        path.rename(path.with_suffix(path.suffix.upper()))
    for folder in [tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())]:
        (folder / ".DS_Store").write_bytes(b"x")
        (folder / "Thumbs.db").write_bytes(b"x")
        (folder / "__MACOSX").mkdir()
        (folder / "__MACOSX" / "._0001.jpg").write_bytes(b"x")
    for path in [path for path in tmp_path.rglob("*") if path.suffix in (".txt", ".json", ".jsonl")]:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    for part in open_dataset(name, tmp_path).splits.values():
        assert all(rgb(ref.read()).size for ref in part.refs)


@pytest.mark.parametrize("name", SEEDED)
def test_a_data_set_without_a_split_gets_a_seeded_one_and_says_so(name: str, native_copy: Native) -> None:
    root, truth = native_copy(name)
    dataset, again = open_dataset(name, root), open_dataset(name, root)
    same(whole(dataset), truth["all"], name)  # so no image is in two splits, and none is lost
    for split, part in dataset.splits.items():
        assert set(part.labels.tolist()) == set(range(len(dataset.classes)))
        assert [ref.name for ref in part.refs] == [ref.name for ref in again.splits[split].refs]
    assert set(dataset.splits) == {split for split in SPLITS if split in catalog()[name].sizes}
    assert dataset.split == "native" and dataset.notes[0].startswith("native split (seed 0): of each class ")


NAMES = [f"c/{i:04d}.jpg" for i in range(1500)]


@pytest.mark.parametrize(
    ("count", "quotas", "rest", "sizes"),
    [
        (1500, {"train": 500, "val": 500, "test": 500}, None, [500, 500, 500]),
        (1400, {"train": 500, "val": 400, "test": 300}, None, [500, 400, 300]),
        (700, {"train": 70, "val": 70, "test": 560}, None, [70, 70, 560]),
        (699, {"train": 70, "val": 70, "test": 560}, None, [69, 69, 561]),
        (31, {"train": 30, "test": 60}, "test", [30, 1]),
        (800, {"train": 30, "test": 60}, "test", [30, 770]),
        (30, {"train": 30, "test": 60}, "test", [10, 20]),
        (2, {"train": 30, "test": 60}, "test", [1, 1]),
        (3, {"train": 70, "val": 70, "test": 560}, None, [1, 1, 1]),
    ],
)
def test_the_seeded_rule(count: int, quotas: dict[str, int], rest: str | None, sizes: list[int]) -> None:
    parts = seeded_split(NAMES[:count], quotas, rest, 0, "here")
    assert list(parts) == list(quotas) and [len(part) for part in parts.values()] == sizes
    dealt = [name for part in parts.values() for name in part]
    assert len(set(dealt)) == len(dealt) and set(dealt) <= set(NAMES[:count])
    assert parts == seeded_split(NAMES[:count][::-1], quotas, rest, 0, "here")  # whatever the order of the files
    if count > 3:
        assert parts != seeded_split(NAMES[:count], quotas, rest, 1, "here")


def test_the_seeded_rule_is_pinned() -> None:
    assert seeded_split(NAMES[:6], {"train": 2, "test": 1}, None, 0, "here") == {
        "train": ["c/0000.jpg", "c/0002.jpg"],
        "test": ["c/0001.jpg"],
    }


def test_drives_are_drawn_as_published() -> None:
    """The published split draws from numpy's global generator, seeded with 123."""
    drives = [f"d{i % 41:02d}" for i in range(123)]
    state = np.random.get_state()
    np.random.seed(123)
    test = set(np.random.choice(sorted(set(drives)), 4, replace=False))
    val = set(np.random.choice(sorted(set(drives) - test), 4, replace=False))
    np.random.set_state(state)
    parts = split_by_drive(drives, "here")
    assert {drives[frame] for frame in parts["test"]} == test
    assert {drives[frame] for frame in parts["val"]} == val
    assert sorted(frame for part in parts.values() for frame in part) == list(range(123))


def trap(name: str, root: Path, own: str) -> str:
    """What the catalog calls the class of the first test image that the publisher calls `own`."""
    truth, dataset = CASES[name](root), open_dataset(name, root)
    return dataset.classes[dataset.splits["test"].labels[[label for label, _ in truth["test"]].index(own)]]


@pytest.mark.parametrize(
    ("name", "own", "called", "place"),
    [
        ("fer-2013", "sad", "sad", 5),  # 4 in the table
        ("fer-2013", "neutral", "neutral", 4),  # 6 in the table
        ("food-101", "cheese_plate", "cheese plate", 17),
        ("fgvc-aircraft", "F/A-18", "F-A-18", 73),
        ("stanford-cars", "AM General Hummer SUV 2000", "AM General Hummer SUV 2000", 6),
        ("cifar-100", "apple", "apple", 24),
        ("oxford-pets", "American Bulldog", "American Bulldog", 1),
    ],
)
def test_classes_stand_in_the_order_of_the_leaderboard(
    name: str, own: str, called: str, place: int, tmp_path: Path
) -> None:
    assert trap(name, tmp_path, own) == called
    assert catalog()[name].classes[place] == called


Items = Iterator[tuple[object, np.ndarray]]


def items(dataset: object, names: object = None) -> Items:
    for image, label in dataset:  # type: ignore[attr-defined]
        yield (label if names is None else names[label]), rgb(image)


def cifar(kind: type, root: Path, train: bool) -> Items:
    class Unchecked(kind):  # type: ignore[misc, valid-type]
        """torchvision knows only the checksums of the real files."""

        def _check_integrity(self) -> bool:
            return True

        def _load_meta(self) -> None:
            pass

    return items(Unchecked(root, train))


def splits(kind: type, names: bool = True, **rest: object) -> Callable[[Path, str], Items]:
    def read(root: Path, split: str) -> Items:
        dataset = kind(root, split=split, **rest)
        return items(dataset, dataset.classes if names else None)

    return read


def by_number(kind: type, name: str) -> Callable[[Path, str], Items]:
    """torchvision numbers the classes like the table of names that the publisher sorted."""
    order = sorted(label.replace(" ", "_") for label in catalog()[name].classes)
    return lambda root, split: ((order[label], image) for label, image in cifar(kind, root, split == "train"))


def pets(root: Path, split: str) -> Items:
    dataset = tv.OxfordIIITPet(root, split={"train": "trainval"}.get(split, split))
    return items(dataset, dataset.classes)


def mnist(root: Path, split: str) -> Items:
    return ((str(label), image) for label, image in items(tv.MNIST(root, split == "train")))


def voc(root: Path, split: str) -> Items:
    for image, tree in tv.VOCDetection(root, year="2007", image_set=split):
        objects = tree["annotation"]["object"]
        yield frozenset(o["name"] for o in objects if o["difficult"] == "0"), rgb(image)


def fer(root: Path, split: str) -> Items:
    names = ["angry", "disgusted", "fearful", "happy", "sad", "surprised", "neutral"]
    return items(tv.FER2013(root, split=split), names)


def clevr(root: Path, split: str) -> Items:
    dataset = tv.CLEVRClassification(root, split={"test": "val"}.get(split, split))
    return ((f"{count} objects", rgb(image)) for image, count in dataset)


def svhn(root: Path, split: str) -> Items:
    return ((int(digit), rgb(image)) for image, digit in tv.SVHN(root, split=split))


TORCHVISION: dict[str, Callable[[Path, str], Items]] = {
    "cifar-10": by_number(tv.CIFAR10, "cifar-10"),
    "cifar-100": by_number(tv.CIFAR100, "cifar-100"),
    "country211": lambda root, split: splits(tv.Country211)(root, {"val": "valid"}.get(split, split)),
    "dtd": splits(tv.DTD, partition=1),
    "fer-2013": fer,
    "fgvc-aircraft": splits(tv.FGVCAircraft, annotation_level="variant"),
    "food-101": splits(tv.Food101),
    "gtsrb": splits(tv.GTSRB, names=False),
    "mnist": mnist,
    "oxford-flowers-102": splits(tv.Flowers102),
    "oxford-pets": pets,
    "patch-camelyon": splits(tv.PCAM, names=False),
    "rendered-sst2": splits(tv.RenderedSST2),
    "stanford-cars": splits(tv.StanfordCars),
    "clevr-count": clevr,
    "svhn": svhn,
    "voc-2007": voc,
}


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # torchvision leaves GIF files open
@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_reads_the_same(name: str, native_copy: Native, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.datasets.fer2013.check_integrity", lambda *_, **__: True)
    monkeypatch.setattr(tv.SVHN, "_check_integrity", lambda _: True)
    monkeypatch.setattr("torchvision.datasets.flowers102.check_integrity", lambda *_, **__: True)
    root, truth = native_copy(name)
    dataset = open_dataset(name, root)
    for split in truth:
        if name == "fer-2013" and split != "train":
            continue  # torchvision's test split is both later parts together
        theirs = list(TORCHVISION[name](root, split))
        same(dataset.splits[split], theirs, name)


def ordered(examples: Examples) -> Examples:
    """In the order of the pixels."""
    return examples.take(sorted(range(len(examples)), key=lambda i: rgb(examples.refs[i].read()).tobytes()))


def test_torchvision_reads_the_same_eurosat(native_copy: Native) -> None:
    root, _ = native_copy("eurosat")
    theirs = tv.EuroSAT(root)
    ours = ordered(whole(open_dataset("eurosat", root)))
    same(ours, sorted(items(theirs, theirs.classes), key=lambda item: item[1].tobytes()), "eurosat")


def test_torchvision_reads_the_same_caltech_but_the_background(native_copy: Native) -> None:
    root, _ = native_copy("caltech-101")
    theirs = tv.Caltech101(root)
    ours = ordered(whole(open_dataset("caltech-101", root)))
    background = class_id("caltech-101", "BACKGROUND_Google")
    rest = ours.take(np.flatnonzero(ours.labels != background))
    assert len(ours) - len(rest) == 3
    same(rest, sorted(items(theirs, theirs.categories), key=lambda item: item[1].tobytes()), "caltech-101")


def test_torchvision_has_the_same_kitti_frames(native_copy: Native) -> None:
    root, _ = native_copy("kitti-distance")
    dataset = open_dataset("kitti-distance", root)
    ours = {
        rgb(ref.read()).tobytes(): label
        for part in dataset.splits.values()
        for ref, label in zip(part.refs, part.labels.tolist(), strict=True)
    }
    counted: Counter[int] = Counter()
    for image, objects in tv.Kitti(root):
        near = [o["location"][2] for o in objects if o["type"] in ("Car", "Van", "Truck")]
        z = min(near, default=None)
        expected = 3 if z is None else 0 if z <= 8 else 1 if z <= 20 else 2
        assert ours[rgb(image).tobytes()] == expected
        counted[expected] += 1
    assert len(counted) == 4 and sum(counted.values()) == len(ours) == 24
