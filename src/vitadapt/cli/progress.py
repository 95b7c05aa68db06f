"""The progress of a benchmark on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ..benchmark.config import RunConfig
from ..benchmark.parallel.watch import Outcome, Watch
from ..benchmark.results.record import Record
from ..methods.spec import method_text
from ..utils.errors import printable


class BenchDisplay(Watch):
    """Bars over all cells, with the time left, and over each running cell; lines where there is no terminal."""

    def __init__(self, on_record: Callable[[Record], None] = lambda _: None) -> None:
        self.on_record = on_record  # called with every new record
        self.console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
            speed_estimate_period=float("inf"),  # cells are slow and few: their mean over all that was seen
        )
        self.cells = self.progress.add_task("cells", total=None)
        self.missing = self.done = 0
        self.bars: dict[RunConfig, TaskID] = {}
        self.labels: dict[RunConfig, str] = {}

    def surveyed(self, total: int, missing: int) -> None:
        if not total:
            self.note("no cells here")
        if missing < total:
            self.note(f"{total - missing} of {total} cells are recorded already")
        self.missing = missing
        self.progress.reset(self.cells, total=missing)

    def started(self, config: RunConfig) -> None:
        if len(self.bars) < self.console.height - 4:
            self.bars[config] = self.progress.add_task(_cell_name(config), total=None)

    def advanced(self, config: RunConfig, label: str, done: int, total: int) -> None:
        bar = self.bars.get(config)
        if label != self.labels.get(config):
            self.labels[config] = label
            if bar is not None:
                self.progress.reset(bar, total=total, description=f"{_cell_name(config)} {label}")
            if label.startswith("decoding"):  # a line of its own: it has the size of the cache
                self.note(f"         {_cell_name(config)}: {label}")
        if bar is not None:
            self.progress.update(bar, completed=done)

    def finished(self, outcome: Outcome) -> None:
        self._leave(outcome.config)
        self.progress.advance(self.cells)
        self.done += 1
        record = outcome.record
        if record is not None:
            self.on_record(record)
        text = "failed" if record is None else record.status
        if record is not None and record.score is not None:
            text = f"{record.score:.1f} in {sum(record.seconds.values()):.0f} s"
        self.note(f"{f'{self.done}/{self.missing}':>7}  {_cell_name(outcome.config)}: {text}")

    def stopped(self, config: RunConfig, why: str) -> None:
        self._leave(config)
        self.note(f"         {_cell_name(config)}: {why}")

    def note(self, text: str) -> None:
        self.console.print(printable(text), highlight=False, markup=False)
        sys.stderr.flush()

    def _leave(self, config: RunConfig) -> None:
        self.labels.pop(config, None)
        bar = self.bars.pop(config, None)
        if bar is not None:
            self.progress.remove_task(bar)


def _cell_name(config: RunConfig) -> str:
    return printable(f"{Path(config.dataset).name}/{method_text(config.method)}/{config.seed}")
