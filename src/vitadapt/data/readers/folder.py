"""A folder of images: class folders, or `train`, `test` and perhaps `val` folders of class folders."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...errors import DataError
from ..examples import Dataset, Examples, FileRef
from ..images import SUFFIXES
from ..splits import SPLITS, check_classes, check_known, split_rule, with_test

Files = Mapping[str, list[str]]  # class name -> paths of its images below the class folders' parent, with /


def read_folder(path: Path) -> Dataset:
    """The images below `path`; class = folder name, nested folders included, everything in sorted order.

    Raises DataError naming what is wrong: no folder, no or one class, an empty class, two spellings of one class, a
    test class that train lacks, a dangling link.
    """
    if not path.is_dir():
        raise DataError(f"{path} is not a folder" if path.exists() else f"{path}: no such folder")
    skipped: Counter[str] = Counter()
    parts = _split_folders(path, _folders(path, Counter()))
    if parts is None:
        parts = {"train": path}
    else:
        skipped["folders beside the splits"] += len(_folders(path, skipped)) - len(parts)
    files = {split: files_by_class(folder, skipped) for split, folder in parts.items()}
    classes = check_classes(str(parts["train"]), files["train"])
    for split in sorted(files.keys() - {"train"}):
        check_known(str(parts[split]), files[split], classes)
    examples = {split: class_examples(parts[split], files[split], classes) for split in files}
    keys = [name for label in classes for name in files["train"][label]]
    splits, notes = with_test(str(path), classes, examples, keys)
    left_out = [f"skipped {count} {what}" for what, count in sorted(skipped.items()) if count]
    return Dataset(path.resolve().name, classes, splits, notes=(*notes, *left_out), split=split_rule(files))


def _split_folders(path: Path, folders: list[str]) -> dict[str, Path] | None:
    """Split -> folder, or None when the folders are classes."""
    named = [name for name in folders if name.lower() in SPLITS]
    parts = {SPLITS[name.lower()]: path / name for name in named}
    only_splits = bool(named) and len(named) == len(folders)
    if not only_splits and not {"train", "test"} <= parts.keys():
        return None
    if "train" not in parts:
        raise DataError(f"{path} has {', '.join(named)} but no train folder; add it")
    if len(parts) < len(named):
        raise DataError(f"{path}: {', '.join(named)} are two names for one split; keep one of them")
    if not only_splits and not _folders(parts["train"], Counter()):
        return None  # a class that happens to be called train
    return parts


def _folders(path: Path, skipped: Counter[str]) -> list[str]:
    """Visible folders in `path`, sorted; what else lies there is counted in `skipped`."""
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        raise _unlistable(error) from error
    visible = [name for name in names if not _hidden(name)]
    for name in visible:
        if not (path / name).exists():
            raise DataError(f"{path / name} is a link to nothing; remove or repair it")
    folders = [name for name in visible if (path / name).is_dir()]
    skipped["hidden files or folders"] += len(names) - len(visible)
    skipped["files beside the folders"] += len(visible) - len(folders)
    return folders


def files_by_class(path: Path, skipped: Counter[str]) -> Files:
    """The images of every class folder in `path`; what is left out is counted in `skipped`. Raises DataError."""
    names = _folders(path, skipped)
    if not names:
        raise DataError(f"{path} has no class folders; put the images of each class into a folder named like the class")
    files = {name: _images(path, name, skipped) for name in names}
    for name, images in files.items():
        if not images:
            raise DataError(f"{path / name} has no images; add some or remove the folder")
        if any("\ud800" <= letter <= "\udfff" for letter in name):  # how Python shows bytes that are not UTF-8
            raise DataError(f"{path}: the name of the class folder {name!r} is not UTF-8; rename it")
    return files


def _images(path: Path, label: str, skipped: Counter[str]) -> list[str]:
    found: list[str] = []
    seen: set[str] = set()
    for parent, folders, names in os.walk(path / label, onerror=_raise, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link back to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not _hidden(name))
        for name in names:
            if reason := _not_an_image(name):
                skipped[reason] += 1
                continue
            file = os.path.join(parent, name)
            if not os.path.isfile(file):
                what = "is a link to nothing" if os.path.islink(file) else "is not a regular file"
                raise DataError(f"{file} {what}; remove or repair it")
            found.append(os.path.relpath(file, path).replace(os.sep, "/"))
    return sorted(found)


def _not_an_image(name: str) -> str | None:
    if _hidden(name):
        return "hidden files or folders"
    return None if os.path.splitext(name)[1].lower() in SUFFIXES else "files that are not images"


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _raise(error: OSError) -> None:
    raise _unlistable(error) from error


def _unlistable(error: OSError) -> DataError:
    return DataError(
        f"{error.filename} cannot be listed ({(error.strerror or str(error)).lower()}); check its permissions"
    )


def class_examples(path: Path, files: Files, classes: tuple[str, ...]) -> Examples:
    """The files below `path` in the order of the classes; label = position in `classes`."""
    refs = [FileRef(path / name) for label in classes for name in files.get(label, ())]
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(files.get(label, ())) for label in classes])
    return Examples(tuple(refs), labels)
