"""Options that several commands share, and what commands make of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence, Sized
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer
from typer import Argument, Option

from ..utils.errors import ConfigError, StorageError
from .output import complain

if TYPE_CHECKING:
    from ..benchmark.results.record import Record, RecordSummary
    from ..training.features import Environment
    from ..utils.tracking import Tracker

Found = TypeVar("Found", bound="RecordSummary")
Function = TypeVar("Function", bound=Callable[..., Any])

Precision = Literal["fp32", "bf16"]
TableFormat = Literal["text", "md", "csv", "latex", "json"]
SuggestRule = Literal["margin", "coreset", "uncertainty", "random"]
OFFLINE = "dinov2-s14-offline"

AsJson = Annotated[bool, Option("--json", help="Print JSON for programs.")]
Form = Annotated[TableFormat, Option("--format", "-f", help="How the table is printed.")]
Runs = Annotated[Path, Argument(help="A folder made by run or bench.")]
Digests = Annotated[list[str] | None, Argument(help="Digests of records, or how they begin (default: all).")]
ModelFolder = Annotated[Path, Argument(help="A folder made by fit, or an adapter file.")]
BenchmarkFile = Annotated[Path, Argument(help="A benchmark file (TOML), or a name from 'vitadapt list recipes'.")]
DatasetName = Annotated[str, Argument(help="A name, a folder of class folders, or a list (.csv .json .xml).")]

Backbone = Annotated[str, Option("--backbone", "-b", help="See 'vitadapt list backbones'.")]
MovedBackbone = Annotated[
    str | None, Option("--backbone", "-b", help="Where the backbone is now (default: where it was).")
]
Out = Annotated[Path, Option("--out", "-o", help="Folder for records, predictions and adapters.")]
Cache = Annotated[Path | None, Option(help="Folder for decoded images and features (default: the user's cache).")]
NoCache = Annotated[bool, Option("--no-cache", help="Decode images each time and store nothing.")]
DataRoot = Annotated[Path | None, Option(help="Folder that holds the files of named datasets.")]
Device = Annotated[str, Option(help="cpu, cuda, cuda:1 or mps; auto takes a GPU when there is one.")]
PrecisionOption = Annotated[Precision, Option("--precision", help="bf16: autocast.")]
ImageSize = Annotated[int | None, Option(help="Pixels; a multiple of the patch size (default: the backbone's own).")]
Download = Annotated[bool, Option("--download", help="Fetch named datasets that are missing into --data-root.")]
Cells = Annotated[list[str] | None, Option("--only", help="Only these cells, e.g. shots=5 or method=lora; repeatable.")]
Separator = Annotated[str | None, Option("--label-separator", help="Between several labels in a cell of a CSV file.")]
Prior = Annotated[str | None, Option(help="Shares of the classes to expect: data, uniform, or JSON {class: share}.")]
ClassNames = Annotated[str | None, Option(help="A file of class names: one per line, or JSON {class: name}.")]
Template = Annotated[list[str] | None, Option(help="A sentence with {} for the class name; repeatable.")]
Knowledge = Annotated[str, Option(help="Facts about the classes: path=FILE.json, or path=DIR,dictionary=NAME,gpt3=5.")]

Track = Annotated[
    str | None, Option(help="mlflow, wandb, tensorboard or trackio; behind a colon where to: tensorboard:FOLDER.")
]

IMAGES, BENCHMARK, LEADERBOARD, LOOK_UP = "Your images", "Benchmark", "Leaderboard", "Look up"


def command(app: typer.Typer, panel: str, example: str, name: str | None = None) -> Callable[[Function], Function]:
    """Decorator: make a command of a function. Its help is `example`, then the function's documentation."""

    def register(function: Function) -> Function:
        text = inspect.getdoc(function) or ""
        words = " ".join(text.split())
        return app.command(
            name, help=f"Example: {example}\n\n{words}", short_help=text.splitlines()[0], rich_help_panel=panel
        )(function)

    return register


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


def device_of(device: str) -> str:
    """The device that `--device` means. Raises ConfigError when it cannot be used here."""
    return environment_of(None, True, None, device).setting.device


def tracked_or_not(spec: str | None, name: str) -> AbstractContextManager[Tracker | None]:
    """A run called `name` of what `--track` names; None without it."""
    from ..utils.tracking import tracked

    return nullcontext() if spec is None else tracked(spec, name)


def records_of(runs: Path, only: Sequence[str] | None = None) -> list[Record]:
    """The records of a folder that fit `only`; damaged ones are named. Raises ConfigError when there is none."""
    from ..benchmark.results.store import Store

    return readable(runs, *Store(runs).records(), only)


def summaries_of(runs: Path, only: Sequence[str] | None = None) -> list[RecordSummary]:
    """What tables need of the records of a folder, as `records_of`."""
    from ..benchmark.results.index import read_summaries
    from ..benchmark.results.store import Store

    return readable(runs, *read_summaries(Store(runs)), only)


def readable(runs: Path, found: list[Found], damaged: list[str], only: Sequence[str] | None) -> list[Found]:
    """What was `found` in `runs` and fits `only`; what is damaged is complained of. Raises ConfigError for nothing."""
    require_any(runs, found, damaged)
    for line in damaged:
        complain(line)
    if not only:
        return found
    from ..benchmark.sweep import select_records

    return select_records(found, only)


def require_any(runs: Path, found: Sized, damaged: Sequence[str]) -> None:
    """Raises ConfigError when there are no records in `runs`, StorageError when none of them can be read."""
    if not found and damaged:
        raise StorageError(f"{runs}: none of its {len(damaged)} records can be read; the first: {damaged[0]}")
    if not found:
        raise ConfigError(f"{runs}: no records yet")
