"""Folders of real images for measurements without any data host, from packages that are already on the machine.

    apt-get download openclipart-png && dpkg-deb -x openclipart-png_*.deb clipart
    npm pack emoji-datasource-google@16.0.0 && tar xzf emoji-datasource-google-16.0.0.tgz
    python benchmarks/offline_sets.py SETS --clipart clipart/usr/share/openclipart/png --emoji package

makes SETS/clipart-dev, SETS/clipart-report and SETS/emoji-dev, each with train/ and test/ of class folders. `dev` sets
are for choosing recipes and defaults, `report` sets for numbers that are shown. Clip art comes in series of
near-identical drawings (name_01.png, name_02.png): a series is never split between train and test; copies are dropped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import shutil
import struct
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

TRAIN_AT_LEAST, TEST_AT_LEAST = 20, 8
SKIP = ("unsorted", "special/patterns")


def series_of(path: Path) -> str:
    """The file name without its running number: pictures that share it show the same object."""
    return re.sub(r"[_-]*\d+$", "", path.stem) or path.stem


def pixels_of(path: Path) -> int:
    """Width times height, from the PNG header (bytes 16..24)."""
    with path.open("rb") as file:
        return math.prod(struct.unpack(">II", file.read(24)[16:]))


def split(paths: Iterable[Path]) -> tuple[list[Path], list[Path]] | None:
    """(train, test), about 60 to 40, whole series together; None when there are too few pictures."""
    seen: set[str] = set()
    series: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(paths):
        digest = hashlib.md5(path.read_bytes()).hexdigest()
        if path.is_symlink() or digest in seen or pixels_of(path) > 20_000_000:
            continue
        seen.add(digest)
        series[series_of(path)].append(path)
    order = sorted(series, key=lambda name: hashlib.md5(name.encode()).hexdigest())
    train: list[Path] = []
    test: list[Path] = []
    total = sum(map(len, series.values()))
    for name in order:
        (train if len(train) < max(TRAIN_AT_LEAST, 0.6 * total) else test).extend(series[name])
    return (train, test) if len(train) >= TRAIN_AT_LEAST and len(test) >= TEST_AT_LEAST else None


def write(target: Path, classes: dict[str, tuple[list[Path], list[Path]]]) -> None:
    for name, parts in classes.items():
        for part, paths in zip(("train", "test"), parts, strict=True):
            folder = target / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for path in paths:
                shutil.copy(path, folder / path.name)
    counts = [sum(len(parts[i]) for parts in classes.values()) for i in (0, 1)]
    print(f"{target}: {len(classes)} classes, {counts[0]} train, {counts[1]} test")


def clipart(source: Path, target: Path) -> None:
    """Every second category is for development, the others are for reporting."""
    found = {}
    for folder in sorted(path for path in source.rglob("*") if path.is_dir()):
        name = folder.relative_to(source).as_posix()
        if name not in SKIP:
            parts = split(folder.glob("*.png"))
            if parts:
                found[name.replace("/", "-")] = (parts[0][:60], parts[1][:40])
    names = sorted(found)
    write(target / "clipart-dev", {name: found[name] for name in names[0::2]})
    write(target / "clipart-report", {name: found[name] for name in names[1::2]})


def emoji(source: Path, target: Path) -> None:
    """Sub-categories of emoji."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for row in json.loads((source / "emoji.json").read_text(encoding="utf-8")):
        path = source / "img/google/64" / row["image"]
        if path.exists():
            groups[re.sub(r"\W+", "-", row["subcategory"])].append(path)
    found = {name: parts for name, paths in sorted(groups.items()) if (parts := split(paths))}
    write(target / "emoji-dev", {name: (train[:40], test[:30]) for name, (train, test) in found.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("--clipart", type=Path)
    parser.add_argument("--emoji", type=Path)
    arguments = parser.parse_args()
    if arguments.clipart:
        clipart(arguments.clipart, arguments.target)
    if arguments.emoji:
        emoji(arguments.emoji, arguments.target)


if __name__ == "__main__":
    main()
