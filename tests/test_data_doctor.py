"""The doctor finds each kind of damage, and nothing in sound data; a subset is found again in another copy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from elevater_cases import make, write_hub, write_numbered, write_shards
from vitadapt.cli_data import app
from vitadapt.data import open_dataset, sample_few_shot
from vitadapt.data.doctor import Report, check
from vitadapt.data.subsets import make_manifest, read_manifest, subset_rows
from vitadapt.errors import DataError, UnknownName


def noise(seed: int, mode: str = "RGB", size: tuple[int, int] = (20, 24)) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).convert(mode)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound folder: two splits, two classes, three images each."""
    for number, (split, label) in enumerate((s, c) for s in ("train", "test") for c in ("cat", "dog")):
        (tmp_path / "own" / split / label).mkdir(parents=True)
        for i in range(3):
            noise(10 * number + i).save(tmp_path / "own" / split / label / f"{i}.png")
    return tmp_path / "own"


def found(report: Report) -> dict[str, str]:
    return {finding.check: finding.level for finding in report.findings}


def test_sound_data_have_no_findings(folder: Path) -> None:
    report = check(folder, shots=3)
    assert report.findings == () and report.healthy
    assert report.counts == {"train": (3, 3), "test": (3, 3)} and report.classes == ("cat", "dog")


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(77).save(path.with_suffix(".jpg"), exif=exif)


DAMAGE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "truncated": (lambda p: (p / "train/cat/0.png").write_bytes(b"\x89PNG\r\n\x1a\n half"), "unreadable", "error"),
    "empty file": (lambda p: (p / "train/cat/0.png").write_bytes(b""), "unreadable", "error"),
    "leak": (lambda p: noise(0).save(p / "test/cat/9.png"), "duplicates across splits", "error"),
    "leak as BMP": (lambda p: noise(0).save(p / "test/cat/9.bmp"), "duplicates across splits", "error"),
    "twice": (lambda p: noise(0).save(p / "train/cat/9.png"), "duplicates", "warning"),
    "two labels": (lambda p: noise(0).save(p / "train/dog/9.png"), "conflicting labels", "error"),
    "turned": (lambda p: turned(p / "train/cat/9.jpg"), "turned by EXIF", "warning"),
    "grey": (lambda p: noise(50, "L").save(p / "train/cat/9.png"), "greyscale", "warning"),
    "alpha": (lambda p: noise(51, "RGBA").save(p / "train/cat/9.png"), "transparent", "warning"),
    "cmyk": (lambda p: noise(52, "CMYK").save(p / "train/cat/9.jpg"), "CMYK", "warning"),
    "wrong suffix": (lambda p: noise(53).save(p / "train/cat/9.jpg", "PNG"), "suffix of another format", "warning"),
    "tiny": (lambda p: noise(54, size=(4, 4)).save(p / "train/cat/9.png"), "tiny", "warning"),
    "strip": (lambda p: noise(55, size=(20, 400)).save(p / "train/cat/9.png"), "elongated", "warning"),
    "blank": (lambda p: Image.new("RGB", (20, 20), "red").save(p / "train/cat/9.png"), "one colour only", "warning"),
    "few": (lambda p: (p / "train/cat/0.png").unlink(), "shots", "error"),
    "empty class": (lambda p: [f.unlink() for f in (p / "test/cat").iterdir()], "readable", "error"),
    "extra class": (lambda p: (p / "train/dog").rename(p / "train/dig"), "readable", "error"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_each_kind_of_damage_is_found(damage: str, folder: Path) -> None:
    harm, name, level = DAMAGE[damage]
    harm(folder)
    report = check(folder, shots=3)
    assert found(report)[name] == level
    assert report.healthy == (level != "error")
    if name != "readable":
        assert len(report.findings) == 1 or damage in ("two labels",)


def test_a_permuted_label_file_is_found(folder: Path) -> None:
    table = folder / "table.csv"
    lines = [f"{p.relative_to(folder)},{p.parent.name},{p.parent.parent.name}" for p in sorted(folder.rglob("*.png"))]
    table.write_text("path,label,split\n" + "\n".join(lines))
    assert check(table).healthy
    swap = {"cat": "dog", "dog": "cat"}
    swapped = [",".join((path, swap[label], split)) for path, label, split in (line.split(",") for line in lines)]
    table.write_text("path,label,split\n" + "\n".join(swapped))
    report = check(table)
    assert found(report) == {"class order": "error"}
    assert sum(finding.count for finding in report.findings) == 12


def test_a_renumbered_copy_is_told(tmp_path: Path) -> None:
    copy = make("mnist")
    write_hub(tmp_path, copy, order=[1, 0, *range(2, 10)])
    report = check("mnist", tmp_path)
    assert found(report)["class order"] == "note"
    assert [f.message for f in report.findings if f.check == "split size"] == [
        "train has 10 images, 60000 were published",
        "test has 10 images, 10000 were published",
    ]


def test_a_wrong_class_list_and_absent_data_are_findings_and_a_misspelt_name_is_not(tmp_path: Path) -> None:
    write_hub(tmp_path, make("cifar-10"), names=[*"abcdefghij"])
    for name in ("cifar-10", "dtd"):
        report = check(name, tmp_path)
        assert found(report) == {"readable": "error"} and not report.healthy
    with pytest.raises(UnknownName):
        check("cifra-10", tmp_path)


def test_a_subset_is_found_again_in_other_copies(tmp_path: Path) -> None:
    copy = make("mnist", per_class=4)
    write_hub(tmp_path / "a", copy)
    write_numbered(tmp_path / "b", copy)  # another order
    write_shards(tmp_path / "c", copy)
    first = open_dataset("mnist", tmp_path / "a")
    manifest = json.loads(json.dumps(make_manifest(first, 2, 1)))
    chosen = sample_few_shot(first.splits["train"].labels, 2, 1)
    assert subset_rows(first, manifest).tolist() == chosen.tolist()
    contents = [first.splits["train"].refs[row].digest() for row in chosen]
    for other in ("b", "c"):
        dataset = open_dataset("mnist", tmp_path / other)
        rows = subset_rows(dataset, manifest)
        assert [dataset.splits["train"].refs[row].digest() for row in rows] == contents


def test_a_subset_is_found_again_in_another_encoding(folder: Path, tmp_path: Path) -> None:
    manifest = make_manifest(open_dataset(folder), 2, 0)
    for path in sorted(folder.rglob("*.png")):
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    dataset = open_dataset(folder)
    again = make_manifest(dataset, 3, 0)["images"]
    rows = subset_rows(dataset, manifest)
    pixels = {entry["pixels"] for entry in again}
    assert len(set(rows.tolist())) == 4 and {entry["pixels"] for entry in manifest["images"]} <= pixels


def test_a_subset_that_is_not_there_or_labelled_otherwise(folder: Path) -> None:
    manifest = make_manifest(open_dataset(folder), 3, 0)
    (folder / "train/cat/0.png").rename(folder / "train/dog/9.png")
    with pytest.raises(DataError, match=r"6 images were found, 1 with other classes: .*9\.png is dog, not cat"):
        subset_rows(open_dataset(folder), manifest)
    noise(99).save(folder / "train/dog/9.png")
    with pytest.raises(DataError, match="1 of 6 images of the subset are not in train"):
        subset_rows(open_dataset(folder), manifest)


@pytest.mark.parametrize("text", ["", "[]", '{"format": "vitadapt-subset-1", "images": [1]}', '{"format": "other"}'])
def test_a_file_that_is_no_manifest(text: str, tmp_path: Path) -> None:
    (tmp_path / "subset.json").write_text(text)
    with pytest.raises(DataError, match=r"subset\.json"):
        read_manifest(tmp_path / "subset.json")


def test_the_command_line(folder: Path, tmp_path: Path) -> None:
    invoke = CliRunner().invoke
    listed = json.loads(invoke(app, ["list", "--json"]).stdout)
    assert {"voc-2007", "mnist-5k"} <= {row["name"] for row in listed}
    sound = invoke(app, ["check", str(folder)])
    assert sound.exit_code == 0 and "no errors" in sound.stdout
    done = invoke(app, ["subset", str(folder), "--shots", "2", "--seed", "3"])
    (tmp_path / "subset.json").write_text(done.stdout)
    verified = invoke(app, ["subset", str(folder), "--verify", str(tmp_path / "subset.json")])
    assert verified.exit_code == 0 and "all 4 images" in verified.stdout
    (folder / "train/cat/0.png").write_bytes(b"")
    damaged = invoke(app, ["check", str(folder), "--shots", "3", "--json"])
    report = json.loads(damaged.stdout)
    assert damaged.exit_code == 1 and not report["healthy"]
    assert [finding["check"] for finding in report["findings"]] == ["unreadable"]
