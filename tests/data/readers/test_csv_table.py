"""CSV tables of images: what they may say, and the line that is named when they say something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitadapt.data import Dataset, open_dataset
from vitadapt.utils.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for i in range(10):
        Image.new("RGB", (2, 2), (i, i, i)).save(tmp_path / "in" / f"{i}.png")
    return tmp_path


def table(folder: Path, text: str | bytes) -> Path:
    path = folder / "my data.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def names(dataset: Dataset, split: str) -> list[str]:
    return [Path(ref.name).name for ref in dataset.splits[split].refs]


FULL = "path,label,split\nin/0.png,dog,train\nin/1.png,cat,train\nin/2.png,cat,test\nin/3.png,dog,val\n"


def test_paths_labels_and_splits_are_read_in_the_order_of_the_table(folder: Path) -> None:
    dataset = open_dataset(table(folder, FULL))
    assert (dataset.name, dataset.classes, dataset.notes) == (
        "my data",
        ("cat", "dog"),
        ("the test split has no images of dog",),
    )
    assert (names(dataset, "train"), dataset.splits["train"].labels.tolist()) == (["0.png", "1.png"], [1, 0])
    assert (names(dataset, "test"), names(dataset, "val")) == (["2.png"], ["3.png"])
    assert dataset.splits["train"].labels.dtype == np.int64
    assert dataset.splits["train"].refs[0].read().getpixel((0, 0)) == (0, 0, 0)


SPELLINGS = {
    "byte order mark": b"\xef\xbb\xbf" + FULL.encode(),
    "windows line ends": FULL.replace("\n", "\r\n").encode(),
    "no last line end": FULL.rstrip().encode(),
    "blank lines": FULL.replace("\n", "\n\n").encode(),
    "blanks around": FULL.replace(",", " , ").encode(),
    "quotes": FULL.replace("in/0.png", '"in/0.png"').encode(),
    "capital letters": FULL.replace("path,label,split", "Path,LABEL,Split").replace("val", "Validation").encode(),
    "other columns": FULL.replace("\n", ",x\n").encode(),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_same_table_in_other_spellings(folder: Path, spelling: str) -> None:
    dataset = open_dataset(table(folder, SPELLINGS[spelling]))
    assert (names(dataset, "train"), dataset.splits["train"].labels.tolist()) == (["0.png", "1.png"], [1, 0])
    assert (names(dataset, "test"), names(dataset, "val")) == (["2.png"], ["3.png"])


def test_without_a_split_column_a_fifth_of_each_class_is_held_out(folder: Path) -> None:
    rows = [f"in/{i}.png,{'cat' if i < 5 else 'dog'}" for i in range(10)]
    dataset = open_dataset(table(folder, "\n".join(["path,label", *rows])))
    assert [np.bincount(dataset.splits[split].labels).tolist() for split in ("train", "test")] == [[4, 4], [1, 1]]
    assert dataset.notes == ("no test split was given: 20% of each class was held out",)
    shuffled = open_dataset(table(folder, "\n".join(["path,label", *rows[::-1]])))
    assert sorted(names(shuffled, "test")) == sorted(names(dataset, "test"))


@pytest.mark.parametrize("mark", ["|", ";"])
def test_several_labels_make_the_whole_dataset_multi_label(folder: Path, mark: str) -> None:
    text = f"path,label,split\nin/0.png,dog {mark} cat,train\nin/1.png,elk,train\nin/2.png,dog{mark}dog,test\n"
    dataset = open_dataset(table(folder, text))
    assert dataset.classes == ("cat", "dog", "elk")
    train = dataset.splits["train"]
    assert train.multilabel and train.labels.dtype == np.uint8
    assert train.labels.tolist() == [[1, 1, 0], [0, 0, 1]]
    assert dataset.splits["test"].labels.tolist() == [[0, 1, 0]]


def test_a_semicolon_inside_a_class_name_is_part_of_it(folder: Path) -> None:
    text = "path,label,split\nin/0.png,cats; dogs,train\nin/1.png,elk,train\nin/2.png,cats; dogs,test\n"
    dataset = open_dataset(table(folder, text))
    assert dataset.classes == ("cats; dogs", "elk") and not dataset.splits["train"].multilabel
    assert dataset.splits["test"].labels.tolist() == [0]
    several = open_dataset(table(folder, text.replace("elk,", "elk|cats; dogs,")))
    assert several.classes == ("cats; dogs", "elk") and several.splits["train"].labels.tolist() == [[1, 0], [1, 1]]


def test_holding_out_works_for_several_labels(folder: Path) -> None:
    rows = [f"in/{i}.png,{'cat' if i % 2 else 'dog|cat'}" for i in range(10)]
    dataset = open_dataset(table(folder, "\n".join(["path,label", *rows])))
    train, test = (dataset.splits[split].labels.sum(axis=0) for split in ("train", "test"))
    assert (train + test).tolist() == [10, 5]
    assert (test >= [2, 1]).all() and (train >= [5, 1]).all()


REFUSED = {
    "path,label\n": "lists no images",
    "": "line 1 must name the columns path,label.*; path is missing",
    "file,label\nin/0.png,cat\n": "line 1 must name the columns path,label.*; path is missing",
    "path;label\nin/0.png;cat\n": "line 1 must name the columns path,label.*; path is missing",
    "path\nin/0.png\n": "line 1 must name the columns path,label.*; label is missing",
    "path,class\nin/0.png,cat\n": "line 2 has 'cat' in the column 'class', neither 0 nor 1; call a column .* 'label'",
    "path,label\nin/0.png,cat\nin/1.png,\n": "line 3 has an empty label",
    "path,label\nin/0.png,cat\nin/1.png,cat||dog\n": "line 3 has an empty label",
    "path,label\nin/0.png,cat\n\n,dog\n": "line 4 has an empty path",
    "path,label\nin/0.png,cat\nin/1.png\n": "line 3 has 1 fields instead of 2",
    "path,label\nin/0.png,cat\nin/1.png,dog,red\n": "line 3 has 3 fields instead of 2; put quotes around commas",
    "path,label,split\nin/0.png,cat,train\nin/1.png,dog,dev\n": "line 3 has the unknown split 'dev'; write train, val",
    "path,label,split\nin/0.png,cat,train\nin/1.png,dog,\n": "line 3 has the unknown split ''",
    "path,label,split\nin/0.png,cat,test\nin/1.png,dog,test\n": "lists no images for train",
    "path,label,split\nin/0.png,cat,train\nin/1.png,dog,train\nin/2.png,dog,val\n": "has a val split but no test split",
    "path,label\nin/0.png,cat\nin/1.png,cat\n": "cat only; at least two classes are needed",
    "path,label\nin/0.png,cat\nin/1.png,Cat\n": "'Cat' and 'cat' are the same class name",
    "path,label,split\nin/0.png,a,train\nin/1.png,b,train\nin/2.png,c,test\n": "test has the class 'c', which train",
    "path,label\nin/0.png,cat\nin/1.png,dog\nin/0.png,dog\n": r"in/0.png is in line 2 and in line 4; keep one",
    "path,label,split\nin/0.png,a,train\nin/1.png,b,train\nin/0.png,a,test\n": "in/0.png is in line 2 and in line 4",
    "path,label\nin/0.png,cat\nin/1.png,dog\n": "the class 'cat' has too few images to hold some out",
    "path,label\nin/0.png,cat\nin/x.png,dog\n": r"files that do not exist below \S+: in/x.png \(line 3\)$",
    "path,label\nin,cat\nin/1.png,dog\n": r"files that do not exist below \S+: in \(line 2\)$",
    'path,label\nin/0.png,"cat\nin/1.png,dog\n': r"line \d is not valid CSV",
}


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_a_table_that_is_refused(folder: Path, text: str) -> None:
    with pytest.raises(DataError, match=REFUSED[text]) as caught:
        open_dataset(table(folder, text))
    assert "my data.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_only_the_first_few_missing_files_are_listed(folder: Path) -> None:
    rows = "".join(f"gone{i}.png,{'cat' if i % 2 else 'dog'}\n" for i in range(6))
    with pytest.raises(
        DataError, match=r"gone0.png \(line 2\), gone1.png \(line 3\), gone2.png \(line 4\) and 3 more$"
    ):
        open_dataset(table(folder, "path,label\n" + rows))


def test_a_table_in_another_encoding_names_the_line(folder: Path) -> None:
    with pytest.raises(DataError, match="line 3 is not UTF-8; save the table as UTF-8"):
        open_dataset(table(folder, b"path,label\nin/0.png,cat\nin/1.png," + "möwe\n".encode("latin-1")))


def test_absolute_paths_and_linked_files_work(folder: Path, tmp_path: Path) -> None:
    (folder / "link.png").symlink_to(folder / "in" / "4.png")
    text = f"path,label,split\n{folder / 'in' / '0.png'},cat,train\nlink.png,dog,train\nin/2.png,cat,test\n"
    dataset = open_dataset(table(folder, text))
    assert [ref.read().getpixel((0, 0))[0] for ref in dataset.splits["train"].refs] == [0, 4]
