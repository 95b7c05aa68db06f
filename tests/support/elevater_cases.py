"""Tiny copies of the catalog's data sets in the storages that all of them share: real zip, tar and json files."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from vitadapt.data.datasets import catalog
from vitadapt.data.readers.reader import CatalogRow, Options

NAMES = [name for name, row in catalog().items() if row.leaderboard]
SPLITS = ("train", "val", "test")


@cache
def png(number: int) -> bytes:
    """A small image of one colour; different numbers, different colours."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (number % 256, number // 256 % 256, number // 65536)).save(buffer, "PNG")
    return buffer.getvalue()


def number_of(image: Image.Image) -> int:
    """The number that `png` was given."""
    red, green, blue = image.convert("RGB").getpixel((0, 0))  # type: ignore[misc]
    return int(red + 256 * green + 65536 * blue)


@dataclass
class Copy:
    """What a copy holds: per split (image number, class indices of the catalog), in the copy's order."""

    row: CatalogRow
    splits: dict[str, list[tuple[int, tuple[int, ...]]]] = field(default_factory=dict)

    def labels(self, split: str) -> np.ndarray:
        if not self.row.multilabel:
            return np.array([own[0] for _, own in self.splits[split]])
        labels = np.zeros((len(self.splits[split]), len(self.row.classes)), np.uint8)
        for i, (_, own) in enumerate(self.splits[split]):
            labels[i, list(own)] = 1
        return labels


def make(name: str, per_class: int = 1, splits: Sequence[str] = SPLITS) -> Copy:
    """`per_class` images of every class; multi-label sets also have images with two labels and, in train, with none."""
    row, number = catalog()[name], 0
    copy = Copy(row)
    for split in splits:
        entries = []
        for own in [*range(len(row.classes))] * per_class:
            number += 1
            pair = (own, (own + 3) % len(row.classes)) if row.multilabel and number % 3 == 0 else (own,)
            entries.append((number, tuple(sorted(set(pair)))))
        if row.multilabel and split == "train":
            entries.append((number := number + 1, ()))
        rng = np.random.default_rng(number)
        copy.splits[split] = [entries[i] for i in rng.permutation(len(entries))]
    return copy


def options_of(row: CatalogRow, reader: str) -> Options:
    return next(options for options in row.sources if options["reader"] == reader)


def write_hub(root: Path, copy: Copy, names: Sequence[str] | None = None, order: Sequence[int] | None = None) -> Path:
    """The hub layout; the copy's own class i is called names[i] and is the catalog's class order[i]."""
    options = options_of(copy.row, "hub")
    folder = root / "classification" / options["folder"]
    folder.mkdir(parents=True)
    order = list(order) if order is not None else list(range(len(copy.row.classes)))
    names = names or [copy.row.classes[i] for i in order]
    own = {c: i for i, c in enumerate(order)}
    write = _write_coco if options["test"].endswith(".json") else _write_iris
    for split in copy.splits.keys() & options.keys():
        write(
            folder / options[split], split, [(n, sorted(own[c] for c in ids)) for n, ids in copy.splits[split]], names
        )
    if "labels" in options:
        (folder / options["labels"]).write_text("\n".join(names) + "\n\n", encoding="utf-8")
    return folder


def _zip(path: Path, files: dict[str, bytes]) -> None:
    kind = zipfile.ZIP_STORED if path.stem == "train" else zipfile.ZIP_DEFLATED  # both occur
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def _write_iris(index: Path, split: str, entries: list, names: Sequence[str]) -> None:
    inner = {number: f"some dir/img {number}.png" if ids else f"{number}.png" for number, ids in entries}
    _zip(index.parent / f"{split}.zip", {inner[number]: png(number) for number, _ in entries})
    lines = [f"{split}.zip@{inner[n]} {','.join(map(str, ids))}".rstrip() for n, ids in entries]
    index.write_text("\n".join(lines) + "\n\n", encoding="utf-8")


def _write_coco(index: Path, split: str, entries: list, names: Sequence[str]) -> None:
    _zip(index.parent / f"{split}_images.zip", {f"{number}.png": png(number) for number, _ in entries})
    images = [
        {"id": i + 7, "file_name": f"{number}.png", "zip_file": f"{split}_images.zip", "width": 4, "height": 3}
        for i, (number, _) in enumerate(entries)
    ]
    pairs = [(i + 7, c) for i, (_, ids) in enumerate(entries) for c in ids]
    annotations = [{"id": k, "image_id": i, "category_id": 2 * c + 1} for k, (i, c) in enumerate(pairs)]
    categories = [{"id": 2 * c + 1, "name": name} for c, name in enumerate(names)]
    index.write_text(
        json.dumps({"images": images[::-1], "annotations": annotations, "categories": categories[::-1]}),
        encoding="utf-8",
    )


def write_numbered(root: Path, copy: Copy, names: Sequence[str] | None = None) -> Path:
    """Folders of class numbers, with three digits when there are more than ten."""
    folder = root / options_of(copy.row, "numbered-folders")["folders"][0]
    digits = 3 if len(copy.row.classes) > 10 else 1
    for split, entries in copy.splits.items():
        for number, (own, *_) in entries:
            path = folder / split / f"{own:0{digits}d}" / f"{number:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(number))
    (folder / "label.txt").write_text("\n".join(names or copy.row.classes) + "\n", encoding="utf-8")
    return folder


def write_shards(root: Path, copy: Copy, names: Sequence[str] | None = None, per_shard: int = 7) -> Path:
    """Train and test as tar shards with class numbers (or multi-hot vectors) beside the images."""
    folder = root / options_of(copy.row, "webdataset")["repo"].rpartition("/")[2]
    for split in ("train", "test"):
        entries = copy.splits[split]
        (folder / split).mkdir(parents=True)
        parts = [entries[i : i + per_shard] for i in range(0, len(entries), per_shard)]
        (folder / split / "nshards.txt").write_text(f"{len(parts)}\n")
        for shard, part in enumerate(parts):
            _write_shard(folder / split / f"{shard}.tar", part, copy.row)
    (folder / "classnames.txt").write_text("\n".join(names or copy.row.classes) + "\n", encoding="utf-8")
    return folder


def _write_shard(path: Path, entries: list, row: CatalogRow) -> None:
    with tarfile.open(path, "w") as archive:
        for number, ids in entries:
            add_member(archive, f"s{number:07d}.png", png(number))
            if row.multilabel:
                buffer = io.BytesIO()
                hot = np.zeros(len(row.classes), np.int64)
                hot[list(ids)] = 1
                np.save(buffer, hot)
                add_member(archive, f"s{number:07d}.npy", buffer.getvalue())
            else:
                add_member(archive, f"s{number:07d}.cls", str(ids[0]).encode())


def add_member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


WRITERS: dict[str, Callable[..., Path]] = {
    "hub": write_hub,
    "numbered-folders": write_numbered,
    "webdataset": write_shards,
}
