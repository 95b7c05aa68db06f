"""The checks of a dataset: is this the right data, complete, in the right order, and are its images sound?"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from ...utils.errors import DataError, first_few
from ...utils.progress import Progress
from ..class_names import class_key
from ..datasets import open_dataset, resolve, size_notes
from ..examples import Dataset, Examples, FileRef, is_utf8
from ..images import Geometry
from ..readers.reader import CatalogRow
from ..sampling.few_shot import class_sizes
from .images import TWELVE, Scan, scan

_NAMED = 5  # images or classes that a finding names
_TWELVE = "have no value above 4095, or say that they use fewer than 16 bits, and are scaled by that range"
_RANK = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True)
class Finding:
    """One thing that was found: `level` is error (do not trust a result), warning (look at it) or note."""

    level: str
    check: str
    message: str
    count: int = 1
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """What was found in a dataset. `counts` has images per split and class; `unreadable` names the images that
    cannot be read; `scan` is the result of reading all images, split after split."""

    dataset: str
    classes: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]
    findings: tuple[Finding, ...]
    unreadable: tuple[str, ...] = ()
    scan: Scan = field(default_factory=lambda: scan(()), repr=False)

    @property
    def healthy(self) -> bool:
        """No finding is an error."""
        return all(finding.level != "error" for finding in self.findings)

    def plus(self, findings: Iterable[Finding]) -> Report:
        """The report with more findings, the gravest first."""
        return replace(self, findings=tuple(sorted((*self.findings, *findings), key=lambda f: _RANK[f.level])))

    def plain(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        plain = {name: getattr(self, name) for name in ("dataset", "classes", "counts", "unreadable", "healthy")}
        return {**plain, "findings": [asdict(finding) for finding in self.findings]}


def check(
    spec: str | Path | Dataset,
    root: Path | None = None,
    shots: int | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
    geometry: Geometry | None = None,
    cache: Path | None = None,
) -> Report:
    """Examine the dataset that `spec` names (as for `open_dataset`): data that cannot be read is a finding too.

    With a `geometry` the decoded squares are kept in the scan, see `scan`. Raises UnknownName for a misspelt name.
    """
    row = resolve(spec) if isinstance(spec, str) else None
    defects: list[DataError] = []
    try:
        dataset = open_dataset(spec, root, defects.append)
    except DataError as error:
        return Report(row.name if row else str(spec), (), {}, tuple(map(_defect, [*defects, error])))
    refs = [ref for part in dataset.splits.values() for ref in part.refs]
    scanned = scan(refs, geometry, cache, progress, workers)
    findings = [
        *map(_defect, defects),
        *_notes(dataset, row),
        *_names(dataset),
        *_sizes(dataset, row),
        *_classes(dataset, shots),
        *_misplaced(dataset, row),
        *_images(dataset, scanned),
        *_duplicates(dataset, row, scanned),
    ]
    counts = {
        split: tuple(class_sizes(part.labels, dataset.classes).tolist()) for split, part in dataset.splits.items()
    }
    unreadable = tuple(ref.name for ref, seen in zip(refs, scanned.checks, strict=True) if not seen.pixels)
    return Report(dataset.name, dataset.classes, counts, (), unreadable, scanned).plus(findings)


def finding(level: str, check: str, what: str, names: Sequence[str]) -> Finding:
    """`what` about images, classes or texts, of which the message gives the first few `names`."""
    return Finding(level, check, f"{what}: {first_few(names, _NAMED)}", len(names), tuple(names))


def _defect(error: DataError) -> Finding:
    return Finding("error", "readable", str(error))


def _names(dataset: Dataset) -> Iterator[Finding]:
    """File names that other programs, archives and file systems will not carry over."""
    refs = [ref for part in dataset.splits.values() for ref in part.refs]
    if odd := [ref.name for ref in refs if isinstance(ref, FileRef) and not is_utf8(str(ref.path))]:
        yield finding("warning", "file name", f"{len(odd)} file names are not UTF-8", odd)


def _notes(dataset: Dataset, row: CatalogRow | None) -> Iterator[Finding]:
    known = size_notes(row, dataset.splits) if row else ()  # `_sizes` has them
    for note in dataset.notes:
        if note not in known:
            yield Finding("warning" if note in dataset.doubts else "note", "reading", note)
    if dataset.order and dataset.order != tuple(range(len(dataset.order))):
        moved = sum(i != c for i, c in enumerate(dataset.order))
        text = f"the copy numbers {moved} classes differently from the leaderboard; they were matched by name"
        yield Finding("note", "class order", text, moved)


def _sizes(dataset: Dataset, row: CatalogRow | None) -> Iterator[Finding]:
    for split, size in (row.sizes if row else {}).items():
        got = len(dataset.splits.get(split, ()))
        if got != size and (got or split != "val"):
            yield Finding("warning", "split size", f"{split} has {got} images, {size} were published", abs(got - size))


def _classes(dataset: Dataset, shots: int | None) -> Iterator[Finding]:
    for split, part in dataset.splits.items():
        sizes = class_sizes(part.labels, dataset.classes)
        if empty := [dataset.classes[c] for c in np.flatnonzero(sizes == 0)]:
            yield finding("error" if split == "train" else "warning", "empty class", f"no image in {split} of", empty)
    sizes = class_sizes(dataset.splits["train"].labels, dataset.classes)
    few = [f"{dataset.classes[c]} ({sizes[c]})" for c in np.flatnonzero(sizes < (shots or 0))]
    if few:
        yield finding("error", "shots", f"fewer than {shots} training images of", few)


def _misplaced(dataset: Dataset, row: CatalogRow | None) -> Iterator[Finding]:
    """Images whose folder or file is named like another class than their label: the sign of a permuted label file."""
    keys = Counter(map(class_key, dataset.classes))
    ids = {key: c for c, name in enumerate(dataset.classes) if keys[key := class_key(name)] == 1}
    for other, meant in (row.spellings if row else {}).items():
        ids.setdefault(class_key(other), ids[class_key(meant)])
    for split, part in dataset.splits.items():
        if part.multilabel:
            continue
        named = [(ref.name, _named_class(ref.name, ids, label)) for ref, label in _labelled(part)]
        wrong = [name for (name, found), (_, label) in zip(named, _labelled(part), strict=True) if found != label]
        if wrong:
            what = f"{len(wrong)} images of {split} have a folder or file name of another class than their label's"
            yield finding("error", "class order", what, wrong)


_DEEPEST = 4  # folders of a class below one another


def _named_class(name: str, ids: dict[str, int], label: int) -> int:
    """The class that an image's folder, or its file up to the number behind it, is called after; else `label`.

    A class may be several folders deep ("computer/hardware"), so that the longest end of the path counts.
    """
    path = PurePath(name.rpartition("@")[2])
    stem, parts = class_key(re.sub(r"\d+$", "", path.stem)), path.parent.parts[-_DEEPEST:]
    folders = (class_key("/".join(parts[start:])) for start in range(len(parts)))
    named = next((ids[folder] for folder in folders if folder in ids), None)
    return named if named is not None else label if stem.isdigit() else ids.get(stem, label)


def _labelled(part: Examples) -> Iterable[tuple[Any, int]]:
    return zip(part.refs, part.labels.tolist(), strict=True)


def _images(dataset: Dataset, scanned: Scan) -> Iterator[Finding]:
    kinds: dict[str, list[str]] = defaultdict(list)
    broken = []
    for ref, seen in zip(scanned.refs, scanned.checks, strict=True):
        if not seen.pixels:
            broken.append(f"{ref.name} ({seen.reason})")
        for kind in seen.kinds:
            kinds[kind].append(ref.name)
    if broken:
        yield finding("error", "unreadable", f"{len(broken)} images cannot be read", broken)
    for kind, names in kinds.items():
        all_alike = len(names) == len(scanned.refs)  # how the data are, not damage
        what = f"{len(names)} images {_TWELVE if kind == TWELVE else f'are {kind}'}"
        yield finding("note" if all_alike else "warning", kind, what, names)


def _duplicates(dataset: Dataset, row: CatalogRow | None, scanned: Scan) -> Iterator[Finding]:
    """Equal pixels: in one split they distort counts, across splits they leak, with two labels one label is wrong.

    In a complete copy of a published data set they are its own, so that they are a warning but no error.
    """
    level = "warning" if row and not list(_sizes(dataset, row)) else "error"
    groups = [group for group in _groups(dataset, scanned) if len(group) > 1]
    across = [group for group in groups if len({split for split, _, _ in group}) > 1]
    differing = [group for group in groups if any(label != group[0][2] for _, _, label in group)]
    within = [group for group in groups if max(Counter(split for split, _, _ in group).values()) > 1]
    if across:
        what = f"{len(across)} images are in more than one split"
        yield finding(level, "duplicates across splits", what, _equalities(across))
    if differing:
        what = f"{len(differing)} images are there with different labels"
        yield finding(level, "conflicting labels", what, _equalities(differing))
    if within:
        what = f"{len(within)} images are more than once in a split"
        yield finding("warning", "duplicates", what, _equalities(within))


Group = list[tuple[str, str, Any]]  # (split, name, label) of the images that show the same pixels


def _groups(dataset: Dataset, scanned: Scan) -> Iterable[Group]:
    groups: dict[str, Group] = defaultdict(list)
    images = ((split, ref.name, label) for split, part in dataset.splits.items() for ref, label in _labelled(part))
    for image, seen in zip(images, scanned.checks, strict=True):
        if seen.pixels:
            groups[seen.pixels].append(image)
    return groups.values()


def _equalities(groups: Sequence[Group]) -> list[str]:
    return [" = ".join(name for _, name, _ in group[:_NAMED]) for group in groups]
