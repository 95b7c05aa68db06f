"""Terminal output: tables and the progress of a benchmark. Used by the command line only."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType

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
from rich.table import Table
from rich.text import Text

from .bench import Outcome
from .config import RunConfig, method_text
from .results import Store
from .runner import Environment


def print_columns(head: Sequence[str], body: Sequence[Sequence[str]], left: Sequence[str] = ()) -> None:
    """A table on the standard output; columns named in `left` are left-aligned. Never cut when not on a terminal."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(80, 4 + sum(2 + max(map(len, column)) for column in zip(head, *body, strict=True))))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in head:
        table.add_column(name, justify="left" if name in left else "right", overflow="fold")
    for row in body:
        table.add_row(*map(Text, row))  # plain text: "[offline]" is not markup
    console.print(table, highlight=False)


class BenchDisplay:
    """A bar over the cells with an estimate of the time left, and one for what the present cell is doing."""

    def __init__(self, configs: Sequence[RunConfig], store: Store) -> None:
        self.missing = [config for config in configs if store.get(config.digest()) is None]
        self.total = len(configs)
        self.console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("{task.description}", style="bold"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.cells = self.progress.add_task("cells", total=len(self.missing))
        self.inner: TaskID = self.progress.add_task("", total=None, visible=False)
        self.label, self.name = "", ""

    def __enter__(self) -> BenchDisplay:
        known = self.total - len(self.missing)
        if known:
            self.console.print(f"{known} of {self.total} cells are recorded already", highlight=False)
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def watch(self, environment: Environment) -> Environment:
        """The same environment, reporting here."""
        return replace(environment, setting=replace(environment.setting, progress=self.report))

    def started(self, config: RunConfig) -> None:
        self.name = f"{config.dataset}/{method_text(config.method)}/{config.seed}"
        self.label = ""

    def report(self, label: str, done: int, total: int) -> None:
        """Progress within a cell: `done` of `total` steps of `label`."""
        if label != self.label:
            self.progress.reset(self.inner, total=total, visible=True, description=f"{self.name} {label}")
            self.label = label
            if label.startswith("decoding"):  # worth a line of its own: it tells how much disk is about to be used
                self.console.print(f"         {self.name}: {label}", highlight=False, markup=False)
        self.progress.update(self.inner, completed=done)

    def finished(self, outcome: Outcome) -> None:
        self.progress.update(self.inner, visible=False)
        if not outcome.fresh:
            return
        self.progress.advance(self.cells)
        record = outcome.record
        said = "failed" if record is None else record.status
        if record is not None and record.score is not None:
            said = f"{record.score:.1f} in {sum(record.seconds.values()):.0f} s"
        done = f"{int(self.progress.tasks[0].completed)}/{len(self.missing)}"
        self.console.print(f"{done:>7}  {self.name}: {said}", highlight=False, markup=False)
        sys.stderr.flush()
