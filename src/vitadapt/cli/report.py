"""`vitadapt report` and `vitadapt plot`: a page for the browser, and pictures for papers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import require_any

if TYPE_CHECKING:
    from ..benchmark.results.record import Record
    from ..benchmark.results.store import Store

app = typer.Typer()

Runs = Annotated[Path, typer.Argument(help="A folder made by run or bench.")]
Only = Annotated[
    list[str] | None, typer.Option(help="key=value as in a benchmark file, such as shots=5 or method=lora; repeatable.")
]


@app.command()
def report(
    runs: Runs,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Default: report.html beside the records.")] = None,
    only: Only = None,
) -> None:
    """Write one page with all pictures, tables, commands and versions; it opens in any browser, without a network."""
    from ..report.run_report import write_report

    store, records, damaged = _open(runs, only or [])
    print(write_report(records, store, out or runs / "report.html", damaged))


@app.command()
def plot(
    runs: Runs,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A .png, .svg or .pdf file.")] = None,
    figure: Annotated[
        str, typer.Option(help="accuracy, heatmap, seeds, learning, reliability, cost or search.")
    ] = "accuracy",
    only: Only = None,
) -> None:
    """Draw a picture for a paper: by default accuracy against the number of trainable parameters."""
    from ..report.plot import plot as draw

    store, records, damaged = _open(runs, only or [])
    for line in damaged:
        print(f"vitadapt: {line}", file=sys.stderr)
    print(draw(records, out or runs / f"{figure}.png", figure, store.predictions))


def _open(runs: Path, only: Sequence[str]) -> tuple[Store, list[Record], list[str]]:
    """The store, the records that were asked for, a line for each damaged one. Raises ConfigError or UnknownName."""
    from ..benchmark.results.store import Store
    from ..benchmark.sweep import select_records

    store = Store(runs)
    records, damaged = store.records()
    require_any(runs, records, damaged)
    if only:
        records = select_records(records, only)
    return store, records, damaged
