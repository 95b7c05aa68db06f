"""Clip art as Debian packs it: which drawings become which class, and that no drawing is on both sides."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitadapt.data import open_dataset
from vitadapt.data.checks.dataset import check
from vitadapt.data.datasets import catalog
from vitadapt.data.readers.openclipart import category
from vitadapt.utils.errors import DataError

FOLDERS = list(catalog()["openclipart"].spellings)


def draw(path: Path, number: int) -> None:
    """A drawing that no other number gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def clipart(tmp_path_factory):
    """All categories of the row, each with 16 series of two drawings."""
    root = tmp_path_factory.mktemp("clipart")
    for c, folder in enumerate(FOLDERS):
        for i in range(32):
            draw(
                root / "usr/share/openclipart/png" / folder / f"thing{'abcdefghijklmnop'[i // 2]}_{i % 2}.png",
                100 * c + i,
            )
    return root


def names(paths):
    return {path.name for path in paths}


def test_the_package_is_found_below_the_data_root_and_read_by_its_categories(clipart):
    dataset = open_dataset("openclipart", clipart)
    assert len(dataset.classes) == len(FOLDERS) == 26
    for split, least in (("train", 20), ("test", 8)):
        counts = np.bincount(dataset.splits[split].labels, minlength=26)
        assert counts.min() >= least
    for part in dataset.splits.values():
        for ref, label in zip(part.refs, part.labels.tolist(), strict=True):
            assert Path(ref.name).parent.as_posix().endswith(FOLDERS[label])
    assert check("openclipart", clipart).healthy


def test_every_class_is_called_by_words():
    assert all(re.fullmatch(r"[A-Za-z ]+", name) for name in catalog()["openclipart"].classes)


def test_a_series_is_never_on_both_sides(clipart):
    for folder in FOLDERS:
        train, test = category(clipart / "usr/share/openclipart/png" / folder)
        assert len(train) + len(test) == 32
        assert not {name[:6] for name in names(train)} & {name[:6] for name in names(test)}


def test_links_copies_and_huge_drawings_are_left_out(tmp_path):
    for i in range(40):
        draw(tmp_path / f"{chr(97 + i // 8)}{chr(97 + i % 8)}.png", i)
    before = category(tmp_path)
    (tmp_path / "aaa.png").symlink_to(tmp_path / "ab.png")
    (tmp_path / "zz.png").write_bytes((tmp_path / "ab.png").read_bytes())
    huge = bytearray((tmp_path / "ab.png").read_bytes())
    huge[16:24] = (10_000).to_bytes(4, "big") * 2
    (tmp_path / "huge.png").write_bytes(huge)
    assert category(tmp_path) == before


def test_the_split_knows_nothing_of_the_place_and_the_order_of_writing(tmp_path):
    for i in range(40):
        draw(tmp_path / "one" / f"{chr(97 + i)}.png", i)
        draw(tmp_path / "two" / f"{chr(97 + 39 - i)}.png", 39 - i)
    one, two = category(tmp_path / "one"), category(tmp_path / "two")
    assert [names(part) for part in one] == [names(part) for part in two]


def test_few_drawings_are_no_class(tmp_path):
    for i in range(27):
        draw(tmp_path / f"{chr(97 + i)}.png", i)
    assert category(tmp_path) is None


def test_drawings_that_the_catalog_leaves_out_are_in_no_split(clipart):
    row = catalog()["openclipart"]
    (left_out,) = [source["leave_out"] for source in row.sources]
    assert left_out and all(name.rpartition("/")[0] in FOLDERS for name in left_out)
    other = clipart / "other"
    for c, folder in enumerate(FOLDERS):
        for i in range(30):
            draw(other / folder / f"{chr(97 + i)}.png", 100 * c + i)
    for i, name in enumerate(left_out):
        draw(other / name, 10_000 + i)
    dataset = open_dataset("openclipart", other)
    read = {Path(ref.name).relative_to(other).as_posix() for part in dataset.splits.values() for ref in part.refs}
    assert not read & set(left_out)


@pytest.mark.parametrize("damage", ["missing", "text"])
def test_an_incomplete_package_is_named(tmp_path, damage):
    for folder in FOLDERS[: 1 if damage == "missing" else None]:
        for i in range(30):
            draw(tmp_path / folder / f"{chr(97 + i)}.png", i)
    if damage == "text":
        (tmp_path / FOLDERS[3] / "bad.png").write_text("not a drawing")
    with pytest.raises(DataError, match=f"{FOLDERS[1] if damage == 'missing' else 'bad.png'}.*openclipart-png"):
        open_dataset("openclipart", tmp_path)


def test_where_it_is_not_installed_the_message_says_how_to_get_it(tmp_path):
    if Path("/usr/share/openclipart/png").exists():
        pytest.skip("the package is installed here")
    with pytest.raises(DataError, match="apt-get install openclipart-png"):
        open_dataset("openclipart", tmp_path)
