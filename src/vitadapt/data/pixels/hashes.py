"""Content hashes of images, remembered per file so that a data set is read for hashing once only."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from PIL import Image

from ...utils.progress import Progress
from ..examples import Examples, ImageRef, Stamped, hexdigest
from ..images import to_upright_rgb
from ..parallel import each

_FILE = "digests.sqlite"
_DIGEST = 32  # hexadecimal digits
_TABLE = "CREATE TABLE IF NOT EXISTS digests (stamp TEXT PRIMARY KEY, digest TEXT NOT NULL) WITHOUT ROWID"


def content_digests(
    examples: Examples, cache: Path | None, progress: Progress | None = None, workers: int | None = None
) -> list[str]:
    """The content hash of every image, in order.

    Hashes of files are remembered in the folder `cache` under path, size and times; None remembers nothing.
    Raises one DataError that names all images that cannot be read.
    """
    stamps: dict[int, str] = {}
    known: dict[str, str] = {}
    if cache:
        pairs = ((i, ref.stamp()) for i, ref in enumerate(examples.refs) if isinstance(ref, Stamped))
        stamps = {i: stamp for i, stamp in pairs if stamp is not None}
        known = _recall(cache, sorted(set(stamps.values())))
    digests = {i: known[stamp] for i, stamp in stamps.items() if stamp in known}
    missing = [i for i in range(len(examples)) if i not in digests]
    fresh = each(lambda i: examples.refs[i].digest(), missing, "hashing", progress, workers)
    new = dict(zip(missing, fresh, strict=True))
    if cache:
        _remember(cache, [(stamps[i], digest) for i, digest in new.items() if i in stamps])
    digests.update(new)
    return [digests[i] for i in range(len(examples))]


def _recall(cache: Path, stamps: list[str]) -> dict[str, str]:
    if not stamps or not (cache / _FILE).exists():
        return {}
    try:
        with closing(sqlite3.connect(cache / _FILE, timeout=10)) as memory:
            find = "SELECT stamp, digest FROM digests WHERE stamp = ?"
            rows = [row for stamp in stamps for row in memory.execute(find, (stamp,))]
    except sqlite3.Error:  # damaged or locked: hashing again costs time, not correctness
        return {}
    return {stamp: row[:_DIGEST] for stamp, row in rows if row == _sealed(stamp, row[:_DIGEST])}


def _remember(cache: Path, rows: list[tuple[str, str]]) -> None:
    if not rows:
        return
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(cache / _FILE, timeout=10)) as memory, memory:
            memory.execute(_TABLE)
            sealed = [(stamp, _sealed(stamp, digest)) for stamp, digest in rows]
            memory.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?)", sealed)
    except (OSError, sqlite3.OperationalError):  # locked, read-only, disk full: nothing is lost
        return
    except sqlite3.DatabaseError:  # not a database (any more): start afresh next time
        (cache / _FILE).unlink(missing_ok=True)


def _sealed(stamp: str, digest: str) -> str:
    """The digest with a check behind it, because SQLite does not notice a flipped byte."""
    return digest + hexdigest(stamp, digest)[:8]


def pixel_digest(ref: ImageRef) -> str:
    """The hash of the upright RGB pixels: the same for every lossless storage of an image. Raises DataError."""
    return rgb_digest(to_upright_rgb(ref.read(), ref.name))


def rgb_digest(image: Image.Image) -> str:
    """The hash of the pixels of an upright RGB image."""
    return hexdigest(image.tobytes(), f"\0{image.size}")
