"""The folder that `fit` writes: may it be written, and what else could it be called."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from ..utils.errors import StorageError
from .fit_record import RECORD

WORK = ".unfinished"


def require_room(out: Path) -> None:
    """Raises StorageError unless `out` is absent, empty, or a model folder."""
    if out.exists() and not out.is_dir():
        raise StorageError(f"{out} is a file; choose another --out")
    if out.is_dir() and any(out.iterdir()) and not (out / RECORD).exists() and not (out / WORK).exists():
        raise StorageError(f"{out} holds other things than a model; choose another --out")


def unused_name(out: Path) -> Path:
    """The first of OUT-2, OUT-3 ... that does not exist."""
    return next(path for number in count(2) if not (path := out.with_name(f"{out.resolve().name}-{number}")).exists())
