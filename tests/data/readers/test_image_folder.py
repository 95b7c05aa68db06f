"""Folders of images: what is read, in which order, what is held out, and every folder that is refused."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitadapt.data import Dataset, open_dataset
from vitadapt.utils.errors import DataError


def put(root: Path, *names: str) -> Path:
    """Tiny images at `names` below `root`; each has a colour of its own."""
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 3), (i % 256, i // 256, 7)).save(path, "PNG")
    return root


def tree(root: Path, sizes: dict[str, int]) -> Path:
    return put(root, *(f"{label}/{i:03}.png" for label, count in sizes.items() for i in range(count)))


def files(dataset: Dataset, split: str, root: Path) -> list[str]:
    return [Path(ref.name).relative_to(root).as_posix() for ref in dataset.splits[split].refs]


def labels(dataset: Dataset, split: str) -> list[str]:
    return [dataset.classes[label] for label in dataset.splits[split].labels]


def test_class_folders_are_read_in_sorted_order_with_a_fifth_of_each_class_held_out(tmp_path: Path) -> None:
    dataset = open_dataset(tree(tmp_path, {"elk": 10, "cat": 6, "dog": 5}))
    assert dataset.classes == ("cat", "dog", "elk")
    assert {split: len(examples) for split, examples in dataset.splits.items()} == {"train": 17 - 1, "test": 5}
    assert [labels(dataset, "test").count(label) for label in dataset.classes] == [2, 1, 2]
    train, test = files(dataset, "train", tmp_path), files(dataset, "test", tmp_path)
    assert train == sorted(train) and test == sorted(test)
    assert not set(train) & set(test)
    for split, names in (("train", train), ("test", test)):
        assert [name.split("/")[0] for name in names] == labels(dataset, split)
    assert dataset.notes == ("no test split was given: 20% of each class was held out",)
    assert dataset.split == "held-out"
    assert dataset.splits["train"].refs[0].read().size == (3, 3)


def test_what_is_held_out_depends_on_the_paths_below_the_folder_and_on_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (tree(tmp_path / name, {"cat": 10, "dog": 10}) for name in ("one", "two"))
    held = files(open_dataset(first), "test", first)
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: real(path)[::-1])
    assert files(open_dataset(second), "test", second) == held
    put(first, "elk/000.png", "elk/001.png")
    more = files(open_dataset(first), "test", first)
    assert [name for name in more if not name.startswith("elk")] == held


def test_train_test_and_val_folders_are_used_as_they_are(tmp_path: Path) -> None:
    tree(tmp_path / "train", {"cat": 3, "dog": 2})
    tree(tmp_path / "Validation", {"dog": 1})
    tree(tmp_path / "test", {"cat": 1, "dog": 2})
    dataset = open_dataset(str(tmp_path))
    assert {split: len(examples) for split, examples in dataset.splits.items()} == {"train": 5, "test": 3, "val": 1}
    assert labels(dataset, "val") == ["dog"]
    assert dataset.notes == () and dataset.split == "given"


def test_a_class_without_test_images_is_noted(tmp_path: Path) -> None:
    tree(tmp_path / "train", {"cat": 3, "dog": 2, "elk": 2})
    tree(tmp_path / "test", {"dog": 2})
    assert open_dataset(tmp_path).notes == ("the test split has no images of cat, elk",)


def test_a_train_folder_alone_is_split(tmp_path: Path) -> None:
    tree(tmp_path / "train", {"cat": 5, "dog": 5})
    dataset = open_dataset(tmp_path)
    assert [len(dataset.splits[split]) for split in ("train", "test")] == [8, 2]
    assert "held out" in dataset.notes[0]


def test_folders_named_like_splits_may_be_classes(tmp_path: Path) -> None:
    assert open_dataset(tree(tmp_path, {"train": 5, "bus": 5, "test": 5})).classes == ("bus", "test", "train")


def test_nested_hidden_and_foreign_files(tmp_path: Path) -> None:
    put(tmp_path, "cat/a.png", "cat/deep/er/b.JPG", "cat/c.webp", "dog/d.png", "dog/e.tiff", "dog/f.PPM")
    put(tmp_path, "cat/.hidden.png", "cat/.cache/x.png", ".git/y.png", "__MACOSX/z.png", "dog/__MACOSX/z.png")
    (tmp_path / "cat" / "readme.txt").write_text("hello")
    (tmp_path / "dog" / "labels.xml").write_text("hello")
    (tmp_path / "licence").write_text("hello")
    dataset = open_dataset(tmp_path)
    found = sorted(files(dataset, "train", tmp_path) + files(dataset, "test", tmp_path))
    assert found == ["cat/a.png", "cat/c.webp", "cat/deep/er/b.JPG", "dog/d.png", "dog/e.tiff", "dog/f.PPM"]
    assert dataset.notes[1:] == (
        "skipped 1 files beside the folders",
        "skipped 2 files that are not images",
        "skipped 3 hidden files or folders",
        "1 images lie in folders below those of the classes and belong to these classes",
    )


def test_files_that_may_be_pictures_but_are_not_read_are_counted_by_suffix(tmp_path: Path) -> None:
    tree(tmp_path, {"cat": 2, "dog": 2})
    for name in ("cat/1.CR2", "cat/2.cr2", "dog/3.cr2", "dog/IMG_4", "dog/raw.NEF", "dog/labels.csv"):
        (tmp_path / name).write_bytes(b"II*\0")
    dataset = open_dataset(tmp_path)
    (doubt,) = dataset.doubts
    named = "(3 .cr2, 1 .nef, 1 without a suffix)"
    assert doubt == f"skipped 5 files that may be pictures but cannot be read {named}; save them as JPEG or PNG"
    assert "skipped 1 files that are not images" in dataset.notes
    for number in range(2):
        (tmp_path / "cat" / f"{number:03}.png").unlink()
    with pytest.raises(DataError, match=r"cat has no images; skipped 2 files .* \(2 \.cr2\); save them"):
        open_dataset(tmp_path)


def test_a_model_folder_among_the_class_folders_is_no_class(tmp_path: Path) -> None:
    tree(tmp_path, {"cat": 2, "dog": 2})
    put(tmp_path, "my-model/adapter.safetensors", "begun/.unfinished/lock")
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("cat", "dog") and "skipped 2 model folders made by fit" in dataset.notes


def test_a_folder_beside_the_splits_is_noted(tmp_path: Path) -> None:
    for part in ("train", "test"):
        tree(tmp_path / part, {"cat": 2, "dog": 2})
    (tmp_path / "docs").mkdir()
    assert open_dataset(tmp_path).notes == ("skipped 1 folders beside the splits",)


def test_links_are_followed_and_a_circle_ends(tmp_path: Path) -> None:
    store = put(tmp_path / "store", "a.png", "b.png", "far/c.png", "far/d.png")
    data = tree(tmp_path / "data", {"cat": 2})
    (data / "cat" / "linked.png").symlink_to(store / "a.png")
    (data / "cat" / "up").symlink_to(data / "cat", target_is_directory=True)
    (data / "dog").symlink_to(store / "far", target_is_directory=True)
    dataset = open_dataset(data)
    found = sorted(files(dataset, "train", data) + files(dataset, "test", data))
    assert found == ["cat/000.png", "cat/001.png", "cat/linked.png", "dog/c.png", "dog/d.png"]


@pytest.mark.parametrize("name", ["cat/gone.png", "cat/deep/gone.jpg", "gone"])
def test_a_link_to_nothing_is_an_error(tmp_path: Path, name: str) -> None:
    tree(tmp_path, {"cat": 2, "dog": 2})
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).symlink_to(tmp_path / "nothing.png")
    with pytest.raises(DataError, match=rf"{name} is a link to nothing; remove or repair it"):
        open_dataset(tmp_path)


def test_a_pipe_with_the_name_of_an_image_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    tree(tmp_path, {"cat": 2, "dog": 2})
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    with pytest.raises(DataError, match=r"pipe.png is not a regular file"):
        open_dataset(tmp_path)


def test_a_folder_that_is_missing_or_a_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing/here: no such file or folder"):
        open_dataset(tmp_path / "nothing" / "here")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"notes.txt is a file; give a folder of class folders, or a list"):
        open_dataset(tmp_path / "notes.txt")


def test_no_class_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no class folders; put the images of each class into a folder"):
        open_dataset(put(tmp_path, "a.png", "b.png"))


def test_one_class_only(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cat only; at least two classes are needed"):
        open_dataset(tree(tmp_path, {"cat": 3}))


@pytest.mark.parametrize("part", ["", "train", "test"])
def test_an_empty_class(tmp_path: Path, part: str) -> None:
    for split in ("train", "test") if part else ("",):
        tree(tmp_path / split, {"cat": 2, "dog": 2})
    (tmp_path / part / "elk").mkdir()
    (tmp_path / part / "elk" / "x.txt").write_text("no image")
    with pytest.raises(DataError, match=r"elk has no images; add some or remove the folder"):
        open_dataset(tmp_path)


TWINS = [
    ("Cat", "cat"),
    ("red fox", "red_fox"),
    ("red  fox", "Red Fox"),
    (unicodedata.normalize("NFC", "élan"), unicodedata.normalize("NFD", "élan")),
]


@pytest.mark.parametrize("twins", TWINS, ids=str)
def test_two_spellings_of_one_class(tmp_path: Path, twins: tuple[str, str]) -> None:
    tree(tmp_path, {name: 2 for name in (*twins, "other")})
    with pytest.raises(DataError, match="are the same class name; give one class one spelling") as caught:
        open_dataset(tmp_path)
    assert all(repr(name) in str(caught.value) for name in twins)


def test_a_test_class_that_train_lacks(tmp_path: Path) -> None:
    tree(tmp_path / "train", {"cat": 2, "dog": 2})
    tree(tmp_path / "test", {"cat": 2, "yak": 2})
    with pytest.raises(DataError, match="test has the class 'yak', which train lacks; add it to train or remove it"):
        open_dataset(tmp_path)
    (tmp_path / "test" / "yak").rename(tmp_path / "test" / "Dog")
    with pytest.raises(DataError, match="test has the class 'Dog', which train lacks; it is spelt 'dog' there"):
        open_dataset(tmp_path)


def test_val_and_no_test(tmp_path: Path) -> None:
    for part in ("train", "val"):
        tree(tmp_path / part, {"cat": 2, "dog": 2})
    with pytest.raises(DataError, match="has a val split but no test split; rename val to test, or add a test split"):
        open_dataset(tmp_path)


def test_test_and_no_train(tmp_path: Path) -> None:
    for part in ("test", "val"):
        tree(tmp_path / part, {"cat": 2, "dog": 2})
    with pytest.raises(DataError, match="has test, val but no train folder; add it"):
        open_dataset(tmp_path)


def test_two_names_for_one_split(tmp_path: Path) -> None:
    for part in ("train", "test", "val", "valid"):
        tree(tmp_path / part, {"cat": 2, "dog": 2})
    with pytest.raises(DataError, match="test, train, val, valid are two names for one split"):
        open_dataset(tmp_path)


def test_a_class_that_is_too_small_to_hold_anything_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the class 'dog' has too few images to hold some out for testing"):
        open_dataset(tree(tmp_path, {"cat": 4, "dog": 1}))


def test_a_folder_name_that_is_not_utf_8(tmp_path: Path) -> None:
    tree(tmp_path, {"cat": 2, "dog": 2})
    try:
        os.rename(tmp_path / "dog", os.fsencode(tmp_path) + b"/d\xf6g")
    except OSError:
        pytest.skip("this file system knows UTF-8 names only")
    with pytest.raises(DataError, match="is not UTF-8; rename it"):
        open_dataset(tmp_path)


def test_a_file_name_that_is_not_utf_8_is_no_problem(tmp_path: Path) -> None:
    tree(tmp_path, {"cat": 2, "dog": 2})
    odd = os.fsencode(tmp_path) + b"/dog/\xff\xfe.png"
    try:
        os.rename(tmp_path / "dog" / "000.png", odd)
    except OSError:
        pytest.skip("this file system knows UTF-8 names only")
    dataset = open_dataset(tmp_path)
    refs = [*dataset.splits["train"].refs, *dataset.splits["test"].refs]
    (ref,) = [ref for ref in refs if "udcff" in ref.name]
    assert ref.read().size == (3, 3)
    assert ref.name.encode("utf-8").endswith(b"\\udcff\\udcfe.png")


def test_the_labels_match_the_folder_of_every_image(tmp_path: Path) -> None:
    dataset = open_dataset(tree(tmp_path, {f"class {i}": 6 for i in range(12)}))
    for split in dataset.splits:
        assert dataset.splits[split].labels.dtype == np.int64
        assert labels(dataset, split) == [name.split("/")[0] for name in files(dataset, split, tmp_path)]


def test_exports_and_results_among_the_class_folders_are_no_classes(tmp_path: Path) -> None:
    tree(tmp_path, {"cat": 2, "dog": 2})
    put(tmp_path, "my-model-onnx/certificate.json", "my-model-onnx/SHA256SUMS", "runs/records/a.json", "runs/locks/a")
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("cat", "dog") and "skipped 2 folders of exports and results" in dataset.notes
