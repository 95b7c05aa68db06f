"""WebDataset shards: `train/0.tar`, `train/1.tar`, .. with `KEY.webp` beside `KEY.cls` (or `KEY.npy`), read in place.

Options: `repo` (the name of the published copy, also that of its folder below the data root), `notes` (what is
peculiar to it), `grouped` (it tells finer levels apart: as many neighbouring ones as fit make a class).
"""

from __future__ import annotations

import io
import os
import tokenize
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...utils.errors import DataError
from ...utils.limits import LABEL_FILE
from ..archives import MemberRef, tar_members
from ..class_names import relabel
from ..download.files import require_whole
from ..examples import Examples, ImageRef, LabelArray
from ..images import SUFFIXES
from .helpers import integer, text_of
from .reader import READERS, CatalogRow, Contents, Options, Reader, in_order

_NAMES, _COUNT = "classnames.txt", "nshards.txt"
_NO_LABEL = (  # numpy reads the head of a .npy file as a Python literal, which it may split into tokens before
    *(ValueError, TypeError, EOFError, OverflowError, MemoryError, RecursionError),
    *(SyntaxError, tokenize.TokenError),
)
_SHARDS = 100_000  # more than any data set has
Sample = tuple[ImageRef, npt.NDArray[np.generic]]


def places(options: Options, root: Path | None) -> list[str]:
    """The published name below the data root, as it is or below its publisher's."""
    return [str(root / options["repo"].rpartition("/")[2]), str(root / options["repo"])] if root else []


def has(options: Options, place: str) -> bool:
    """Are the class names and a first shard of both splits there?"""
    folder = Path(place)
    return (folder / _NAMES).is_file() and all((folder / split / "0.tar").is_file() for split in ("train", "test"))


def read(row: CatalogRow, options: Options, place: str) -> Contents:
    """Train and test in the order of the shards. Raises DataError naming the shard that is missing or damaged."""
    folder = Path(place)
    _require_whole(row, folder / _NAMES)
    lines = (line.strip() for line in text_of(folder / _NAMES).strip().splitlines())
    names = [line for line in lines if line or "" in row.spellings]
    doubts: tuple[str, ...] = ()
    if options.get("grouped"):
        order = tuple(level * len(row.classes) // len(names) for level in range(len(names)))
    else:
        order, doubts = in_order(row, names, str(folder / _NAMES))
    splits = {split: _split(row, folder / split, order) for split in ("train", "test")}
    sizes = {split: len(examples) for split, examples in splits.items()}
    native = any(row.sizes.get(split) != size for split, size in sizes.items())
    notes = [f"native split: that of {options['repo']}"] if native else []
    numbering = () if options.get("grouped") else order
    return Contents(splits, (*notes, *options.get("notes", ())), numbering, "native" if native else "", doubts)


READERS.register("webdataset")(Reader(places, has, read))


def _require_whole(row: CatalogRow, path: Path) -> None:
    if path.exists():
        require_whole(path, f"fetch it again: vitadapt data fetch {row.name} --from hub")


def _split(row: CatalogRow, folder: Path, order: tuple[int, ...]) -> Examples:
    shards = _shards(folder)
    if lost := next((shard for shard in shards if not shard.is_file()), None):
        raise DataError(
            f"{lost} is missing, {len(shards)} shards are expected; fetch the rest: vitadapt data fetch {row.name} "
            "--from hub, or the option --download"
        )
    for file in (folder / _COUNT, *shards):
        _require_whole(row, file)
    samples = [sample for shard in shards for sample in _samples(shard)]
    refs = tuple(ref for ref, _ in samples)
    wanted = (len(order),) if row.multilabel else ()
    if wrong := next((ref.name for ref, label in samples if label.shape != wanted), None):
        raise DataError(f"{wrong}: its label does not fit {len(order)} classes; get the data again")
    labels: LabelArray = np.array([label for _, label in samples], dtype=np.int64).reshape(-1, *wanted)
    renumbered = relabel(labels, order, str(folder))  # multi-hot labels are 0 and 1, see `_label`
    return Examples(refs, renumbered.astype(np.uint8) if row.multilabel else renumbered)


def missing_shards(place: str) -> list[Path]:
    """The shards of train and test that are expected at `place` and not there, as after an interrupted download."""
    return [shard for split in ("train", "test") for shard in _shards(Path(place) / split) if not shard.is_file()]


def _shards(folder: Path) -> list[Path]:
    """0.tar, 1.tar, ..: as many as nshards.txt says, else as there are."""
    stated = folder / _COUNT
    there = stated.exists()
    count = integer(str(stated), text_of(stated).strip()) if there else len(list(folder.glob("*.tar")))
    if not 0 <= count <= _SHARDS:
        raise DataError(f"{stated} says {count} shards, outside 0..{_SHARDS}; get the data again")
    return [folder / f"{number}.tar" for number in range(count)]


def _samples(shard: Path) -> Iterator[Sample]:
    parts: dict[str, dict[str, MemberRef]] = defaultdict(dict)
    for name, ref in tar_members(shard).items():
        directory, base = os.path.split(name)
        key, _, suffix = base.partition(".")
        parts[os.path.join(directory, key)][f".{suffix.lower()}"] = ref
    for key, files in parts.items():
        images = [ref for suffix, ref in files.items() if suffix in SUFFIXES]
        if len(images) != 1 or (".cls" in files) == (".npy" in files):
            raise DataError(f"{shard}: {key} is not one image with one label (.cls or .npy); get the shard again")
        yield images[0], _label(files)


def _label(files: Mapping[str, MemberRef]) -> npt.NDArray[np.generic]:
    """() for one class, (C,) for several."""
    ref = files.get(".cls") or files[".npy"]
    if ref.size > LABEL_FILE:
        raise DataError(f"{ref.name} is too large for a label; get the shard again")
    try:
        if ".cls" in files:
            return np.array(integer(ref.name, ref.data().decode("ascii")))
        label = np.lib.format.read_array(io.BytesIO(ref.data()), allow_pickle=False)
    except _NO_LABEL as error:
        raise DataError(f"{ref.name} is not a label; get the shard again") from error
    if label.dtype.kind not in "biuf" or not np.isin(label, (0, 1)).all():
        raise DataError(f"{ref.name} is not a label of zeros and ones; get the shard again")
    return label
