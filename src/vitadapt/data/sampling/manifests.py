"""Few-shot subsets as manifests: which images, by content, so that a copy in another order gives the same ones."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from ...utils.errors import DataError, damaged, first_few
from ...utils.files import checksum, parse_checked_json, read_text
from ..class_names import class_key
from ..examples import Dataset, Examples, IndexArray, hexdigest
from ..parallel import each
from ..pixels.hashes import content_digests, pixel_digest
from .few_shot import sample_few_shot

FORMAT = "vitadapt-subset-1"
Manifest = Mapping[str, Any]
_KEYS = {"format", "dataset", "shots", "seed", "images"}


def make_manifest(dataset: Dataset, shots: int, seed: int) -> dict[str, Any]:
    """The few-shot subset of the train split as plain values: content hash, pixel hash and classes of every image.

    Raises DataError when a class has fewer than `shots` images or an image cannot be read.
    """
    train = dataset.splits["train"]
    rows = sample_few_shot(train.labels, shots, seed, classes=dataset.classes)
    chosen = train.take(rows)
    content = content_digests(chosen, None)
    pixels = each(pixel_digest, chosen.refs, "hashing pixels")
    images = [
        {"content": digest, "pixels": shown, "classes": names}
        for digest, shown, names in zip(content, pixels, _class_names(dataset, chosen), strict=True)
    ]
    plain = {"format": FORMAT, "dataset": dataset.name, "shots": shots, "seed": seed, "images": images}
    return {**plain, "checksum": checksum(plain)}


def read_manifest(path: Path) -> Manifest:
    """The manifest in a file. Raises DataError when it is not one."""
    with damaged(path, "make it with 'vitadapt data subset'", DataError, "cannot be read as a subset"):
        table = parse_checked_json(read_text(path), lambda plain: True)  # one written by hand has none
    known = table.get("format") == FORMAT and isinstance(table.get("images"), list)
    if not known or not table["images"] or not all(map(_is_entry, table["images"])):
        raise DataError(f"{path} is not a subset of the format {FORMAT}; make it with 'vitadapt data subset'")
    if strange := sorted(set(table) - _KEYS):
        raise DataError(f"{path} is damaged (unknown key {strange[0]!r}); make it with 'vitadapt data subset'")
    return cast(Manifest, table)


def manifest_digest(manifest: Manifest) -> str:
    """16 hex digits that name the images of a manifest and their order."""
    return hexdigest(json.dumps([entry["content"] for entry in manifest["images"]]))[:16]


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("classes"), list):
        return False
    return isinstance(entry.get("content"), str) and isinstance(entry.get("pixels"), str)


def subset_rows(dataset: Dataset, manifest: Manifest, *, cache: Path | None = None) -> IndexArray:
    """The rows of the train split that `manifest` names, in its order: by content, else by equal pixels.

    Raises DataError when images are missing or have other classes here.
    """
    train, wanted = dataset.splits["train"], manifest["images"]
    found = _match([entry["content"] for entry in wanted], content_digests(train, cache), set())
    if missing := [i for i in range(len(wanted)) if i not in found]:  # another, lossless encoding perhaps
        pixels = list(each(pixel_digest, train.refs, "hashing pixels"))
        again = _match([wanted[i]["pixels"] for i in missing], pixels, set(found.values()))
        found |= {missing[i]: row for i, row in again.items()}
    lost = [wanted[i]["content"] for i in range(len(wanted)) if i not in found]
    if lost:
        raise DataError(
            f"{dataset.name}: {len(lost)} of {len(wanted)} images of the subset are not in train: {first_few(lost)}"
        )
    rows = np.array([found[i] for i in range(len(wanted))], dtype=np.int64)
    _check_classes(dataset, train.take(rows), wanted)
    return rows


def _match(wanted: Sequence[str], present: Sequence[str], used: set[int]) -> dict[int, int]:
    """Position in `wanted` -> position in `present`; each serves once, the first of equal ones first."""
    places: dict[str, list[int]] = defaultdict(list)
    for row in range(len(present) - 1, -1, -1):
        if row not in used:
            places[present[row]].append(row)
    return {i: places[digest].pop() for i, digest in enumerate(wanted) if places.get(digest)}


def _check_classes(dataset: Dataset, chosen: Examples, wanted: Sequence[Manifest]) -> None:
    pairs = zip(chosen.refs, _class_names(dataset, chosen), wanted, strict=True)
    wrong = [
        f"{ref.name} is {'|'.join(found)}, not {'|'.join(map(str, entry['classes']))}"
        for ref, found, entry in pairs
        if sorted(map(class_key, found)) != sorted(class_key(str(name)) for name in entry["classes"])
    ]
    if wrong:
        raise DataError(
            f"{dataset.name}: {len(wanted)} images were found, {len(wrong)} with other classes: {first_few(wrong)}"
        )


def _class_names(dataset: Dataset, examples: Examples) -> list[list[str]]:
    if examples.multilabel:
        return [[dataset.classes[c] for c in np.flatnonzero(row)] for row in examples.labels]
    return [[dataset.classes[label]] for label in examples.labels.tolist()]
