"""`vitadapt plan`: what a benchmark will cost, before it starts."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import AsJson, Cache, DataRoot, Device, NoCache, environment_of

if TYPE_CHECKING:
    from ..benchmark.plan import Estimate

app = typer.Typer()

EXPLAINED = """hours: at most, on this machine as busy as it is now, a cell at a time; decoding images comes on top
disk: decoded images, features, adapters and predictions; memory: the most that this process held while measuring"""


@app.command()
def plan(
    recipe: Annotated[Path, typer.Argument(help="A benchmark file (TOML), or a name of 'vitadapt list recipes'.")],
    only: Annotated[
        list[str] | None, typer.Option(help="Only these cells, e.g. shots=5 or dataset=dtd; repeatable.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="What is recorded there is done. Default: as bench.")
    ] = None,
    cache: Cache = None,
    no_cache: NoCache = False,
    data_root: DataRoot = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure a few steps of each method and print hours, disk and memory of what a benchmark still has to do."""
    from ..benchmark.plan import plan as planned
    from ..benchmark.plan import total
    from ..benchmark.results.store import Store
    from ..benchmark.sweep import check_names, read_bench, select

    cells = select(read_bench(recipe), only or [])
    check_names(cells)
    store = Store(out or Path("runs") / recipe.stem)
    rows = planned(cells, store, environment_of(cache, no_cache, data_root, device))
    if as_json:
        print(json.dumps([asdict(row) for row in [*rows, total(rows)]], indent=1))
        return
    _print([*rows, total(rows)])


def _print(rows: list[Estimate]) -> None:
    from .tables import print_columns

    body = [
        [r.dataset, r.protocol, str(r.cells), _hours(r.hours), _size(r.disk_mb), _size(r.memory_mb), "; ".join(r.notes)]
        for r in rows
    ]
    head = ["dataset", "protocol", "cells", "hours", "disk", "memory", ""]
    print_columns(head, body, left=("dataset", "protocol", ""))
    print("\n" + EXPLAINED)


def _hours(hours: float) -> str:
    return f"{hours:.2f}" if hours < 10 else f"{hours:,.0f}"


def _size(mb: float) -> str:
    return f"{mb:.0f} MB" if mb < 1000 else f"{mb / 1000:.1f} GB"
