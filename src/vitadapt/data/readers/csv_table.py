"""A CSV table of images: columns `path`, `label` and perhaps `split`; or one column of 0 and 1 per class for `label`.

Several labels in one cell stand between separators. Unless the separator is given, it is |, or a ; where something that
it separates is a label elsewhere, too: else it belongs to the class names.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ...utils.errors import DataError, damaged, first_few
from ...utils.files import read_bounded
from ...utils.limits import LIST_FILE
from ..examples import Dataset, Examples, FileRef, LabelArray
from ..sampling.splits import SPLITS, check_classes, check_known, split_rule, with_test


@dataclass(frozen=True)
class Line:
    """One image of a list. place: where the list names it; `labels` may be empty where images may have several."""

    place: str
    path: str
    labels: tuple[str, ...]
    split: str


def read_table(path: Path, whole: bool = False, separator: str | None = None) -> Dataset:
    """The images that the CSV file `path` lists, in its order; paths are relative to its folder.

    separator: between the labels of one cell; then, and with one column per class, an image may have no label.
    Raises DataError naming the line for a missing column, an empty path or label, an unknown split, a file that is
    missing or listed twice, and for everything that a folder of images is refused for. `whole`: as `read_folder`.
    """
    columns, lines = _lines(path, separator)
    if not lines:
        raise DataError(f"{path} lists no images")
    several = bool(columns or separator) or any(len(line.labels) > 1 for line in lines)
    if empty := next((line for line in lines if not all(line.labels)), None):
        remedy = "; if it is to mean no label at all, name the separator of labels with --label-separator"
        raise DataError(f"{path}: {empty.place} has an empty label{remedy}")
    return dataset_of(path, lines, columns, several, whole)


def dataset_of(
    path: Path,
    lines: Sequence[Line],
    columns: Sequence[str],
    several: bool,
    whole: bool,
    notes: Sequence[str] = (),
    doubts: tuple[str, ...] = (),
) -> Dataset:
    """The images that the list `path` names, whose paths are relative to its folder; `columns`: classes beside those
    of the lines; several: may an image have several labels? Raises DataError as `read_table`.
    """
    _check_files(path, lines)
    by_split = {split: [line for line in lines if line.split == split] for split in ("train", "val", "test")}
    by_split = {split: found for split, found in by_split.items() if found}
    main = "test" if whole and "train" not in by_split and "test" in by_split else "train"
    if main not in by_split:
        raise DataError(f"{path} lists no images for train; give some of them the split train")
    names = {*columns, *(label for line in by_split[main] for label in line.labels)}
    classes = check_classes(str(path), names, least=1 if whole else 2)
    for split, found in by_split.items():
        check_known(f"{path}: {split}", {label for line in found for label in line.labels}, classes)
    examples = {split: _examples(path, found, classes, several) for split, found in by_split.items()}
    splits, decided = with_test(str(path), classes, examples, [line.path for line in by_split[main]], whole=whole)
    notes = (*notes, *decided, *doubts)
    if several:
        count, none = sum(len(line.labels) > 1 for line in lines), sum(not line.labels for line in lines)
        note = f"{count} images have several labels" + (f", {none} have none" if none else "")
        note += ", so the score is mean average precision"
        notes = (*notes, note)
    return Dataset(path.stem, classes, splits, notes=notes, split=split_rule(by_split, whole), doubts=doubts)


def _lines(path: Path, separator: str | None) -> tuple[tuple[str, ...], list[Line]]:
    """The classes that have a column each, and one line per image."""
    rows = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        head = [name.strip() for name in next(rows, [])]
        columns = [name.lower() for name in head]
        classes = () if "label" in columns else tuple(n for n in head if n and n.lower() not in ("path", "split"))
        for name in ("path",) if classes else ("path", "label"):
            if name not in columns:
                raise DataError(f"{path}: line 1 must name the columns path,label[,split]; {name} is missing")
        if twice := [name for name in columns if name and columns.count(name) > 1]:
            raise DataError(f"{path}: line 1 names the column {twice[0]!r} twice; keep one of them")
        if classes and separator:
            raise DataError(f"{path} has one column per label ({first_few(classes)}); leave --label-separator out")
        columns = [name if name in classes else name.lower() for name in head]
        names = partial(_labels, classes=classes, separator=separator)
        lines = [_line(f"{path}: line {rows.line_num}", rows.line_num, columns, row, names) for row in rows if row]
    except csv.Error as error:
        raise DataError(f"{path}: line {rows.line_num} is not valid CSV ({error}); save the table again") from error
    if separator and lines and not any(len(line.labels) > 1 for line in lines):
        raise DataError(f"{path}: {separator!r} separates no two labels; leave --label-separator out, or name another")
    return classes, lines if classes or separator else _with_labels(lines)


_YES, _NO = ("1", "1.0", "true"), ("0", "0.0", "false", "")


def _labels(where: str, cells: Mapping[str, str], classes: Sequence[str], separator: str | None) -> tuple[str, ...]:
    """The labels of one image; an empty one where the cell of the column `label` is empty and no separator is given."""
    if not classes:
        parts = [part.strip() for part in cells["label"].split(separator or "|")]
        return tuple(filter(None, parts) if separator else parts)
    for name in classes:
        if cells[name].lower() not in (*_YES, *_NO):
            raise DataError(
                f"{where} has {cells[name]!r} in the column {name!r}, neither 0 nor 1; call a column of class names "
                "'label', and remove other columns than path, split and one per class"
            )
    return tuple(name for name in classes if cells[name].lower() in _YES)


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


def _line(
    where: str, number: int, columns: Sequence[str], row: Sequence[str], labels: Callable[..., tuple[str, ...]]
) -> Line:
    if len(row) != len(columns):
        raise DataError(f"{where} has {len(row)} fields instead of {len(columns)}; put quotes around commas")
    cells = dict(zip(columns, (cell.strip() for cell in row), strict=True))
    if not cells["path"]:
        raise DataError(f"{where} has an empty path")
    split = cells.get("split", "train")
    if split.lower() not in SPLITS:
        raise DataError(f"{where} has the unknown split {split!r}; write train, val or test")
    return Line(f"line {number}", cells["path"], labels(where, cells), SPLITS[split.lower()])


def _check_files(path: Path, lines: Sequence[Line]) -> None:
    missing = [line for line in lines if not os.path.isfile(path.parent / line.path)]
    if missing:
        named = first_few([f"{line.path} ({line.place})" for line in missing])
        raise DataError(f"{path} lists files that do not exist below {path.parent}: {named}")
    seen: dict[Path, str] = {}
    for line in lines:
        first = seen.setdefault(path.parent / line.path, line.place)
        if first != line.place:
            raise DataError(f"{path}: {line.path} is in {first} and in {line.place}; keep one (labels: a|b)")


def _examples(path: Path, lines: list[Line], classes: tuple[str, ...], several: bool) -> Examples:
    place = {label: c for c, label in enumerate(classes)}
    labels: LabelArray = np.zeros((len(lines), len(classes)), dtype=np.uint8)
    for row, line in enumerate(lines):
        labels[row, [place[label] for label in line.labels]] = 1
    refs = tuple(FileRef(path.parent / line.path) for line in lines)
    return Examples(refs, labels if several else labels.argmax(axis=1).astype(np.int64))
