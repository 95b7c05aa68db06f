"""What several commands share: their options, and what they make of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ..utils.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from ..benchmark.results.record import Record, RecordSummary
    from ..training.features import Environment

Found = TypeVar("Found")
Runs = Annotated[Path, typer.Argument(help="A folder made by run or bench.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for records, predictions and adapters.")]
Cache = Annotated[Path | None, typer.Option(help="Folder for decoded images and features (default: the user's cache).")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Decode images anew each time and store nothing.")]
DataRoot = Annotated[Path | None, typer.Option(help="Folder that holds the files of named datasets.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps; auto takes a GPU when there is one.")]
Moved = Annotated[
    str | None,
    typer.Option("--backbone", "-b", help="Where the model's backbone is now, e.g. file:PATH (default: where it was)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def environment_of(cache: Path | None, no_cache: bool, data_root: Path | None, device: str) -> Environment:
    """Where runs happen. Raises ConfigError when the device cannot be used here."""
    import torch

    from ..data import default_cache
    from ..nn.setting import Setting
    from ..training.features import Environment

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros((), device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device {device} cannot be used here: {reason}") from error
    return Environment(None if no_cache else cache or default_cache(), data_root, Setting(device))


def records_of(runs: Path) -> list[Record]:
    """All records of a folder; damaged ones are told. Raises ConfigError when there is none."""
    from ..benchmark.results.store import Store

    return _told(runs, *Store(runs).records())


def summaries_of(runs: Path) -> list[RecordSummary]:
    """What tables need of all records of a folder, as `records_of`."""
    from ..benchmark.results.index import read_summaries
    from ..benchmark.results.store import Store

    return _told(runs, *read_summaries(Store(runs)))


def _told(runs: Path, found: list[Found], damaged: list[str]) -> list[Found]:
    require_any(runs, found, damaged)
    for line in damaged:
        complain(line)
    return found


def require_any(runs: Path, found: Sized, damaged: Sequence[str]) -> None:
    """Raises ConfigError when there are no records in `runs`, StorageError when none of them can be read."""
    if not found and damaged:
        raise StorageError(f"{runs}: none of its {len(damaged)} records can be read; the first: {damaged[0]}")
    if not found:
        raise ConfigError(f"{runs}: no records yet")


def complain(text: str) -> None:
    """One line on the standard error output."""
    print(f"vitadapt: {text}", file=sys.stderr)
