"""A CSV table of images: columns `path`, `label` and perhaps `split`; several labels are separated by |.

A ; separates labels, too, unless none of what it separates is a label elsewhere: then it belongs to the class names.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...utils.errors import DataError, damaged, first_few
from ...utils.files import read_bounded
from ...utils.limits import LIST_FILE
from ..examples import Dataset, Examples, FileRef, LabelArray
from ..sampling.splits import SPLITS, check_classes, check_known, split_rule, with_test


@dataclass(frozen=True)
class Line:
    """One image of the table."""

    number: int
    path: str
    labels: tuple[str, ...]
    split: str


def read_table(path: Path, whole: bool = False) -> Dataset:
    """The images that the CSV file `path` lists, in its order; paths are relative to its folder.

    Raises DataError naming the line for a missing column, an empty path or label, an unknown split, a file that is
    missing or listed twice, and for everything that a folder of images is refused for. `whole`: as `read_folder`.
    """
    lines = _with_labels(list(_lines(path)))
    if not lines:
        raise DataError(f"{path} lists no images")
    if empty := next((line for line in lines if not all(line.labels)), None):
        raise DataError(f"{path}: line {empty.number} has an empty label")
    _check_files(path, lines)
    by_split = {split: [line for line in lines if line.split == split] for split in ("train", "val", "test")}
    by_split = {split: found for split, found in by_split.items() if found}
    main = "test" if whole and "train" not in by_split and "test" in by_split else "train"
    if main not in by_split:
        raise DataError(f"{path} lists no images for train; give some lines the split train")
    names = {label for line in by_split[main] for label in line.labels}
    classes = check_classes(str(path), names, least=1 if whole else 2)
    for split, found in by_split.items():
        check_known(f"{path}: {split}", {label for line in found for label in line.labels}, classes)
    several = sum(len(line.labels) > 1 for line in lines)
    examples = {split: _examples(path, found, classes, bool(several)) for split, found in by_split.items()}
    splits, notes = with_test(str(path), classes, examples, [line.path for line in by_split[main]], whole=whole)
    if several:
        note = f"{several} images have several labels (separated by | or ;), so the score is mean average precision"
        notes = (*notes, note)
    return Dataset(path.stem, classes, splits, notes=notes, split=split_rule(by_split, whole))


def _lines(path: Path) -> Iterator[Line]:
    rows = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        columns = [name.strip().lower() for name in next(rows, [])]
        for name in ("path", "label"):
            if name not in columns:
                raise DataError(f"{path}: line 1 must name the columns path,label[,split]; {name} is missing")
        if twice := [name for name in columns if name and columns.count(name) > 1]:
            raise DataError(f"{path}: line 1 names the column {twice[0]!r} twice; keep one of them")
        for row in rows:
            if row:
                yield _line(f"{path}: line {rows.line_num}", rows.line_num, columns, row)
    except csv.Error as error:
        raise DataError(f"{path}: line {rows.line_num} is not valid CSV ({error}); save the table again") from error


def _with_labels(lines: list[Line]) -> list[Line]:
    """The lines, with what stands between ; as labels of their own where ; separates labels, see above."""
    cells = {label for line in lines for label in line.labels}
    parts = {cell: tuple(part.strip() for part in cell.split(";")) for cell in cells}
    uses = Counter(part for cell in cells for part in set(parts[cell]))
    if not any(uses[part] > 1 for cell in cells if len(parts[cell]) > 1 for part in parts[cell]):
        return lines
    return [replace(line, labels=tuple(part for label in line.labels for part in parts[label])) for line in lines]


def _text(path: Path) -> str:
    with damaged(path, "check the file"):
        data = read_bounded(path, LIST_FILE)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = data[: error.start].count(b"\n") + 1
        raise DataError(f"{path}: line {number} is not UTF-8; save the table as UTF-8") from error


def _line(where: str, number: int, columns: Sequence[str], row: Sequence[str]) -> Line:
    if len(row) != len(columns):
        raise DataError(f"{where} has {len(row)} fields instead of {len(columns)}; put quotes around commas")
    cells = dict(zip(columns, (cell.strip() for cell in row), strict=True))
    labels = tuple(label.strip() for label in cells["label"].split("|"))
    if not cells["path"]:
        raise DataError(f"{where} has an empty path")
    split = cells.get("split", "train")
    if split.lower() not in SPLITS:
        raise DataError(f"{where} has the unknown split {split!r}; write train, val or test")
    return Line(number, cells["path"], labels, SPLITS[split.lower()])


def _check_files(path: Path, lines: list[Line]) -> None:
    missing = [line for line in lines if not os.path.isfile(path.parent / line.path)]
    if missing:
        named = first_few([f"{line.path} (line {line.number})" for line in missing])
        raise DataError(f"{path} lists files that do not exist below {path.parent}: {named}")
    seen: dict[Path, int] = {}
    for line in lines:
        first = seen.setdefault(path.parent / line.path, line.number)
        if first != line.number:
            raise DataError(f"{path}: {line.path} is in line {first} and in line {line.number}; keep one (labels: a|b)")


def _examples(path: Path, lines: list[Line], classes: tuple[str, ...], several: bool) -> Examples:
    place = {label: c for c, label in enumerate(classes)}
    labels: LabelArray = np.zeros((len(lines), len(classes)), dtype=np.uint8)
    for row, line in enumerate(lines):
        labels[row, [place[label] for label in line.labels]] = 1
    refs = tuple(FileRef(path.parent / line.path) for line in lines)
    return Examples(refs, labels if several else labels.argmax(axis=1).astype(np.int64))
