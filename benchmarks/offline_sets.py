"""Folders of real images for measurements without any data host, from packages that are already on the machine.

    apt-get download openclipart-png && dpkg-deb -x openclipart-png_*.deb clipart
    npm pack emoji-datasource-google@16.0.0 && tar xzf emoji-datasource-google-16.0.0.tgz
    python benchmarks/offline_sets.py SETS --clipart clipart/usr/share/openclipart/png --emoji package

makes SETS/clipart-dev and SETS/emoji-dev, each with train/ and test/ of class folders, split like the data set
`openclipart`. They are for choosing recipes and defaults; numbers that are shown come from `openclipart`, which has the
other categories of clip art.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections import defaultdict
from pathlib import Path

from vitadapt.data.datasets import catalog
from vitadapt.data.readers.openclipart import category, split_series

SKIP = ("unsorted", "special/patterns")


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
    """Every category that the data set `openclipart` does not report on."""
    reported = set(catalog()["openclipart"].spellings)
    found = {}
    for folder in sorted(path for path in source.rglob("*") if path.is_dir()):
        name = folder.relative_to(source).as_posix()
        if name not in {*SKIP, *reported} and (parts := category(folder)):
            found[name.replace("/", "-")] = parts
    write(target / "clipart-dev", found)


def emoji(source: Path, target: Path) -> None:
    """Sub-categories of emoji."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for row in json.loads((source / "emoji.json").read_text(encoding="utf-8")):
        path = source / "img/google/64" / row["image"]
        if path.exists():
            groups[re.sub(r"\W+", "-", row["subcategory"])].append(path)
    found = {name: parts for name, paths in sorted(groups.items()) if (parts := split_series(paths))}
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
