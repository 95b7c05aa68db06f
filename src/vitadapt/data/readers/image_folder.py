"""A folder of images: class folders, or `train`, `test` and perhaps `val` folders of class folders."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...utils.errors import DataError
from ..examples import Dataset, Examples, FileRef, is_utf8, shown
from ..images import SUFFIXES
from ..sampling.splits import SPLITS, Complain, check_classes, check_known, refuse, split_rule, with_test

# What lies beside pictures and is none: labels, tables, texts. Every other suffix may be a picture that is not read.
_NO_PICTURES = frozenset(
    {".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".html", ".htm", ".pdf", ".db", ".ini"}
    | {".log", ".py", ".npy", ".npz", ".mat", ".zip", ".tar", ".gz", ".mp4", ".mov", ".safetensors"}
)
_MODEL = ("adapter.safetensors", ".unfinished")  # in a folder that `vitadapt fit` made, or has begun
_WRITTEN = (("certificate.json", "SHA256SUMS"), ("records", "locks"))  # in a folder of an export, and of results

Files = Mapping[str, list[str]]  # class name -> paths of its images below the class folders' parent, with /


def read_folder(path: Path, complain: Complain = refuse, whole: bool = False) -> Dataset:
    """The images below `path`; class = folder name, nested folders included, everything in sorted order.

    Complains of an empty class, two spellings of one class, a test class that train lacks, a dangling link, a folder
    that cannot be listed, and leaves out what cannot be used. Raises DataError when there is no folder, or no or one
    class. With `whole` nothing is held out, and one class, one image, or a test part alone is enough.
    """
    if not path.is_dir():
        raise DataError(f"{path} is not a folder" if path.exists() else f"{path}: no such folder")
    skipped = Skipped()
    parts = _split_folders(path, _folders(path, Skipped(), complain), whole)
    if parts is None:
        parts = {"train": path}
    else:
        skipped.others["folders beside the splits"] += len(_folders(path, skipped, _ignore)) - len(parts)
    files = {split: files_by_class(folder, skipped, complain) for split, folder in parts.items()}
    main = "train" if "train" in parts else "test"
    classes = check_classes(str(parts[main]), files[main], complain, 1 if whole else 2)
    for split in sorted(files.keys() - {main}):
        check_known(str(parts[split]), files[split], classes, complain)
    examples = {split: class_examples(parts[split], files[split], classes) for split in files}
    keys = [name for label in classes for name in files[main][label]]
    splits, notes = with_test(str(path), classes, examples, keys, complain, whole)
    left_out = skipped.notes()
    if nested := sum(name.count("/") > 1 for part in files.values() for names in part.values() for name in names):
        left_out.append(f"{nested} images lie in folders below those of the classes and belong to these classes")
    doubts = skipped.doubts()
    return Dataset(
        path.resolve().name,
        classes,
        splits,
        notes=(*notes, *left_out, *doubts),
        split=split_rule(files, whole),
        doubts=doubts,
    )


@dataclass
class Skipped:
    """What a walk leaves out. others: counts by kind; suffixes: counts of files that are not images."""

    others: Counter[str] = field(default_factory=Counter)
    suffixes: Counter[str] = field(default_factory=Counter)

    def notes(self) -> list[str]:
        """One line per kind of things that are no pictures."""
        rows = [*self.others.items(), ("files that are not images", sum(self.suffixes[s] for s in _NO_PICTURES))]
        return [f"skipped {count} {what}" for what, count in sorted(rows) if count]

    def doubts(self) -> tuple[str, ...]:
        """A line about files that may be pictures in a format that is not read (HEIC, raw photos, no suffix)."""
        found = sorted((count, suffix) for suffix, count in self.suffixes.items() if suffix not in _NO_PICTURES)
        if not found:
            return ()
        named = ", ".join(f"{count} {suffix or 'without a suffix'}" for count, suffix in reversed(found))
        total = sum(count for count, _ in found)
        return (f"skipped {total} files that may be pictures but cannot be read ({named}); save them as JPEG or PNG",)


def _split_folders(path: Path, folders: list[str], whole: bool) -> dict[str, Path] | None:
    """Split -> folder, or None when the folders are classes."""
    named = [name for name in folders if name.lower() in SPLITS]
    parts = {SPLITS[name.lower()]: path / name for name in named}
    only_splits = bool(named) and len(named) == len(folders)
    if not only_splits and not {"train", "test"} <= parts.keys():
        return None
    if "train" not in parts and not (whole and "test" in parts):
        raise DataError(f"{path} has {', '.join(named)} but no train folder; add it")
    if len(parts) < len(named):
        raise DataError(f"{path}: {', '.join(named)} are two names for one split; keep one of them")
    if not only_splits and not _folders(parts["train"], Skipped(), _ignore):
        return None  # a class that happens to be called train
    return parts


def _ignore(error: DataError) -> None:
    """For the second walk of a folder: its defects were reported by the first."""


def _folders(path: Path, skipped: Skipped, complain: Complain) -> list[str]:
    """Visible folders in `path`, sorted; what else lies there is counted in `skipped`."""
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        complain(_unlistable(error))
        return []
    visible = [name for name in names if not _hidden(name)]
    for name in visible:
        if not (path / name).exists():
            complain(DataError(f"{shown(path / name)} is a link to nothing; remove or repair it"))
    folders = [name for name in visible if (path / name).is_dir()]
    models = [name for name in folders if any((path / name / file).exists() for file in _MODEL)]
    written = [name for name in folders if any(all((path / name / n).exists() for n in names) for names in _WRITTEN)]
    skipped.others["hidden files or folders"] += len(names) - len(visible)
    skipped.others["files beside the folders"] += len(visible) - len(folders)
    skipped.others["model folders made by fit"] += len(models)
    skipped.others["folders of exports and results"] += len(written)
    return sorted(set(folders) - {*models, *written})


def files_by_class(path: Path, skipped: Skipped, complain: Complain = refuse) -> Files:
    """The images of every class folder in `path`; what is left out is counted in `skipped`.

    Complains of classes without images and folders that cannot be listed; raises DataError when there is no class.
    """
    names = _folders(path, skipped, complain)
    if not names:
        raise DataError(f"{path} has no class folders; put the images of each class into a folder named like the class")
    files = {}
    for name in names:
        inside = Skipped()
        files[name] = [f"{name}/{image}" for image in images_below(path / name, inside, complain)]
        skipped.others += inside.others
        skipped.suffixes += inside.suffixes
        if not files[name]:
            reason = "; ".join(["", *inside.doubts()])
            complain(DataError(f"{shown(path / name)} has no images{reason or '; add some or remove the folder'}"))
        if not is_utf8(name):
            complain(DataError(f"{path}: the name of the class folder {name!r} is not UTF-8; rename it"))
    return {name: images for name, images in files.items() if images and is_utf8(name)}


def images_below(folder: Path, skipped: Skipped, complain: Complain = refuse) -> list[str]:
    """The images in `folder` and in all folders below it, links followed, as sorted paths relative to it, with /.

    Hidden files and folders, and files with other suffixes, are counted in `skipped`. Complains of dangling links and
    of folders that cannot be listed.
    """
    found: list[str] = []
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=lambda e: complain(_unlistable(e)), followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link back to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not _hidden(name))
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            file = os.path.join(parent, name)
            if _hidden(name):
                skipped.others["hidden files or folders"] += 1
            elif suffix not in SUFFIXES:
                skipped.suffixes[suffix] += 1
            elif not os.path.isfile(file):
                what = "is a link to nothing" if os.path.islink(file) else "is not a regular file"
                complain(DataError(f"{shown(file)} {what}; remove or repair it"))
            else:
                found.append(os.path.relpath(file, folder).replace(os.sep, "/"))
    return sorted(found)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _unlistable(error: OSError) -> DataError:
    return DataError(
        f"{error.filename} cannot be listed ({(error.strerror or str(error)).lower()}); check its permissions"
    )


def class_examples(path: Path, files: Files, classes: tuple[str, ...]) -> Examples:
    """The files below `path` in the order of the classes; label = position in `classes`."""
    refs = [FileRef(path / name) for label in classes for name in files.get(label, ())]
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(files.get(label, ())) for label in classes])
    return Examples(tuple(refs), labels)
