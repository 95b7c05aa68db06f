"""Images, archives and data sets, as their publishers store them."""

from __future__ import annotations

import gzip
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import elevater_cases
import native_cases
import numpy as np
from law import TARGETS, Target, target
from picture_cases import chunk
from pictures import image_seeds

from vitadapt.data import open_dataset
from vitadapt.data.archives import tar_members, zip_members
from vitadapt.data.checks.images import scan
from vitadapt.data.datasets import catalog
from vitadapt.data.examples import FileRef, ImageRef
from vitadapt.data.images import Geometry, to_pixels
from vitadapt.data.readers.hf_datasets import read_hub
from vitadapt.data.readers.openclipart import category

GEOMETRY = Geometry(8)


def used(ref: ImageRef) -> None:
    """What may happen to an image: hashed, decoded, examined."""
    ref.digest()
    scan([ref], workers=1)
    pixels = to_pixels(ref.read(), GEOMETRY, ref.name)
    assert pixels.shape == (3, 8, 8) and pixels.dtype == np.uint8


# Images


def _image_target(name: str, data: bytes) -> None:
    def prepare(folder: Path) -> list[Path]:
        (folder / name).write_bytes(data)
        return [folder / name]

    TARGETS[f"image {name}"] = Target(f"image {name}", "images", prepare, lambda folder: used(FileRef(folder / name)))


for _name, _data in image_seeds().items():
    _image_target(_name, _data)


def _chunked(folder: Path) -> None:
    """The file again with right checksums, so that the damage reaches what reads the parts."""
    data = (folder / "rgb.bin").read_bytes()
    parts, at = [data[:8]], 8
    while at + 8 <= len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + size]
        parts.append(chunk(kind, body))
        at += 12 + size
    (folder / "rgb.png").write_bytes(b"".join(parts))
    used(FileRef(folder / "rgb.png"))


for _name in ("rgb.png", "palette.png", "moving.png", "grey16.png"):

    @target(f"image sealed {_name}", "images", _chunked)
    def _png(folder: Path, data: bytes = image_seeds()[_name]) -> list[Path]:
        (folder / "rgb.bin").write_bytes(data)
        return [folder / "rgb.bin"]


# Archives and the storages made of them


def _archived(folder: Path, members: Callable[[Path], Any], name: str) -> None:
    for ref in members(folder / name).values():
        used(ref)


@target("zip", "archives", lambda folder: _archived(folder, zip_members, "a.zip"))
def _zip(folder: Path) -> list[Path]:
    kinds = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for number, kind in enumerate(kinds):
            archive.writestr(f"dir/ä{number}.png", elevater_cases.png(number), kind)
    return [folder / "a.zip"]


def _two_members(form: int, folder_name: str) -> Callable[[Path], list[Path]]:
    def prepare(folder: Path) -> list[Path]:
        with tarfile.open(folder / "a.tar", "w", format=form) as archive:
            elevater_cases.add_member(archive, f"{folder_name}/0.png", elevater_cases.png(0))
            elevater_cases.add_member(archive, "1.png", elevater_cases.png(1))
        return [folder / "a.tar"]

    return prepare


for _name, _form, _long in (("tar", tarfile.GNU_FORMAT, "d" * 120), ("tar pax", tarfile.PAX_FORMAT, "ä" * 120)):
    target(_name, "archives", lambda folder: _archived(folder, tar_members, "a.tar"))(_two_members(_form, _long))


def opened(name: str) -> Callable[[Path], object]:
    def read(folder: Path) -> None:
        dataset = open_dataset(name, folder)
        for part in dataset.splits.values():
            assert len(part.refs) == len(part.labels)
            used(part.refs[0])

    return read


STORAGES = {"hub": ("mnist", "kitti-distance"), "webdataset": ("mnist", "voc-2007"), "numbered-folders": ("mnist",)}


def _storage_target(kind: str, name: str) -> None:
    def prepare(folder: Path) -> list[Path]:
        elevater_cases.WRITERS[kind](folder, elevater_cases.make(name))
        return sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".png")

    TARGETS[f"{kind} {name}"] = Target(f"{kind} {name}", "data sets", prepare, opened(name))


for _kind, _sets in STORAGES.items():
    for _set in _sets:
        if any(options["reader"] == _kind for options in catalog()[_set].sources):
            _storage_target(_kind, _set)


_PICTURES = {".jpg", ".png", ".ppm"}


def _native_target(name: str) -> None:
    def prepare(folder: Path) -> list[Path]:
        native_cases.CASES[name](folder)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix not in _PICTURES]
        return files[:: max(1, len(files) // 8)]

    TARGETS[f"native {name}"] = Target(f"native {name}", "data sets", prepare, opened(name))


_LARGE = (*native_cases.SEEDED, "country211", "rendered-sst2", "sun397")
NATIVE = [name for name in native_cases.CASES if name not in _LARGE]
for _set in NATIVE:
    _native_target(_set)


@target("idx gzipped", "data sets", opened("mnist"))
def _gzipped(folder: Path) -> list[Path]:
    native_cases.CASES["mnist"](folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    return [path.with_name(f"{path.name}.gz") for path in files]


def _drawings(folder: Path) -> None:
    parts = category(folder / "animals")
    assert parts is not None
    used(FileRef(parts[0][0]))


@target("openclipart", "data sets", _drawings)
def _openclipart(folder: Path) -> list[Path]:
    (folder / "animals").mkdir()
    for number in range(60):
        (folder / "animals" / f"drawing{chr(97 + number % 26)}{number}x.png").write_bytes(elevater_cases.png(number))
    return sorted((folder / "animals").iterdir())[::8]


def _hub_read(folder: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    shutil.rmtree(folder / "cache", ignore_errors=True)
    for part in read_hub(f"hf:{folder / 'mine'}", whole=True).splits.values():
        used(part.refs[0])


@target("hub library", "data sets", _hub_read)
def _hub_library(folder: Path) -> list[Path]:
    import pyarrow as arrow
    from pyarrow import parquet

    (folder / "mine").mkdir()
    images = [{"bytes": elevater_cases.png(i), "path": f"{i}.png"} for i in range(4)]
    features = {"image": {"_type": "Image"}, "label": {"names": ["ant", "bee"], "_type": "ClassLabel"}}
    table = arrow.table({"image": images, "label": [0, 1, 0, 1]})
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    parquet.write_table(table.replace_schema_metadata(about), folder / "mine" / "train.parquet")
    return [folder / "mine" / "train.parquet"]
