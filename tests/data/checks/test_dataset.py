"""The doctor finds each kind of damage, and nothing in sound data; a subset is found again in another copy."""

from __future__ import annotations

import io
import json
import os
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from elevater_cases import SPLITS, make, options_of, write_hub, write_numbered, write_shards
from picture_cases import deep_png
from PIL import Image
from typer.testing import CliRunner

from vitadapt.cli.data import app
from vitadapt.data import Examples, FileRef, Geometry, content_digests, open_dataset, open_pixels, sample_few_shot
from vitadapt.data.checks.dataset import Report, check
from vitadapt.data.checks.images import scan
from vitadapt.data.datasets import catalog
from vitadapt.data.sampling.manifests import make_manifest, read_manifest, subset_rows
from vitadapt.text.class_features import prompt_findings
from vitadapt.text.tokenisers import encoder
from vitadapt.utils.errors import DataError, UnknownName


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


def deep(path: Path, top: int) -> None:
    Image.fromarray(np.random.default_rng(top).integers(0, top + 1, (20, 24), dtype=np.uint16)).save(path)


DAMAGE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "truncated": (lambda p: (p / "train/cat/0.png").write_bytes(b"\x89PNG\r\n\x1a\n half"), "unreadable", "error"),
    "empty file": (lambda p: (p / "train/cat/0.png").write_bytes(b""), "unreadable", "error"),
    "leak": (lambda p: noise(0).save(p / "test/cat/9.png"), "duplicates across splits", "error"),
    "leak as BMP": (lambda p: noise(0).save(p / "test/cat/9.bmp"), "duplicates across splits", "error"),
    "twice": (lambda p: noise(0).save(p / "train/cat/9.png"), "duplicates", "warning"),
    "two labels": (lambda p: noise(0).save(p / "train/dog/9.png"), "conflicting labels", "error"),
    "turned": (lambda p: turned(p / "train/cat/9.jpg"), "turned by EXIF", "warning"),
    "12 bits": (lambda p: deep(p / "train/cat/9.png", 4095), "12 bits deep", "warning"),
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
        assert len(report.findings) == 1 or damage in ("two labels", "12 bits")


def huge() -> bytes:
    """The beginning of a PNG that declares 60000 x 60000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b""))


def ruin(folder: Path) -> None:
    """Every kind of damage at once."""
    cats, jpeg = folder / "train" / "cat", io.BytesIO()
    noise(60, size=(64, 64)).save(jpeg, "JPEG")
    (cats / "truncated.jpg").write_bytes(jpeg.getvalue()[:600])
    (cats / "empty.jpg").write_bytes(b"")
    (cats / "text.jpg").write_text("not an image")
    (cats / "huge.png").write_bytes(huge())
    noise(61, "CMYK").save(cats / "cmyk.jpg")
    Image.fromarray(np.random.default_rng(62).integers(0, 65535, (20, 20), dtype=np.uint16)).save(cats / "deep.png")
    noise(63).convert("P").save(cats / "palette.png", transparency=0)
    turned(cats / "turned.jpg")
    noise(64, "L").save(cats / "grey.png")
    noise(65).save(cats / "moving.gif", save_all=True, append_images=[noise(66)])
    noise(0).save(folder / "test" / "cat" / "leak.bmp")
    (folder / "train" / "Cat ").mkdir()
    noise(67).save(folder / "train" / "Cat " / "0.png")
    (folder / "train" / "elk").mkdir()
    for name in (".hidden.png", ".DS_Store", "Thumbs.db"):
        (cats / name).write_bytes(b"x")
    (folder / "__MACOSX").mkdir()
    (cats / "more" / "still").mkdir(parents=True)
    noise(68).save(cats / "more" / "still" / "nested.png")
    (cats / "dangling.png").symlink_to("nowhere")
    Path(os.fsdecode(os.fsencode(cats) + b"/\xff.png")).write_bytes((cats / "grey.png").read_bytes())


MESSAGES = (
    ("unreadable", "truncated.jpg (truncated)"),
    ("unreadable", "empty.jpg (empty file)"),
    ("unreadable", "text.jpg (not an image of a known format)"),
    ("unreadable", "huge.png (more than"),
    ("CMYK", "cmyk.jpg"),
    ("16 bits deep", "deep.png"),
    ("transparent", "palette.png"),
    ("turned by EXIF", "turned.jpg"),
    ("greyscale", "grey.png"),
    ("animated", "moving.gif"),
    ("duplicates across splits", "leak.bmp"),
    ("duplicates", "grey.png"),
    ("readable", "'Cat ' and 'cat' are the same class name"),
    ("readable", "elk has no images"),
    ("readable", "dangling.png is a link to nothing"),
    ("shots", "dog (3)"),
    ("file name", r"\udcff.png"),
    ("reading", "1 files that are not images"),
    ("reading", "3 hidden files"),
    ("reading", "1 images lie in folders below"),
)


def test_all_kinds_of_damage_at_once_are_each_named(folder: Path) -> None:
    ruin(folder)
    report = check(folder, shots=5)
    found = [(finding.check, text) for finding in report.findings for text in (finding.message, *finding.examples)]
    for kind, words in MESSAGES:
        assert any(check == kind and words in text for check, text in found), (kind, words)
    assert not report.healthy and not any(finding.check == "class order" for finding in report.findings)
    with pytest.raises(DataError, match=r"same class name|no images|link to nothing"):
        open_dataset(folder)


@pytest.mark.parametrize("top", [1023, 4095, 4096, 65535])
def test_images_of_12_bits_in_files_of_16_are_named(tmp_path: Path, top: int) -> None:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for i in range(5):
            deep(tmp_path / label / f"{i}.png", top - (1 if i else 0))
            if label == "dog":
                colours = np.full((20, 24, 3), top - 1, dtype=np.uint16)
                colours[:, : i + 4] = i
                (tmp_path / label / f"{i}.png").write_bytes(deep_png(colours))
    levels = {f.check: f.level for f in check(tmp_path).findings}
    assert levels["16 bits deep"] == "note"
    assert levels.get("12 bits deep") == ("note" if top <= 4096 else None)


def test_a_scan_reads_and_decodes_every_image_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, geometry, reads = open_dataset(folder), Geometry(8), Counter()
    (folder / "test/dog/2.png").write_bytes(b"junk")

    def counted(ref: FileRef, read=FileRef.data) -> bytes:
        reads[ref.name] += 1
        return read(ref)

    monkeypatch.setattr(FileRef, "data", counted)
    scanned = check(whole, geometry=geometry, cache=folder.parent / "cache").scan
    train, test = whole.splits["train"], whole.splits["test"].take([4, 0])
    parts = [(part, scanned.pixels(part, geometry, None), scanned.digests_of(part)) for part in (train, test)]
    groups = scanned.groups(train)
    assert set(reads.values()) == {1} and len(reads) == 12
    monkeypatch.undo()
    for part, pixels, digests in parts:
        expected = open_pixels(part, geometry, None)
        assert digests == pixels.digests == content_digests(part, None) and pixels.key == expected.key
        assert torch.equal(pixels.gather(np.arange(len(part))), expected.gather(np.arange(len(part))))
    assert groups.tolist() == scan(train.refs).groups(train).tolist()
    assert list((folder.parent / "cache").iterdir()) == []


def test_only_the_damaged_one_of_two_images_with_similar_names_is_unreadable(folder: Path) -> None:
    sound, damaged = folder / "train/cat/0.png", folder / "train/cat/0.png (1).png"
    damaged.write_bytes(b"junk")
    report = check(folder)
    assert sound.is_file() and report.unreadable == (str(damaged),)
    with pytest.raises(DataError) as one:
        content_digests(Examples([FileRef(folder / "no.png")], np.zeros(1, dtype=np.int64)), None)
    assert one.value.unreadable == (str(folder / "no.png"),)
    examples = Examples([FileRef(path) for path in (sound, folder / "no.png", damaged)], np.zeros(3, dtype=np.int64))
    with pytest.raises(DataError) as several:
        open_pixels(examples, Geometry(8), None).gather(np.array([0, 1, 2]))
    assert several.value.unreadable == (str(folder / "no.png"), str(damaged))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="an administrator may read everything")
def test_what_may_not_be_read_is_named(folder: Path) -> None:
    (folder / "train/cat/0.png").chmod(0)
    (folder / "train/dog").chmod(0)
    messages = " ".join(finding.message for finding in check(folder).findings)
    (folder / "train/dog").chmod(0o755)
    assert "permission denied" in messages and "dog cannot be listed" in messages


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


def test_a_class_below_another_may_have_files_of_its_name(tmp_path: Path) -> None:
    for number, name in enumerate(["computer/a.png", "computer/hardware/computer.png"]):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(number).save(path)
    table = tmp_path / "table.csv"
    table.write_text(
        "path,label\ndata/computer/a.png,computer\ndata/computer/hardware/computer.png,computer hardware\n"
    )
    assert "class order" not in found(check(table))


def test_a_renumbered_copy_is_told(tmp_path: Path) -> None:
    copy = make("mnist")
    write_hub(tmp_path, copy, order=[1, 0, *range(2, 10)])
    report = check("mnist", tmp_path)
    assert found(report)["class order"] == "note"
    assert [f.message for f in report.findings if f.check == "split size"] == [
        "train has 10 images, 60000 were published",
        "test has 10 images, 10000 were published",
    ]


@pytest.mark.parametrize("shape", ["{name}/{i}.png", "all/{name}_{i:03d}.png", "{i}.png"])
def test_a_permuted_list_of_names_is_found_where_file_names_tell_and_doubted_elsewhere(
    shape: str, tmp_path: Path
) -> None:
    row = catalog()["eurosat"]
    options = options_of(row, "hub")
    folder = tmp_path / "classification" / options["folder"]
    folder.mkdir(parents=True)
    for part, split in enumerate(SPLITS):
        for c, name in enumerate(row.classes):
            path = folder / split / shape.format(name=name.replace(" ", "_"), i=10 * part + c)
            path.parent.mkdir(parents=True, exist_ok=True)
            noise(10 * part + c).save(path)
        lines = [
            f"{split}/{shape.format(name=n.replace(' ', '_'), i=10 * part + c)} {c}" for c, n in enumerate(row.classes)
        ]
        (folder / options[split]).write_text("\n".join(lines))
    (folder / options["labels"]).write_text("\n".join(row.classes))
    sound = check("eurosat", tmp_path)
    assert sound.healthy and not any("permuted" in finding.message for finding in sound.findings)
    (folder / options["labels"]).write_text("\n".join([*row.classes[1:], row.classes[0]]))
    permuted = check("eurosat", tmp_path)
    assert any(f.level == "warning" and "if it was permuted" in f.message for f in permuted.findings)
    assert permuted.healthy == (shape == "{i}.png")
    assert ("class order", "error") in {(f.check, f.level) for f in permuted.findings} or permuted.healthy


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


def test_classes_of_one_name_are_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\tdog")
    found = CliRunner().invoke(app, ["check", str(folder), "--class-names", str(tmp_path / "names.txt"), "--json"])
    (same,) = json.loads(found.stdout)["findings"]
    assert same["level"] == "warning" and same["message"].startswith("2 classes share their texts with another")


def test_prompts_longer_than_a_clip_reads_are_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text(f"cat\t{'very ' * 80}small cat")
    (tmp_path / "known.json").write_text(json.dumps({"dog": ["old", "so " * 90]}))
    arguments = ["check", str(folder), "--template", "a photo of a {}.", "--template", "{} indeed"]
    short = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(short.stdout)["findings"] == [] and short.exit_code == 0
    named = CliRunner().invoke(app, [*arguments, "--class-names", str(tmp_path / "names.txt"), "--json"])
    (long,) = json.loads(named.stdout)["findings"]
    assert long["check"] == "prompts" and long["level"] == "warning" and named.exit_code == 0
    assert long["message"].startswith("2 of 4 texts have more than 77 tokens")
    assert long["examples"] == ["'cat' in 'a photo of a {}.' (89 tokens)", "'cat' in '{} indeed' (85 tokens)"]
    known = CliRunner().invoke(app, [*arguments, "--knowledge", f"path={tmp_path / 'known.json'}", "--json"])
    (long,) = json.loads(known.stdout)["findings"]
    assert [text.partition(" (")[0] for text in long["examples"]] == [
        "'dog' in 'a photo of a {}.'",
        "'dog' in '{} indeed'",
    ]


def test_prompts_are_not_counted_without_a_tokeniser(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("open_clip", "transformers"):
        monkeypatch.setitem(sys.modules, package, None)
    encoder.cache_clear()
    (note,) = prompt_findings(str(folder), ("cat", "dog"))
    assert note.level == "note" and "not counted" in note.message and 'pip install "vitadapt[clip]"' in note.message


def test_the_built_in_prompts_fit() -> None:
    """Asked of the longest names."""
    for row in catalog().values():
        assert prompt_findings(row.name, tuple(sorted(row.classes, key=len)[-8:])) == []


def test_a_flipped_byte_of_a_subset_is_noticed(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "subset.json"
    text = json.dumps(make_manifest(open_dataset(folder), 2, 0), indent=1).encode()
    path.write_bytes(text)
    assert read_manifest(path)["seed"] == 0
    for place in range(0, len(text), 5):
        path.write_bytes(text[:place] + bytes([text[place] ^ 1]) + text[place + 1 :])
        with pytest.raises(DataError, match=r"subset\.json"):
            read_manifest(path)


@pytest.mark.parametrize("text", ["", "[]", '{"format": "vitadapt-subset-1", "images": [1]}', '{"format": "other"}'])
def test_a_file_that_is_no_manifest(text: str, tmp_path: Path) -> None:
    (tmp_path / "subset.json").write_text(text)
    with pytest.raises(DataError, match=r"subset\.json"):
        read_manifest(tmp_path / "subset.json")


def test_the_command_line(folder: Path, tmp_path: Path) -> None:
    invoke = CliRunner().invoke
    listed = json.loads(invoke(app, ["list", "--json"]).stdout)
    assert {"voc-2007", "mnist-5k"} <= {row["name"] for row in listed}
    write_hub(tmp_path / "root", make("mnist"))
    shown = invoke(app, ["list", "--data-root", str(tmp_path / "root")], env={"COLUMNS": "80"}).stdout
    lines = {line.split()[0]: line for line in shown.splitlines() if line.strip()}
    assert "classification/mnist_20211008" in lines["mnist"] and "60000/-/10000" in lines["mnist"]
    assert "(by hand)" in lines["hateful-memes"] and "(fetch)" in lines["dtd"]
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
